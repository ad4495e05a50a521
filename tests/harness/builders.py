"""Events and logs made up for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Click, Interaction, Purchase

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


CHANGE_ROWS = [name for name, spec in EVENT_TYPES.items() if not spec.about_list]
ASKED: dict[str, dict[str, Any]] = {
    "rating": {"value": 4.0},
    "play": {"seconds": 30.0, "length_seconds": 40.0},
    "impression": {"recommendation_id": "r", "position": 3},
}
"""What some types must say beside what all do."""


def make_interaction(name: str, **fields: Any) -> Interaction:
    """An event of a registered type, by its name."""
    return EVENT_TYPES[name].struct(**{"user_id": "ann", **ASKED.get(name, {}), **fields})
