"""A replay keeps what it should of a log, and what is planted in it is found."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.admin.forecast import SeriesKind
from headwater_client.events import Click, Item

from bench.quality.anomalies import AnomalyOptions, AnomalyTrial, ReplayEvents, judge_plants
from deploy.monitoring.settings import MonitoringSettings
from features.settings import DAY_MS, HOUR_MS
from trainer.datasets import Log

ITEMS, EVENTS = 30, 27_000


def make_trial() -> AnomalyTrial:
    """Three days of a shop where everybody comes once."""
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(0, 3 * DAY_MS, EVENTS)).tolist()
    taken = rng.integers(0, ITEMS, EVENTS).tolist()
    events = [
        Click(event_id=str(at), user_id=f"p{at}", item_id=f"i{item}", timestamp=time)
        for at, (item, time) in enumerate(zip(taken, times, strict=True))
    ]
    items = [Item(item_id=f"i{at}", category=[f"c{at % 10}"]) for at in range(ITEMS)]
    options = AnomalyOptions(rate=1.0, hours=6)
    return AnomalyTrial(Log(events, items), options, MonitoringSettings())


def test_what_is_planted_is_found_and_nothing_else_is() -> None:
    trial = make_trial()
    replay = trial.play(trial.events)
    assert len(replay.arrived) == pytest.approx(2160, abs=1)
    assert replay.speed == pytest.approx(3 * 86_400 / EVENTS, rel=0.01)
    for watched in trial.watch_for_nothing(replay).values():
        assert [watched.count(kind) for kind in SeriesKind] == [0, 0, 0]
    found = judge_plants(trial.watch_for_plants(replay))
    # After three hours, and after five.
    assert sum(row["planted"] for row in found.values()) == 16
    assert sum(row["within_60_min"] for row in found.values()) >= 10
    # One of fifty is less than any of thirty items has: hardly more than what is tolerated.
    (crowd,) = (row for name, row in found.items() if "2 % of all come" in name)
    assert crowd["within_60_min"] == 0
    assert crowd["bound_min"] > 60
    busy = [row for name, row in found.items() if name.startswith("category, 20 times")]
    assert [row["within_5_min"] for row in busy] == [row["planted"] for row in busy] != []


def test_moved_histories_stay_whole_and_at_their_hours() -> None:
    rng = np.random.default_rng(2)
    events = ReplayEvents(
        rng.integers(0, 40, 500), rng.integers(0, 9, 500), np.sort(rng.integers(0, 9 * DAY_MS, 500))
    )
    moved = events.move_histories(rng)
    assert (np.diff(moved.times) >= 0).all()
    assert sorted(moved.times % DAY_MS) == sorted(events.times % DAY_MS)
    for person in range(40):
        before, after = (
            np.sort(each.times[each.people == person]) % DAY_MS for each in (events, moved)
        )
        assert sorted(before) == sorted(after)


def test_a_log_of_days_alone_is_spread_by_baskets() -> None:
    rng = np.random.default_rng(3)
    days = np.sort(rng.integers(0, 5, 300)) * DAY_MS
    events = ReplayEvents(rng.integers(0, 20, 300), rng.integers(0, 9, 300), days)
    spread = events.spread_days(rng)
    baskets = set(zip(spread.people.tolist(), spread.times.tolist(), strict=True))
    assert len(baskets) == len(set(zip(events.people.tolist(), days.tolist(), strict=True)))
    assert (spread.times % HOUR_MS != 0).any()
    assert (spread.spread_days(rng).times == spread.times).all()
