"""What plain popularity would have recommended at the moment of each event: the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from features.schema import FeatureSchema

PLACES = 10


class Popularity:
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
        self._counts[at] = self._counts[at] * left + self._weight[EVENT_TYPES.of_event(event).code]
        self._times[at] = event.timestamp

    def has_in_top(self, item_id: str, taken: set[str], time_ms: int) -> bool:
        """Whether an item is among the ten most popular that the person has not taken."""
        counts = self._counts * 2.0 ** -((time_ms - self._times) / self._half_life)
        better = np.flatnonzero(counts > counts[self._place[item_id]])
        if len(better) - len(taken) >= PLACES:
            return False
        taken_places = {self._place[name] for name in taken}
        return sum(at not in taken_places for at in better.tolist()) < PLACES


def popularity_hits(
    past: Sequence[Interaction], live: Sequence[Interaction], schema: FeatureSchema
) -> dict[str, bool]:
    """By event_id of each live event with an item new to its person: did popularity have it?

    Where taken items are excluded, an event of an item that was taken before cannot be foreseen and
    is left out.
    """
    names = sorted({event.item_id for part in (past, live) for event in part})
    popularity = Popularity(names, schema)
    taken: dict[str, set[str]] = {}
    hits: dict[str, bool] = {}
    for number, event in enumerate([*past, *live]):
        own = taken.setdefault(event.user_id, set())
        if number >= len(past) and event.item_id not in own:
            hits[event.event_id] = popularity.has_in_top(event.item_id, own, event.timestamp)
        popularity.add(event)
        if EVENT_TYPES.of_event(event).code in schema.seen_by:
            own.add(event.item_id)
    return hits
