"""People whose every event is known: what their rows must be is computed anew from all of them.

Shared by `bench.api.writes` and the tests.
"""

import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from headwater_client import EVENT_TYPES, Interaction
from headwater_client.errors import ServerError

from deploy.settings import Settings
from features.rows import UserRow, apply_event, empty_user, observation
from features.schema import FeatureSchema
from features.store.redis import RedisRowStore
from features.topics import Hash, hash64
from stream.api.intake import EventPublisher, event_message
from stream.catalogue import CatalogueCache
from stream.row_updates import RowReader, RowView

ITEMS = 40
_DAY_MS = 86_400_000
_RECORDED_SHARE = 0.8
# What some types must say beside what all do.
_ASKED: Mapping[str, Mapping[str, Any]] = {
    "rating": {"value": 4.0},
    "play": {"seconds": 30.0, "length_seconds": 40.0},
}
_TYPES = [name for name, spec in EVENT_TYPES.items() if not spec.about_list]


def category_of(item_id: str) -> str:
    """The category that the catalogue gives an item of `i0`, `i1` ..."""
    return f"c{int(item_id[1:]) % 5}"


class KnownPeople:
    """People who act and ask at random; the catalogue has to have `ITEMS` items by `category_of`.

    Args:
        people: how many.
        seed: of who does what.

    Attributes:
        log: by user_id, what each has done that was recorded.
    """

    def __init__(self, settings: Settings, people: int, seed: int) -> None:
        self.schema = FeatureSchema(settings.features)
        self.log: dict[str, list[Interaction]] = {uuid4().hex: [] for _ in range(people)}
        self._store = RedisRowStore(settings.store, any_server=True)
        catalogue = CatalogueCache(self._store, 60.0)
        self._reader = RowReader(self._store, self.schema, catalogue)
        self._publisher = EventPublisher(settings.kafka, 10.0)
        self._draw = random.Random(seed)

    async def act(self) -> str:
        """Somebody does something, most often recorded, and asks.

        Returns:
            How the row of the answer differs from a recomputation of all that they did; "" where it
            does not.

        Raises:
            ServerError: Kafka or the store does not answer.
        """
        person = self._draw.choice(list(self.log))
        event = self._draw_event(person)
        sent = [*self.log[person], event]
        if self._draw.random() < _RECORDED_SHARE:
            (delivered,) = await self._publisher.publish([event_message(event)])
            if delivered.problem:
                raise ServerError(delivered.problem)
            self.log[person].append(event)
        (row,) = await self._reader.read([RowView(person, sent)])
        return self._compare(row, sent)

    async def find_differences(self) -> list[str]:
        """Whose stored rows are not what their events make of them, and how; what is missing too.

        Raises:
            ServerError: the store does not answer.
        """
        rows = await self._reader.read([RowView(person) for person in self.log])
        found = (
            self._find_missing(row, events) or self._compare(row, events)
            for row, events in zip(rows, self.log.values(), strict=True)
        )
        return [difference for difference in found if difference]

    async def close(self) -> None:
        """Close the connections."""
        self._publisher.close()
        await self._store.close()

    def _draw_event(self, person: str) -> Interaction:
        """Any type; one that takes another back names one of theirs, or none that there is.

        By its time: without it the newest of an item is meant, and which that is hangs on what a
        worker has read by then.
        """
        name = self._draw.choice(_TYPES)
        time_ms = int(time.time() * 1000) - self._draw.randrange(_DAY_MS)
        fields: dict[str, Any] = {"item_id": f"i{self._draw.randrange(ITEMS)}"}
        taken = EVENT_TYPES[name].takes_back
        if theirs := [e for e in self.log[person] if EVENT_TYPES.spec_of(e).name == taken]:
            other = self._draw.choice(theirs)
            fields = {"item_id": other.item_id, "taken_time": other.timestamp}
            time_ms = max(time_ms, other.timestamp)
        elif taken:
            fields["taken_time"] = time_ms
        fields |= {"event_id": uuid4().hex, "user_id": person, "timestamp": time_ms}
        return EVENT_TYPES[name].struct(**_ASKED.get(name, {}), **fields)

    @staticmethod
    def _find_missing(row: UserRow, events: Sequence[Interaction]) -> str:
        known = set(row.dedup_ids)
        missing = sum(observation(event, Hash(1), 0).event not in known for event in events)
        return f"{missing} of {len(events)} events are missing" if missing else ""

    def _compare(self, row: UserRow, events: Sequence[Interaction]) -> str:
        expected = empty_user(self.schema)
        for offset, event in enumerate(events):
            category = hash64(category_of(event.item_id))
            apply_event(expected, observation(event, Hash(1), offset, (category,)), self.schema)
        checks = {
            "counters": _are_close(row.counters, expected.counters),
            "history": row.events == expected.events,
            "seen": row.seen == expected.seen,
            "categories": row.categories.keys() == expected.categories.keys()
            and all(
                _are_close(row.categories[name], values)
                for name, values in expected.categories.items()
            ),
        }
        return ", ".join(name for name, is_right in checks.items() if not is_right)


def _are_close(found: Sequence[float], expected: Sequence[float]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) for one, other in pairs)
