"""The time of an event: a wrong clock is clamped or refused, and spoils nobody's counters."""

from __future__ import annotations

import json

import pytest
from headwater_client.errors import EventError
from headwater_client.event_types import CLICK

from features.events import EventReader, latest_reference_ms
from features.rows import (
    apply_event,
    apply_item_event,
    empty_group,
    empty_user,
    observation,
    recover_group,
    recover_user,
)
from features.schema import FeatureSchema
from features.settings import DAY_MS, HOUR_MS, EventSettings, FeatureSettings, WrongTime
from features.topics import source_hash

NOW_MS = 1_790_000_000_000
YEAR_2200_MS = 7_258_118_400_000
SCHEMA = FeatureSchema(FeatureSettings())
SOURCE = source_hash("id", 0)


class Reads:
    """A reader at a fixed moment, and what it has counted."""

    def __init__(self, now_ms: int = NOW_MS, **settings: object) -> None:
        self.reasons: list[str] = []
        self._reader = EventReader(
            EventSettings.model_validate(settings),
            lambda _, reason: self.reasons.append(reason),
            lambda: now_ms,
        )

    def __call__(self, time_ms: int, message_ms: int | None) -> int:
        """The time that an event counts as of."""
        return self._reader.read(CLICK.topic, raw(time_ms), message_ms).timestamp


def raw(time_ms: int) -> bytes:
    event = {"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": time_ms}
    return json.dumps(event).encode()


@pytest.mark.parametrize("message_ms", [None, -1, 0, 1_000_000, 978_307_200_000, YEAR_2200_MS])
def test_a_time_of_kafka_that_cannot_be_refuses_no_good_event(message_ms: int | None) -> None:
    read = Reads()
    assert read(NOW_MS - 5, message_ms) == NOW_MS - 5
    assert read.reasons == ["arrival"]


@pytest.mark.parametrize("message_ms", [YEAR_2200_MS, 0, NOW_MS])
def test_an_event_of_the_year_2200_is_refused_whatever_kafka_says(message_ms: int) -> None:
    read = Reads()
    with pytest.raises(EventError, match=f"timestamp: {YEAR_2200_MS}: is in the future"):
        read(YEAR_2200_MS, message_ms)
    assert read.reasons[-1] == "ahead"


def test_where_kafka_says_nothing_the_refusal_names_the_clock_that_decided() -> None:
    with pytest.raises(EventError, match="by this process's clock: the message's own time, -1,"):
        Reads()(NOW_MS + 2 * HOUR_MS, -1)


def test_the_arrival_decides_so_that_a_replay_decides_alike() -> None:
    for now_ms in (NOW_MS, NOW_MS + DAY_MS, NOW_MS + 400 * DAY_MS):
        with pytest.raises(EventError, match="is in the future"):
            Reads(now_ms)(NOW_MS + HOUR_MS + 1, NOW_MS)
        assert Reads(now_ms)(NOW_MS + HOUR_MS, NOW_MS) == NOW_MS + HOUR_MS


@pytest.mark.parametrize("hours", [-14, -1, 1, 14])
def test_a_clock_of_this_process_that_is_hours_off_refuses_nothing(hours: int) -> None:
    read = Reads(NOW_MS + hours * HOUR_MS)
    assert read(NOW_MS, NOW_MS) == NOW_MS
    assert not read.reasons


def test_clamped_events_count_as_of_their_arrival() -> None:
    read = Reads(wrong_time="clamp", max_age_s=3600)
    assert read(YEAR_2200_MS, NOW_MS) == NOW_MS
    assert read(YEAR_2200_MS, YEAR_2200_MS) == NOW_MS
    assert read(NOW_MS - DAY_MS, NOW_MS - 7) == NOW_MS - 7
    assert read(NOW_MS - 5, NOW_MS) == NOW_MS - 5
    assert read.reasons == ["ahead", "arrival", "ahead", "behind"]


def test_an_event_of_nobody_is_refused() -> None:
    reader = EventReader(EventSettings(), clock=lambda: NOW_MS)
    with pytest.raises(EventError, match=r"user_id: .*: stands for nobody"):
        reader.read(CLICK.topic, raw(NOW_MS).replace(b'"u"', b'" NULL"'), NOW_MS)


def test_old_events_are_refused_only_where_a_setting_says_so() -> None:
    assert Reads()(NOW_MS - 3000 * DAY_MS, NOW_MS) == NOW_MS - 3000 * DAY_MS
    with pytest.raises(EventError, match=r"timestamp: .*: is too old: expected at least"):
        Reads(max_age_s=60)(NOW_MS - HOUR_MS, NOW_MS)


def test_the_settings_refuse_by_default() -> None:
    assert EventSettings().wrong_time is WrongTime.REFUSE
    assert EventSettings().max_age_s is None


def test_a_person_whose_row_an_event_of_the_year_2200_spoiled_recovers() -> None:
    sound, spoiled = empty_user(SCHEMA), empty_user(SCHEMA)
    times = [NOW_MS - DAY_MS, NOW_MS - HOUR_MS, YEAR_2200_MS, NOW_MS - 60_000, NOW_MS]
    for number, time_ms in enumerate(times):
        event = observation(_click(number, time_ms), SOURCE, number)
        apply_event(spoiled, event, SCHEMA)
        if time_ms != YEAR_2200_MS:
            apply_event(sound, event, SCHEMA)
    assert spoiled.reference_ms == YEAR_2200_MS
    recover_user(spoiled, NOW_MS, SCHEMA)
    assert spoiled.history == sound.history
    size = len(SCHEMA.user_half_lives)
    assert spoiled.counters[: size - 1] == pytest.approx(sound.counters[: size - 1])
    assert spoiled.counters[size - 1] == 5.0
    again = repr(spoiled)
    recover_user(spoiled, NOW_MS, SCHEMA)
    assert repr(spoiled) == again


def test_an_item_that_an_event_of_the_year_2200_spoiled_counts_again() -> None:
    group = empty_group(SCHEMA)
    for number, time_ms in enumerate([NOW_MS, YEAR_2200_MS, NOW_MS]):
        apply_item_event(group, observation(_click(number, time_ms), SOURCE, number), SCHEMA)
    assert group.values[0] == 1.0
    recover_group(group, NOW_MS)
    apply_item_event(group, observation(_click(9, NOW_MS), SOURCE, 9), SCHEMA)
    assert (group.reference_ms, group.values) == (NOW_MS, [2.0, 2.0, 2.0, 4.0])


def test_a_sound_row_is_left_as_it_is_by_a_clock_that_is_behind() -> None:
    row, group = empty_user(SCHEMA), empty_group(SCHEMA)
    event = observation(_click(1, NOW_MS + DAY_MS), SOURCE, 1)
    apply_event(row, event, SCHEMA)
    apply_item_event(group, event, SCHEMA)
    before = repr((row, group))
    recover_user(row, NOW_MS, SCHEMA)
    recover_group(group, NOW_MS)
    assert repr((row, group)) == before
    assert latest_reference_ms(NOW_MS) > NOW_MS + DAY_MS


def _click(number: int, time_ms: int) -> CLICK.struct:  # type: ignore[name-defined]
    return CLICK.struct(event_id=f"e{number}", user_id="u", item_id="i", timestamp=time_ms)
