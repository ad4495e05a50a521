"""Forecasts of real windows, by the operations and on the page; and where there are none."""

from __future__ import annotations

import pytest
from headwater_client.events import Purchase
from playwright.sync_api import Browser

from features.events import current_ms
from features.settings import DAY_MS
from tests.harness.console import Console, visiting
from tests.harness.waiting import wait_until
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowLoader

pytestmark = pytest.mark.integration

DAYS, A_DAY = 40, 5


def write_windows(console: Console) -> int:
    """Purchases of one item, so many on each of the last whole days; the end of the last, ms."""
    end_ms = current_ms() // DAY_MS * DAY_MS
    events = [
        Purchase(
            event_id=f"{day}/{number}",
            user_id=f"p{number}",
            item_id="i1",
            timestamp=end_ms - (DAYS - day) * DAY_MS + number * 1000,
        )
        for day in range(DAYS)
        for number in range(A_DAY)
    ]
    store = WindowStore(console.settings.windows_address)
    loader = WindowLoader("purchases", store, WindowSettings(duration_s=7 * 86_400))
    assert len(list(loader.write(events))) > 1
    return end_ms


def test_what_is_expected_is_told_once_there_are_windows(
    console: Console, browser: Browser
) -> None:
    wait_until(lambda: console.take("GET", "/v1/admin/forecasts")["time"] is not None, 30)
    before = console.take("GET", "/v1/admin/forecasts", key="viewer")
    assert (before["series"], before["windows"]) == ([], 0)
    assert "no window" in before["missing"]
    status, problem = console.call("GET", "/v1/admin/items/i1/forecast")
    assert (status, problem["detail"]) == (404, before["missing"])

    end_ms = write_windows(console)
    wait_until(lambda: bool(console.take("GET", "/v1/admin/forecasts")["series"]), 40)
    said = console.take("GET", "/v1/admin/items/i1/forecast", key="viewer")
    assert (said["counted"], said["missing"]) == ("purchase", "")
    day, week = said["forecasts"]
    assert (day["start"], day["end"]) == (end_ms, end_ms + DAY_MS)
    assert week["end"] == end_ms + 7 * DAY_MS
    assert day["expected"] == pytest.approx(A_DAY, rel=0.1)
    assert week["low"] <= 7 * A_DAY <= week["high"]
    assert {each["method"] for each in day["backtest"]["methods"]} == {
        *("headwater", "last_week", "smoothing"),
    }
    assert [each["count"] for each in said["days"]] == [A_DAY] * len(said["days"])

    (category,) = console.take("GET", "/v1/admin/forecasts?kind=category")["series"]
    assert category["name"] == "c1"
    assert console.call("GET", "/v1/admin/forecasts?category=nothing")[0] == 404
    assert console.call("GET", "/v1/admin/forecasts?limit=0")[0] == 400
    assert console.call("GET", "/v1/admin/forecasts", key="asks")[0] == 403

    with visiting(browser, console, "viewer") as visit:
        visit.go("/demand?category=c1")
        shown = visit.page.locator(".forecasts tr[data-horizon=day] data").first
        assert float(shown.get_attribute("value") or "") == category["forecasts"][0]["expected"]
        assert visit.find_faults() == []
        visit.go("/demand")
        assert visit.page.locator("h1").inner_text() == "Demand"
        # An item's page draws its forecast, too.
        visit.go("/items/i1")
        visit.page.wait_for_selector(".forecast-chart canvas")
        assert visit.faults == []


def test_rates_are_watched_and_drift_says_what_is_missing(console: Console) -> None:
    with console.replaying():
        wait_until(lambda: console.take("GET", "/v1/admin/anomalies")["watched"]["item"] > 0, 60)
    found = console.take("GET", "/v1/admin/anomalies", key="viewer")
    assert (found["missing"], found["anomalies"]) == ("", [])
    drift = console.take("GET", "/v1/admin/drift", key="viewer")
    assert all(each["missing"] for each in drift["features"] + drift["scores"])
