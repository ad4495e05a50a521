"""Whatever the order, the duplicates and the replays: the same rows as a sum over the log."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.decay import read
from features.rows import (
    Observation,
    UserRow,
    apply_event,
    apply_item_event,
    empty_group,
    empty_user,
)
from features.schema import FeatureSchema
from features.settings import DAY_MS, HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash

SCHEMA = FeatureSchema(FeatureSettings(history_length=8))
START_MS = 1_600_000_000_000

events = st.lists(
    st.tuples(
        st.sampled_from(SCHEMA.event_codes),
        st.integers(0, 5),
        # Weeks apart, and many in the same instant.
        st.integers(0, 60).map(lambda hours: START_MS + hours * 12 * HOUR_MS),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=40,
)


def log(drawn: Sequence[tuple[int, int, int, int]]) -> list[Observation]:
    return [
        Observation(
            kind,
            "u",
            f"i{item}",
            hash64(f"i{item}"),
            time_ms,
            hash64(f"e{number}"),
            source_hash("t", 0),
            number,
            (hash64(f"c{category}"),),
        )
        for number, (kind, item, time_ms, category) in enumerate(drawn)
    ]


def in_order(events: Sequence[Observation]) -> list[Observation]:
    """The events as a partition would hold them in this order."""
    return [event._replace(offset=offset) for offset, event in enumerate(events)]


def row_of(events: Sequence[Observation]) -> UserRow:
    row = empty_user(SCHEMA)
    for event in events:
        apply_event(row, event, SCHEMA)
    return row


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def sum_decayed(events: Sequence[Observation], kind: int, half_life: float) -> float:
    """A counter by its definition: every event's weight, decayed to the newest event's time."""
    newest = max(event.time_ms for event in events)
    return sum(2.0 ** (-(newest - e.time_ms) / half_life) for e in events if e.type == kind)


@given(events)
def test_counters_equal_the_sum_over_the_log(drawn: list[tuple[int, int, int, int]]) -> None:
    row = row_of(log(drawn))
    expected = [
        sum_decayed(log(drawn), kind, half_life)
        for kind in SCHEMA.event_codes
        for half_life in SCHEMA.user_half_lives
    ]
    assert row.counters == [close(value) for value in expected]


@given(events, st.randoms(use_true_random=False))
def test_order_of_arrival_changes_no_feature(
    drawn: list[tuple[int, int, int, int]], chance: random.Random
) -> None:
    shuffled = log(drawn)
    chance.shuffle(shuffled)
    one, other = row_of(log(drawn)), row_of(in_order(shuffled))
    assert other.history == one.history
    assert other.seen == one.seen
    assert other.counters == [close(value) for value in one.counters]
    assert other.categories.keys() == one.categories.keys()
    for name, values in one.categories.items():
        assert other.categories[name] == [close(value) for value in values]


@given(events, st.integers(0, 40), st.integers(0, 40))
def test_a_replay_from_any_offset_changes_nothing(
    drawn: list[tuple[int, int, int, int]], crash: int, restart: int
) -> None:
    whole = log(drawn)
    crash = min(crash, len(whole))
    replayed = whole[:crash] + whole[min(restart, crash) :]
    assert row_of(replayed) == row_of(whole)


@given(events, st.data())
def test_an_event_sent_again_changes_nothing(
    drawn: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    whole = log(drawn)
    again = data.draw(st.lists(st.sampled_from(whole), max_size=10))
    with_copies = row_of(in_order(whole + again))
    once = row_of(whole)
    assert with_copies.counters == once.counters
    assert with_copies.history == once.history
    assert with_copies.dedup_ids == once.dedup_ids


@given(events, st.integers(1, 4))
@settings(max_examples=50)
def test_an_items_groups_add_up_whatever_the_number_of_sources(
    drawn: list[tuple[int, int, int, int]], sources: int
) -> None:
    whole = log(drawn)
    later = max(event.time_ms for event in whole) + DAY_MS
    groups = [empty_group(SCHEMA) for _ in range(sources)]
    for event in whole:
        apply_item_event(groups[event.offset % sources], event, SCHEMA)
    one = empty_group(SCHEMA)
    for event in whole:
        apply_item_event(one, event, SCHEMA)
    totals = [
        sum(parts)
        for parts in zip(
            *(read(g.values, g.reference_ms, later, SCHEMA.item_half_lives) for g in groups),
            strict=True,
        )
    ]
    alone = read(one.values, one.reference_ms, later, SCHEMA.item_half_lives)
    assert totals == [close(value) for value in alone]
