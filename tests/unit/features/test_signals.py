"""One list of checks over every signal that decays: a new signal is tested by being listed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from headwater_client.event_types import CLICK

from features import decay, rows
from features.inputs import user_features
from features.rows import Observation, apply_event, apply_item_event, empty_group, empty_user
from features.schema import FeatureSchema
from features.settings import HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash

SCHEMA = FeatureSchema(
    FeatureSettings(
        user_half_lives_ms=(HOUR_MS,),
        category_half_lives_ms=(HOUR_MS,),
        item_half_lives_ms=(HOUR_MS,),
    )
)
START_MS = 1_700_000_000_000
CATEGORY = hash64("c")
# Of events at any time, what a signal is worth at another.
Signal = Callable[[Sequence[Observation], int], Sequence[float]]


def click(number: int, minutes: int = 0) -> Observation:
    item, source = hash64("i"), source_hash("t", 0)
    time_ms = START_MS + minutes * 60_000
    event = hash64(f"e{number}")
    return Observation(CLICK.code, "u", "i", item, time_ms, event, source, number, (CATEGORY,))


def read_counters(events: Sequence[Observation], time_ms: int) -> Sequence[float]:
    row = empty_user(SCHEMA)
    for event in events:
        apply_event(row, event, SCHEMA)
    return decay.read(row.counters, row.reference_ms, time_ms, SCHEMA.user_half_lives)


def read_categories(events: Sequence[Observation], time_ms: int) -> Sequence[float]:
    row = empty_user(SCHEMA)
    for event in events:
        apply_event(row, event, SCHEMA)
    values = row.categories.get(CATEGORY, [0.0])
    return decay.read(values, row.reference_ms, time_ms, SCHEMA.category_half_lives)


def read_popularity(events: Sequence[Observation], time_ms: int) -> Sequence[float]:
    group = empty_group(SCHEMA)
    for event in events:
        apply_item_event(group, event, SCHEMA)
    return rows.popularity([(CLICK.code, group)], time_ms, SCHEMA)


def read_features(events: Sequence[Observation], time_ms: int) -> Sequence[float]:
    row = empty_user(SCHEMA)
    for event in events:
        apply_event(row, event, SCHEMA)
    return user_features(row, time_ms, SCHEMA)


COUNTED: list[Signal] = [read_counters, read_categories, read_popularity]
SIGNALS: list[Signal] = [*COUNTED, read_features]


@pytest.mark.parametrize("signal", SIGNALS)
def test_without_events_it_is_nothing(signal: Signal) -> None:
    assert set(signal([], START_MS)) == {0.0}


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_replay_changes_nothing(signal: Signal) -> None:
    events = [click(0), click(1, minutes=10)]
    assert signal([*events, *events], START_MS) == signal(events, START_MS)


@pytest.mark.parametrize("signal", SIGNALS)
def test_late_events_count_as_if_they_had_been_in_time(signal: Signal) -> None:
    """In the order of their offsets, whatever their times are."""
    in_time = [click(0, minutes=0), click(1, minutes=40), click(2, minutes=90)]
    late = [click(0, minutes=90), click(1, minutes=0), click(2, minutes=40)]
    now_ms = START_MS + 2 * HOUR_MS
    assert signal(late, now_ms) == pytest.approx(signal(in_time, now_ms))


@pytest.mark.parametrize("signal", SIGNALS)
def test_it_never_grows_with_time_alone(signal: Signal) -> None:
    events = [click(0), click(1, minutes=10)]
    times_ms = [START_MS + minutes * 60_000 for minutes in (10, 11, 60, 600)]
    read = [signal(events, time_ms) for time_ms in times_ms]
    assert all(
        later <= earlier
        for before, after in pairwise(read)
        for earlier, later in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("signal", COUNTED)
def test_a_half_life_leaves_a_half(signal: Signal) -> None:
    events = [click(0), click(1)]
    now, later = signal(events, START_MS), signal(events, START_MS + HOUR_MS)
    assert now[0] == 2.0
    assert later[0] == 1.0


@pytest.mark.parametrize("signal", COUNTED)
def test_a_look_back_does_not_make_it_grow(signal: Signal) -> None:
    assert signal([click(0, minutes=60)], START_MS) == signal(
        [click(0, minutes=60)], START_MS + HOUR_MS
    )
