"""What takes an event back, and what speaks against an item, in any order of arrival."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import decay
from features.rows import (
    Observation,
    UserRow,
    apply_event,
    empty_user,
    find_item_event,
    observation,
)
from features.schema import FeatureSchema
from features.settings import HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash
from tests.harness.builders import CHANGE_ROWS, make_interaction

START_MS = 1_600_000_000_000
SOURCE = source_hash("t", 0)
TAKES = {"return": "purchase", "remove_from_cart": "add_to_cart"}

drawn_events = st.lists(
    st.tuples(
        st.sampled_from(CHANGE_ROWS), st.integers(0, 5), st.integers(0, 60), st.integers(0, 30)
    ),
    min_size=1,
    max_size=40,
)
Drawn = list[tuple[str, int, int, int]]


def make_log(drawn: Drawn) -> list[Observation]:
    """Events of times of their own; one that takes back names another one, if there is any."""
    times = {n: START_MS + hours * 12 * HOUR_MS + n for n, (*_, hours, _) in enumerate(drawn)}
    log, taken = [], set[int]()
    for number, (name, item, _, choice) in enumerate(drawn):
        fields: dict[str, Any] = {"event_id": f"e{number}", "item_id": f"i{item}"}
        fields["timestamp"] = times[number]
        if name in TAKES:
            could = [n for n, each in enumerate(drawn) if each[0] == TAKES[name]]
            free = [n for n in could if n not in taken]
            if not free:
                continue
            other = free[choice % len(free)]
            taken.add(other)
            fields |= {"item_id": f"i{drawn[other][1]}", "taken_time": times[other]}
            fields["timestamp"] = max(times[number], times[other])
        event = make_interaction(name, **fields)
        categories = (hash64(f"c{event.item_id}"),)
        log.append(observation(event, SOURCE, number, categories))
    return log


def absorb(events: Sequence[Observation], schema: FeatureSchema) -> UserRow:
    row = empty_user(schema)
    for offset, event in enumerate(events):
        apply_event(row, event._replace(offset=offset), schema)
    return row


def close(values: Sequence[float]) -> object:
    return pytest.approx(values, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("length", [8, 64])
@settings(max_examples=200, deadline=None)
@given(drawn=drawn_events, chance=st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_feature(
    length: int, drawn: Drawn, chance: random.Random
) -> None:
    schema = FeatureSchema(FeatureSettings(history_length=length))
    log = make_log(drawn)
    shuffled = log[:]
    chance.shuffle(shuffled)
    one, other = absorb(log, schema), absorb(shuffled, schema)
    assert other.history == one.history
    assert other.seen == one.seen
    assert other.counters == close(one.counters)
    assert other.categories.keys() == one.categories.keys()
    for name, values in one.categories.items():
        assert other.categories[name] == close(values)


@settings(max_examples=200, deadline=None)
@given(drawn=drawn_events, chance=st.randoms(use_true_random=False))
def test_counters_are_those_of_what_was_not_taken_back(drawn: Drawn, chance: random.Random) -> None:
    schema = FeatureSchema(FeatureSettings())
    log = make_log(drawn)
    gone = {(schema.takes_back[e.type], e.item, e.taken_ms) for e in log if e.taken_ms}
    kept = [e for e in log if e.taken_ms is None and (e.type, e.item, e.time_ms) not in gone]
    chance.shuffle(log)
    row, expected = absorb(log, schema), absorb(kept, schema)
    # The newest event may be one that was taken back: both are read as of the same time.
    later_ms = max(row.reference_ms, expected.reference_ms)
    lives = schema.user_half_lives
    found, wanted = (
        decay.read(each.counters, each.reference_ms, later_ms, lives) for each in (row, expected)
    )
    assert found == close(wanted)
    assert found[len(lives) - 1 :: len(lives)] == wanted[len(lives) - 1 :: len(lives)]


@pytest.mark.parametrize("length", [1, 8])
@settings(max_examples=100, deadline=None)
@given(
    drawn=drawn_events,
    times=st.lists(st.integers(1, 3), min_size=40, max_size=40),
    chance=st.randoms(use_true_random=False),
)
def test_several_that_take_one_event_back_take_it_back_once(
    length: int, drawn: Drawn, times: list[int], chance: random.Random
) -> None:
    """Each with an id of its own, however old what they name is, and for items too."""
    schema = FeatureSchema(FeatureSettings(history_length=length, dedup_window=1000))
    log = make_log(drawn)
    again = [
        each._replace(event=hash64(f"{each.event}/{number}"))
        for each, copies in zip(log, times, strict=False)
        for number in range(copies if each.taken_ms is not None else 1)
    ]
    chance.shuffle(again)
    one, other = absorb(log, schema), absorb(again, schema)
    assert other.history == one.history
    assert other.counters == close(one.counters)
    counted, row = list[tuple[int, int, int | None]](), empty_user(schema)
    for offset, event in enumerate(again):
        found = find_item_event(row, event._replace(offset=offset), schema)
        if found is not None and event.taken_ms is not None:
            counted.append((event.type, event.item, event.taken_ms))
        apply_event(row, event._replace(offset=offset), schema)
    assert len(counted) == len(set(counted))
