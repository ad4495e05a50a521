"""Forecasts follow the windows, and rates what arrives: without a server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from headwater_client.admin.forecast import SeriesKind
from headwater_client.events import Item, Purchase

from deploy.console.outlook import DemandOutlook
from deploy.console.rates import RateSignals
from deploy.monitoring.settings import MonitoringSettings
from features.events import current_ms
from features.rules.table import CatalogueTable
from features.settings import DAY_MS
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowLoader

DAYS, A_DAY = 30, 4


@pytest.fixture
def store(tmp_path: Path) -> WindowStore:
    return WindowStore(str(tmp_path))


def write_windows(store: WindowStore, today: int = 0) -> None:
    """Windows of the days before, and of so many events of today; those that are there stay."""
    first_ms = (current_ms() // DAY_MS - DAYS) * DAY_MS
    events = [
        Purchase(
            event_id=f"{day}/{number}",
            user_id=f"p{number}",
            item_id="lamp",
            timestamp=first_ms + day * DAY_MS + number,
        )
        for day in range(DAYS)
        for number in range(A_DAY)
    ]
    midnight_ms = current_ms() // DAY_MS * DAY_MS
    events += [
        Purchase(event_id=f"today/{n}", user_id="p", item_id="lamp", timestamp=midnight_ms + n)
        for n in range(today)
    ]
    list(WindowLoader("log", store, WindowSettings(duration_s=7 * 86_400)).write(events))


def refresh(outlook: DemandOutlook) -> None:
    outlook.refresh(outlook.table.copy_lists("category"))


def test_an_empty_system_says_what_is_missing(store: WindowStore) -> None:
    outlook = DemandOutlook(store, CatalogueTable())
    assert "being read" in outlook.missing
    refresh(outlook)
    assert "no window has been written" in outlook.missing
    assert outlook.describe(SeriesKind.ITEM, "lamp", "") is None
    assert outlook.list_largest(SeriesKind.CATEGORY, 5) == []


def test_windows_become_forecasts_and_the_catalogue_may_come_later(store: WindowStore) -> None:
    outlook = DemandOutlook(store, CatalogueTable())
    write_windows(store)
    refresh(outlook)
    assert outlook.missing == ""
    found = outlook.describe(SeriesKind.ITEM, "lamp", "A lamp")
    assert found is not None
    assert found.counted == "purchase"
    assert found.forecasts[0].expected == pytest.approx(A_DAY, rel=0.15)
    assert outlook.list_largest(SeriesKind.CATEGORY, 5) == []
    outlook.table.put(Item(item_id="lamp", category=["light"]))
    refresh(outlook)
    assert outlook.list_largest(SeriesKind.CATEGORY, 5) == ["light"]
    assert outlook.list_largest(SeriesKind.ALL, 5) == ["everything"]
    assert outlook.describe_backtest(SeriesKind.ITEM)["day"].coverage == 1


def test_what_came_since_the_last_whole_day_grows_with_each_window(store: WindowStore) -> None:
    outlook = DemandOutlook(store, CatalogueTable())
    write_windows(store)
    refresh(outlook)
    for number in range(1, 4):
        write_windows(store, today=number)
        refresh(outlook)
        found = outlook.describe(SeriesKind.ITEM, "lamp", "")
        assert found is not None
        assert found.running == number


def test_a_damaged_window_is_counted_and_passed_over(store: WindowStore) -> None:
    write_windows(store)
    path = store.address(store.manifest(1)).removeprefix("file://")
    Path(path).write_bytes(b"not a window")
    outlook = DemandOutlook(store, CatalogueTable())
    refresh(outlook)
    assert outlook.unreadable == 1
    assert outlook.windows == len(store.numbers()) - 1


def test_an_anomaly_is_told_with_its_category_and_ends() -> None:
    rules = MonitoringSettings(tick_s=10, memory_s=3600, false_alarms_per_week=1)
    signals = RateSignals(rules, lambda item: ("toys" if item == "i1" else "home",))
    rng, at_ms = np.random.default_rng(1), 0

    def run(rates: list[float], ticks: int) -> None:
        nonlocal at_ms
        for _ in range(ticks):
            at_ms += 10_000
            seen = rng.poisson(rates)
            takes = {
                (f"{at_ms} {number}", f"i{at}")
                for at, count in enumerate(seen.tolist())
                for number in range(count)
            }
            signals.add(takes, at_ms)

    usual = [0.4] * 40
    run(usual, 200)
    assert signals.list_anomalies() == []
    run([usual[0], 12.0, *usual[2:]], 12)
    told = {(each.kind, each.alarm.name) for each, is_open in signals.list_anomalies() if is_open}
    assert (SeriesKind.ITEM, "i1") in told
    run(usual, 150)
    assert [is_open for _, is_open in signals.list_anomalies()] == [False] * len(told)
    assert signals.count_watched() == {"item": 40, "category": 2, "all": 1}


def test_what_one_person_does_is_no_anomaly() -> None:
    rules = MonitoringSettings(tick_s=10, memory_s=3600, false_alarms_per_week=1)
    signals = RateSignals(rules, lambda item: ("toys" if item < "i2" else "home",))
    rng = np.random.default_rng(2)
    for tick in range(300):
        items = rng.integers(0, 40, 12).tolist()
        takes = {(f"{tick} {number}", f"i{item}") for number, item in enumerate(items)}
        if tick > 200:
            # Who wants all toys at once, and a script that asks for one thing for ever.
            takes |= {("collector", f"i1{digit}") for digit in range(10)} | {("script", "i7")}
        signals.add(takes, 10_000 * (tick + 1))
    assert signals.list_anomalies() == []
