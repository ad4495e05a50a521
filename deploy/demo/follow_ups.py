"""What people did after each event of a log, and whether simple rules had it: found beforehand.

All of it follows from the log's order alone, so that how fast the log is replayed changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from features.schema import FeatureSchema

PLACES = 10


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What a person did after an event.

    Attributes:
        new_item: of their next event whose item was new to them; None: there is no such event. An
            item is new until an event of a type in `features.seen_by` names it.
        popular: whether decayed popularity, as of the event, had it among its best ten.
        next_item: of their next event, whatever its item; None: it is their last.
        own: whether it is among the ten items that they had last.
    """

    new_item: str | None
    popular: bool
    next_item: str | None
    own: bool


class DecayedPopularity:
    """Counts of all items, decayed by the half-life that trending items are ranked by.

    Args:
        item_ids: every item of the log.
    """

    def __init__(self, item_ids: Sequence[str], schema: FeatureSchema) -> None:
        self._place = {name: at for at, name in enumerate(item_ids)}
        self._half_life = schema.settings.trending_half_life_ms
        self._weight = schema.weight
        self._counts = np.zeros(len(item_ids))
        self._times = np.zeros(len(item_ids))

    def add(self, event: Interaction) -> None:
        """Count an event; events come in time order."""
        at = self._place[event.item_id]
        left = 2.0 ** -((event.timestamp - self._times[at]) / self._half_life)
        self._counts[at] = self._counts[at] * left + self._weight[EVENT_TYPES.spec_of(event).code]
        self._times[at] = event.timestamp

    def has_in_top(self, item_id: str, seen: set[str], time_ms: int) -> bool:
        """Whether an item is among the ten most popular that the person has not seen."""
        counts = self._counts * 2.0 ** -((time_ms - self._times) / self._half_life)
        better = np.flatnonzero(counts > counts[self._place[item_id]])
        if len(better) - len(seen) >= PLACES:
            return False
        seen_places = {self._place[name] for name in seen}
        return sum(at not in seen_places for at in better.tolist()) < PLACES


def find_follow_ups(
    past: Sequence[Interaction],
    live: Sequence[Interaction],
    later: Sequence[Interaction],
    schema: FeatureSchema,
) -> dict[str, FollowUp]:
    """By event_id of each live event: what its person did after it.

    Args:
        past: events before the replay, oldest first.
        live: events of the replay.
        later: events of the log that are not replayed any more, but say what people did.
    """
    events = [*past, *live, *later]
    new_items, next_items = _next_items(events, schema)
    popularity = DecayedPopularity(sorted({event.item_id for event in events}), schema)
    found: dict[str, FollowUp] = {}
    for number, event, seen, newest in _walk(events[: len(past) + len(live)], schema):
        popularity.add(event)
        if number < len(past):
            continue
        new_item, next_item = new_items.get(number), next_items.get(number)
        found[event.event_id] = FollowUp(
            new_item,
            new_item is not None and popularity.has_in_top(new_item, seen, event.timestamp),
            next_item,
            next_item in newest,
        )
    return found


def _next_items(
    events: Sequence[Interaction], schema: FeatureSchema
) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """By an event's number: the next item that is new to its person, and the next of any kind."""
    new_items: dict[int, str] = {}
    next_items: dict[int, str] = {}
    open_new: dict[str, list[int]] = {}
    last: dict[str, int] = {}
    seen_before: dict[str, set[str]] = {}
    for number, event in enumerate(events):
        person, item = event.user_id, event.item_id
        if person in last:
            next_items[last[person]] = item
        if item not in seen_before.get(person, ()):
            new_items |= dict.fromkeys(open_new.pop(person, ()), item)
        if EVENT_TYPES.spec_of(event).code in schema.seen_by:
            seen_before.setdefault(person, set()).add(item)
        open_new.setdefault(person, []).append(number)
        last[person] = number
    return new_items, next_items


def _walk(
    events: Sequence[Interaction], schema: FeatureSchema
) -> Iterator[tuple[int, Interaction, set[str], list[str]]]:
    """Each event with its number, what its person has seen by then, and their ten newest items."""
    seen: dict[str, set[str]] = {}
    newest: dict[str, list[str]] = {}
    for number, event in enumerate(events):
        own = seen.setdefault(event.user_id, set())
        if EVENT_TYPES.spec_of(event).code in schema.seen_by:
            own.add(event.item_id)
        items = [name for name in newest.get(event.user_id, []) if name != event.item_id]
        newest[event.user_id] = [*items, event.item_id][-PLACES:]
        yield number, event, own, newest[event.user_id]
