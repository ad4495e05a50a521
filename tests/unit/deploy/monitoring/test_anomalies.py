"""What is planted is found soon, and what all do is no news of one."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.monitoring import anomalies, takers
from deploy.monitoring.anomalies import AlarmDirection, RateAlarm, RateWatch, WatchRules
from deploy.monitoring.takers import TakerCounter, TickCounter

RULES = WatchRules(tick_s=10, memory_s=3600, false_alarms_per_week=1)
RATES = np.concatenate([np.full(3, 4.0), np.full(40, 0.3), np.full(60, 0.02)])
PAST = 360


def run(watch: RateWatch, rates: np.ndarray, ticks: int, start: int = 0) -> list[RateAlarm]:
    rng = np.random.default_rng(start)
    found = []
    for tick in range(start, start + ticks):
        seen = rng.poisson(rates)
        counts = {str(at): int(seen[at]) for at in np.flatnonzero(seen).tolist()}
        found += watch.add(counts, (tick + 1) * 10_000)
    return found


def after_a_past() -> RateWatch:
    watch = RateWatch(RULES)
    assert run(watch, RATES, PAST) == []
    return watch


def test_a_surge_is_found_within_a_minute() -> None:
    watch, rates = after_a_past(), RATES.copy()
    rates[5] *= 20
    alarms = run(watch, rates, 6, PAST)
    assert {(each.name, each.direction) for each in alarms} == {("5", AlarmDirection.SURGE)}
    first = alarms[0]
    assert first.rate > 3 * first.expected
    # When it began, by its evidence: within a tick or two.
    assert abs(first.since_ms - PAST * 10_000) <= 20_000


def test_a_small_item_that_is_suddenly_everywhere_is_found() -> None:
    watch, rates = after_a_past(), RATES.copy()
    rates[80] = 3.0
    assert {each.name for each in run(watch, rates, 12, PAST)} == {"80"}


def test_an_item_that_is_gone_is_found_within_five_minutes() -> None:
    watch, rates = after_a_past(), RATES.copy()
    rates[1] = 0.0
    alarms = run(watch, rates, 30, PAST)
    assert {(each.name, each.direction) for each in alarms} == {("1", AlarmDirection.DROP)}


def test_a_busy_hour_is_no_news_of_each_item() -> None:
    watch = after_a_past()
    assert run(watch, 5 * RATES, 60, PAST) == []
    assert run(watch, RATES / 5, 60, PAST + 60) == []


def test_a_silent_night_is_no_drop_of_each_item() -> None:
    watch = after_a_past()
    assert run(watch, 0 * RATES, 1000, PAST) == []
    assert run(watch, RATES, 60, PAST + 1000) == []


def test_who_takes_a_hundred_things_at_once_is_no_news_of_any() -> None:
    watch, rng = RateWatch(RULES), np.random.default_rng(3)
    for tick in range(3 * PAST):
        # One visitor in ten minutes takes a third of all.
        taken = rng.choice(len(RATES), 34, replace=False) if tick % 60 == 0 else ()
        seen = rng.poisson(RATES / 10)
        seen[np.array(taken, np.int64)] += 1
        counts = {str(at): int(seen[at]) for at in np.flatnonzero(seen).tolist()}
        assert watch.add(counts, (tick + 1) * 10_000) == []


def test_one_flood_makes_the_others_no_drop() -> None:
    watch, rates = after_a_past(), RATES.copy()
    rates[0] *= 30
    assert {each.name for each in run(watch, rates, 60, PAST)} == {"0"}


def test_what_is_new_has_no_past_to_be_outside_of() -> None:
    watch = after_a_past()
    rates = np.append(RATES, 8.0)
    assert [each for each in run(watch, rates, 60, PAST) if each.name == str(len(RATES))] == []


def test_more_series_than_there_is_room_for() -> None:
    watch = RateWatch(RULES)
    lamp = {"lamp": 50}
    many = {f"rare {at}": 1 for at in range(anomalies.MAX_SERIES)}
    for tick in range(3):
        watch.add(lamp | many, tick * 10_000)
    watch.add({f"new {at}": 1 for at in range(anomalies.MAX_SERIES)}, 40_000)
    assert len(watch) <= anomalies.MAX_SERIES
    assert watch.add(lamp, 50_000) == []


def test_nothing_at_all_raises_nothing() -> None:
    watch = RateWatch(RULES)
    assert [alarm for tick in range(100) for alarm in watch.add({}, tick * 10_000)] == []


def test_ticks_are_of_arrival_and_each_is_closed_once() -> None:
    counter = TickCounter(10)
    counter.add("ann", "lamp", 12_000)
    counter.add("bob", "lamp", 13_000)
    counter.add("ann", "lamp", 14_000)
    counter.add("ann", "sofa", 31_000)
    lamps = {("ann", "lamp"), ("bob", "lamp")}
    assert list(counter.close(35_000)) == [(lamps, 20_000), (set(), 30_000)]
    # Of a tick that is closed: it counts in the one that is open.
    counter.add("ann", "late", 15_000)
    assert list(counter.close(40_000)) == [({("ann", "sofa"), ("ann", "late")}, 40_000)]
    assert list(counter.close(40_000)) == []


def test_people_are_counted_once_a_visit() -> None:
    counter = TakerCounter()
    takes = [("ann", "lamp"), ("ann", "sofa"), ("bob", "lamp"), ("bob", "lamp")]
    assert counter.count(takes) == {"lamp": 2, "sofa": 1}
    for _ in range(1000):
        # Who does not stop is the same visitor still.
        assert counter.count([("ann", "lamp")]) == {}
    assert counter.count([("bob", "lamp")]) == {"lamp": 1}


def test_visits_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takers, "MAX_VISITS", 100)
    counter = TakerCounter()
    assert len(counter.count((f"p{at}", "lamp") for at in range(150))) == 1
    assert counter.count([("p0", "lamp")]) == {}
    counter.count((f"q{at}", "lamp") for at in range(150))
    counter.count([])
    assert counter.count([("p1", "lamp")]) == {"lamp": 1}


def test_ticks_begin_anew_where_the_clock_was_set_back() -> None:
    ticks, day_ms = TickCounter(10), 86_400_000
    ticks.add("ann", "lamp", day_ms)
    list(ticks.close(day_ms + 20_000))
    for now_ms in range(0, 60_000, 10_000):
        ticks.add("ann", "lamp", now_ms)
        closed = [takes for takes, _ in ticks.close(now_ms + 10_000)]
        if now_ms:
            assert closed == [{("ann", "lamp")}]
    # A few ticks back are waited for.
    ticks.add("bob", "sofa", 20_000)
    assert list(ticks.close(30_000)) == []
    assert {("bob", "sofa")} in [takes for takes, _ in ticks.close(80_000)]
