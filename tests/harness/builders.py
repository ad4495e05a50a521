"""Events and logs made up for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headwater_client.events import Click, Purchase

from trainer.datasets import Log

START_MS = 1_700_000_000_000
START_S = START_MS // 1000
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000


def click(user: str, item: str, second: float = 0, **fields: Any) -> Click:
    """A click so many seconds after the start; its id is of its person, item and second."""
    return Click(**_fields(user, item, second) | fields)


def purchase(user: str, item: str, second: float = 0, **fields: Any) -> Purchase:
    """A purchase so many seconds after the start."""
    return Purchase(**_fields(user, item, second) | fields)


def _fields(user: str, item: str, second: float) -> dict[str, Any]:
    return {
        "event_id": f"{user}{item}{second:g}",
        "user_id": user,
        "item_id": item,
        "timestamp": START_MS + round(SECOND_MS * second),
    }


def log_of(events: Iterable[Click | Purchase]) -> Log:
    """A log of these events, in the order of their times, without a catalogue."""
    return Log(sorted(events, key=lambda event: event.timestamp), [])
