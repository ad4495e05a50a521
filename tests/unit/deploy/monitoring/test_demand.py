"""Counts by item and day are those of the events that count, and what is held is bounded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deploy.monitoring import demand
from deploy.monitoring.demand import DailySums, DemandCounter, group_by_category
from deploy.monitoring.forecasts import LEAST_DAYS, forecast_demand
from features.settings import DAY_MS, HOUR_MS
from tests.harness.windows import START_MS, write_window
from trainer.windows.store import WindowStore

NOW_MS = 20_000 * DAY_MS


def table(rows: list[tuple[str, str, int]], repeated: bool = False) -> Any:
    kinds, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "type": pa.array(kinds, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "timestamp": pa.array(times, pa.int64()),
            "repeated": pa.array([repeated] * len(rows), pa.bool_()),
        }
    )


def count_sums(sums: DailySums) -> Counter[tuple[str, int]]:
    """What the sums say, by item and whole day."""
    found: Counter[tuple[str, int]] = Counter()
    for day, counts in enumerate(sums.iterate_days(), sums.first_day):
        for name, count in zip(sums.names, counts.tolist(), strict=True):
            if count:
                found[name, day] += int(count)
    return found


def random_rows(seed: int, count: int) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(seed)
    items, times = rng.integers(0, 30, count), rng.integers(19_900 * DAY_MS, NOW_MS, count)
    return [("click", f"item {at}", time) for at, time in zip(items, times.tolist(), strict=True)]


def test_sums_are_those_of_the_events_whatever_windows_hold_them() -> None:
    rows = random_rows(0, 3000)
    counter = DemandCounter()
    for start in range(0, len(rows), 700):
        counter.add(table(rows[start : start + 700]), NOW_MS)
    expected = Counter((item, time // DAY_MS) for _, item, time in rows)
    assert count_sums(counter.make_sums(NOW_MS)) == expected


def test_what_is_no_demand_is_not_counted() -> None:
    counter, day = DemandCounter(), NOW_MS - 2 * DAY_MS
    rows = [
        ("click", "lamp", day),
        ("impression", "", day),
        ("dislike", "lamp", day),
        ("return", "lamp", day),
        ("click", "lamp", NOW_MS + 2 * HOUR_MS),
    ]
    counter.add(table(rows), NOW_MS)
    counter.add(table([("click", "lamp", day)], repeated=True), NOW_MS)
    assert count_sums(counter.make_sums(NOW_MS)) == {("lamp", day // DAY_MS): 1}
    assert counter.ahead == 1


def test_purchases_are_the_demand_where_there_are_any() -> None:
    counter, day = DemandCounter(), NOW_MS - 2 * DAY_MS
    counter.add(table([("click", "lamp", day), ("click", "sofa", day)]), NOW_MS)
    assert not counter.make_sums(NOW_MS).is_purchases
    counter.add(table([("purchase", "lamp", day)]), NOW_MS)
    sums = counter.make_sums(NOW_MS)
    assert sums.is_purchases
    assert count_sums(sums) == {("lamp", day // DAY_MS): 1}


def test_the_newest_day_is_whole_once_the_clock_has_passed_it() -> None:
    counter = DemandCounter()
    counter.add(table([("click", "lamp", NOW_MS - DAY_MS), ("click", "lamp", NOW_MS)]), NOW_MS)
    today = counter.make_sums(NOW_MS)
    assert (today.length, today.sum_running().tolist()) == (1, [1.0])
    tomorrow = counter.make_sums(NOW_MS + DAY_MS)
    assert (tomorrow.length, tomorrow.sum_running().tolist()) == (2, [0.0])


def test_an_item_counts_in_each_of_its_categories() -> None:
    counter, day = DemandCounter(), NOW_MS - 2 * DAY_MS
    rows = [("click", "lamp", day), ("click", "lamp", day + DAY_MS), ("click", "sofa", day)]
    counter.add(table(rows), NOW_MS)
    groups = group_by_category({"lamp": ["light", "home", "home"], "sofa": ["home"]})
    first = day // DAY_MS
    assert count_sums(counter.make_sums(NOW_MS).sum_by(groups)) == {
        ("light", first): 1,
        ("light", first + 1): 1,
        ("home", first): 2,
        ("home", first + 1): 1,
    }
    assert not counter.make_sums(NOW_MS).sum_by(group_by_category({})).names


@pytest.mark.parametrize("times", [[], [NOW_MS - 3 * DAY_MS] * 50, [NOW_MS - 3 * DAY_MS, NOW_MS]])
def test_too_little_is_said_to_be_so(times: list[int]) -> None:
    counter = DemandCounter()
    counter.add(table([("click", "lamp", time) for time in times]), NOW_MS)
    made = forecast_demand(counter.make_sums(NOW_MS))
    assert made.walk is None
    assert made.missing


def test_days_alone_are_times_enough() -> None:
    counter = DemandCounter()
    days = [NOW_MS - back * DAY_MS for back in range(LEAST_DAYS, 0, -1)]
    counter.add(table([("purchase", "lamp", day) for day in days for _ in range(3)]), NOW_MS)
    made = forecast_demand(counter.make_sums(NOW_MS))
    assert made.walk is not None
    assert made.start_ms == NOW_MS
    assert made.walk.forecast("day").mean[0] == pytest.approx(3, rel=0.2)


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "MAX_SUMS", 400)
    monkeypatch.setattr(demand, "MAX_ITEMS", 20)
    counter = DemandCounter()
    for seed in range(20):
        counter.add(table(random_rows(seed, 300)), NOW_MS)
        sums = counter.make_sums(NOW_MS)
        assert len(sums.codes) <= 400 + 300
        assert len(sums.names) <= 30
    assert counter.dropped


def test_old_days_are_let_go() -> None:
    counter = DemandCounter()
    counter.add(table([("click", "lamp", 0), ("click", "lamp", NOW_MS - DAY_MS)]), NOW_MS)
    sums = counter.make_sums(NOW_MS)
    assert sums.length <= demand.MAX_DAYS
    assert count_sums(sums) == {("lamp", NOW_MS // DAY_MS - 1): 1}


def test_windows_are_read_by_their_columns(tmp_path: Path) -> None:
    store = WindowStore(str(tmp_path))
    write_window(store, 1, 1, 2, 3)
    counter = DemandCounter()
    counter.add_window(store, 1, START_MS + 5 * DAY_MS)
    assert count_sums(counter.make_sums(START_MS + 5 * DAY_MS)) == {("lamp", START_MS // DAY_MS): 3}
