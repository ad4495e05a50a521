"""What each person did next, and what plain popularity would have recommended at that moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from features.events import Click, EventType, Purchase
from features.rows import Layout

PLACES = 10


@dataclass(frozen=True, slots=True)
class Expected:
    """After one event: the next item that the person took for the first time, and popularity's hit.

    `next_item` is None where the log has no such event.
    """

    next_item: str | None
    popular_hit: bool


class Popularity:
    """Counts of all items, decayed by the middle half-life of the items: the baseline.

    Args:
        item_ids: every item of the log.
    """

    def __init__(self, item_ids: Sequence[str], layout: Layout) -> None:
        self._place = {name: at for at, name in enumerate(item_ids)}
        self._half_life = layout.item_half_lives[(len(layout.item_half_lives) - 1) // 2]
        self._weight = layout.weight
        self._counts = np.zeros(len(item_ids))
        self._times = np.zeros(len(item_ids))

    def add(self, event: Click | Purchase) -> None:
        """Count an event; events come in time order."""
        at = self._place[event.item_id]
        kind = EventType.PURCHASE if isinstance(event, Purchase) else EventType.CLICK
        left = 2.0 ** -((event.timestamp - self._times[at]) / self._half_life)
        self._counts[at] = self._counts[at] * left + self._weight[kind]
        self._times[at] = event.timestamp

    def has_in_top(self, item_id: str, taken: set[str], time_ms: int) -> bool:
        """Whether an item is among the ten most popular that the person has not taken."""
        counts = self._counts * 2.0 ** -((time_ms - self._times) / self._half_life)
        value = counts[self._place[item_id]]
        better = np.flatnonzero(counts > value)
        if len(better) - len(taken) >= PLACES:
            return False
        taken_places = {self._place[name] for name in taken}
        return sum(at not in taken_places for at in better.tolist()) < PLACES


def expectations(
    past: Sequence[Click | Purchase], live: Sequence[Click | Purchase], layout: Layout
) -> dict[str, Expected]:
    """By event_id of each live event: what the person took next, and whether popularity knew.

    An item that a person has taken already is never asked for where taken items are excluded.
    """
    takes = layout.takes
    next_items = dict(_next_items(past, live, layout))
    names = sorted({event.item_id for part in (past, live) for event in part})
    popularity = Popularity(names, layout)
    taken: dict[str, set[str]] = {}
    found: dict[str, Expected] = {}
    for number, event in enumerate([*past, *live]):
        popularity.add(event)
        own = taken.setdefault(event.user_id, set())
        if _kind(event) in takes:
            own.add(event.item_id)
        if number >= len(past):
            item = next_items[event.event_id]
            hit = item is not None and popularity.has_in_top(item, own, event.timestamp)
            found[event.event_id] = Expected(item, hit)
    return found


def _next_items(
    past: Sequence[Click | Purchase], live: Sequence[Click | Purchase], layout: Layout
) -> Iterator[tuple[str, str | None]]:
    """(event_id, the item of the person's next event with an item not taken by then)."""
    first_taken: dict[tuple[str, str], int] = {}
    events = [*past, *live]
    for number, event in enumerate(events):
        if _kind(event) in layout.takes:
            first_taken.setdefault((event.user_id, event.item_id), number)
    upcoming: dict[str, str] = {}
    for number in range(len(events) - 1, len(past) - 1, -1):
        event = events[number]
        yield event.event_id, upcoming.get(event.user_id)
        if first_taken.get((event.user_id, event.item_id), number) >= number:
            upcoming[event.user_id] = event.item_id


def _kind(event: Click | Purchase) -> EventType:
    return EventType.PURCHASE if isinstance(event, Purchase) else EventType.CLICK
