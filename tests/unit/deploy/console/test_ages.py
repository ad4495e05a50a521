"""How long after they came answers know events: as workers say, or by what waits for them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from deploy.console.ages import AgeWatch, OffsetTimes, find_age, hold
from deploy.console.readings import ABSORBED, Reading
from features.kafka.lag import PartitionPlace

CLICKS = ("clicks", 0)
# Of a hundred events 99 were in rows within 50 ms, one within a second.
BUCKETS = {"row_seconds|0.05": 99.0, "row_seconds|1.0": 100.0, "row_seconds|+Inf": 100.0}


class Log:
    """Asked for the times of messages; remembers for which."""

    def __init__(self, times: Mapping[tuple[str, int], int]) -> None:
        self.times = times
        self.asked: list[Mapping[tuple[str, int], int]] = []

    def __call__(self, places: Mapping[tuple[str, int], int]) -> Mapping[tuple[str, int], int]:
        self.asked.append(dict(places))
        return self.times


def test_what_rows_hold_does_not_wait() -> None:
    assert AgeWatch(Log({})).take({CLICKS: PartitionPlace(0, 9, 9)}, 10.0, 0) == {CLICKS: 0}


def test_what_came_between_two_looks_waits_since_then() -> None:
    watch = AgeWatch(Log({}))
    watch.take({CLICKS: PartitionPlace(0, 10, 10)}, 100.0, 0)
    # What has come since the last look may be under way.
    assert watch.take({CLICKS: PartitionPlace(0, 14, 10)}, 102.0, 0) == {CLICKS: 0}
    assert watch.take({CLICKS: PartitionPlace(0, 14, 10)}, 110.0, 0) == {CLICKS: 10_000}
    # Of four that came in two seconds, two are in rows.
    assert watch.take({CLICKS: PartitionPlace(0, 14, 12)}, 112.0, 0) == {CLICKS: 11_000}
    assert watch.take({CLICKS: PartitionPlace(0, 14, 14)}, 114.0, 0) == {CLICKS: 0}


def test_what_waited_before_the_first_look_is_asked_for_once() -> None:
    log = Log({CLICKS: 1_000_000})
    watch = AgeWatch(log)
    place = {CLICKS: PartitionPlace(0, 50, 20)}
    assert watch.take(place, 100.0, 1_060_000) == {CLICKS: 60_000}
    assert watch.take(place, 102.0, 1_062_000) == {CLICKS: 62_000}
    assert log.asked == [{CLICKS: 20}]


def test_where_nobody_knows_no_age_is_made_up() -> None:
    watch = AgeWatch(Log({}))
    assert watch.take({CLICKS: PartitionPlace(0, 50, None)}, 100.0, 0) == {CLICKS: None}


def test_no_clock_makes_an_age_negative() -> None:
    watch = AgeWatch(Log({CLICKS: 2_000_000}))
    assert watch.take({CLICKS: PartitionPlace(0, 50, 20)}, 100.0, 1_000_000) == {CLICKS: 0}


def test_a_topic_that_was_made_anew_begins_anew() -> None:
    times = OffsetTimes()
    for at_s, end in ((10.0, 900), (12.0, 5), (14.0, 9)):
        times.note(at_s, end)
    assert times.find(7) == 13.0


def test_a_day_of_looks_is_remembered_in_few_points() -> None:
    times = OffsetTimes()
    for look in range(43_200):
        times.note(2.0 * look, 10 * look)
    assert len(times._points) <= 512
    # Ten messages every two seconds.
    assert times.find(200_000) == pytest.approx(40_000, abs=1.0)


def test_rows_are_as_far_as_any_worker_says_or_has_committed() -> None:
    def make_reading(process: str, partition: str, offset: float) -> Reading:
        return Reading(process, ABSORBED, {"topic": "clicks", "partition": partition}, offset)

    places = {("clicks", number): PartitionPlace(0, 100, at) for number, at in enumerate((9, None))}
    places["items", 0] = PartitionPlace(0, 5, 3)
    # Partition 0 went from w1 to w2; of partition 1 more is committed than w1, which is gone, said.
    said = [
        make_reading("w1", "0", 20.0),
        make_reading("w2", "0", 40.0),
        make_reading("w1", "7", 99.0),
    ]
    held = {source: place.committed for source, place in hold(places, said).items()}
    assert held == {("clicks", 0): 40, ("clicks", 1): 0, ("items", 0): 3}
    assert hold({CLICKS: PartitionPlace(0, 100, 50)}, said)[CLICKS].committed == 50


@pytest.mark.parametrize(
    ("waits_ms", "counts", "age_ms"),
    [
        # Nothing came and nothing waits: answers know all.
        ({CLICKS: 0}, {}, 0),
        ({CLICKS: 0}, BUCKETS, 50),
        ({CLICKS: 0, ("items", 0): 9000}, BUCKETS, 9000),
        # A worker that is behind says how long what it takes in now has waited.
        ({CLICKS: 7000}, {"row_seconds|60.0": 0.0, "row_seconds|300.0": 10.0}, 60_000),
        # What one partition has is not known, or nothing is.
        ({CLICKS: None, ("items", 0): 0}, BUCKETS, None),
        ({}, BUCKETS, None),
        # No worker tells what it has absorbed.
        ({CLICKS: 0}, None, None),
        ({CLICKS: 9000}, None, 9000),
    ],
)
def test_the_age_is_what_workers_measure_or_what_waits_longer(
    waits_ms: Mapping[tuple[str, int], int | None],
    counts: Mapping[str, float] | None,
    age_ms: int | None,
) -> None:
    assert find_age(waits_ms, counts) == age_ms
