"""All that the trainer knows so far, extended window by window without redoing the past.

E events that counted, F user features, T trends, N items of a vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from headwater_client.events import Interaction, Item

from features.arrays import Float32Array, Int64Array
from features.schema import FeatureSchema
from features.vocabulary import Vocabulary
from trainer.examples.replay import BoolArray, Example, Examples, Replayer, observe_log
from trainer.examples.trends import ItemPopularity, ItemTrends, PopularityUpdates, take_snapshots


@dataclass(frozen=True)
class _EventColumns:
    """Events as they arrived: fields as in `Examples`, whatever the vocabulary.

    Attributes:
        users: int64[E], numbers of people in order of their first events.
        hashes: int64[E], of the items.
    """

    users: Int64Array
    hashes: Int64Array
    types: Int64Array
    times_ms: Int64Array
    is_target: BoolArray
    marks_seen: BoolArray
    features: Float32Array
    features_after_last: Float32Array


class EventHistory:
    """Events of one window after another, and the catalogue, in memory.

    Attributes:
        schema: the rows that it replays.
        catalogue: the newest word on each item, by item id.
        events_of: how often each item id has an event, in order of the first.
    """

    def __init__(self, schema: FeatureSchema, items: Iterable[Item] = ()) -> None:
        self.schema = schema
        self.catalogue: dict[str, Item] = {}
        self.events_of: Counter[str] = Counter()
        self._replayer = Replayer(schema)
        self._popularity = ItemPopularity(schema)
        self._users: dict[str, int] = {}
        self._rows = self._columns([])
        # The order of `examples`, once somebody has asked for it.
        self._by_person: Int64Array | None = None
        self._popularities = self._popularity.apply([])
        self.extend([], items)

    def extend(self, events: Sequence[Interaction], items: Iterable[Item] = ()) -> None:
        """Add what arrived next.

        Args:
            events: in the order of arrival; one that was sent before does not count again.
            items: new words on the catalogue.
        """
        self.catalogue |= {item.item_id: item for item in items}
        named = {event.item_id for event in events}
        known = [self.catalogue[name] for name in named if name in self.catalogue]
        replayed = self._replayer.replay(observe_log(events, known))
        self.events_of.update(one.event.item_id for one in replayed)
        self._rows = _concatenate(self._rows, self._columns(replayed))
        self._by_person = None
        found = self._popularity.apply([one.event for one in replayed])
        self._popularities = _concatenate(self._popularities, found)

    @property
    def users(self) -> list[str]:
        """Everyone, in the order in which `examples` has them."""
        return list(self._users)

    @property
    def times_ms(self) -> Int64Array:
        """When each event happened, int64[E], in the order of arrival."""
        return self._rows.times_ms

    @property
    def is_target(self) -> BoolArray:
        """Which of them could have been recommended, bool[E], in the order of arrival."""
        return self._rows.is_target

    def examples(self, vocabulary: Vocabulary) -> Examples:
        """All events so far as a vocabulary sees them."""
        rows = self._rows
        if self._by_person is None:
            self._by_person = np.lexsort((rows.times_ms, rows.users))
        order = self._by_person
        people = rows.users[order]
        return Examples(
            items=vocabulary.indices(rows.hashes[order]),
            types=rows.types[order],
            times_ms=rows.times_ms[order],
            starts=np.searchsorted(people, people),
            is_target=rows.is_target[order],
            marks_seen=rows.marks_seen[order],
            features=rows.features[order],
            features_after_last=rows.features_after_last[order],
        )

    def trends(self, vocabulary: Vocabulary, asked_ms: Int64Array, snapshot_ms: int) -> ItemTrends:
        """What trended at the starts of the periods of `snapshot_ms` that these times are in."""
        return take_snapshots(self._popularities, asked_ms, vocabulary, self.schema, snapshot_ms)

    def _columns(self, replayed: Sequence[Example]) -> _EventColumns:
        size, width = len(replayed), self.schema.user_feature_count
        numbers = self._users
        people = [numbers.setdefault(one.event.user_id, len(numbers)) for one in replayed]
        return _EventColumns(
            users=np.array(people, np.int64),
            hashes=np.array([one.event.item for one in replayed], np.int64),
            types=np.array([one.event.type for one in replayed], np.int64),
            times_ms=np.array([one.event.time_ms for one in replayed], np.int64),
            is_target=np.array([one.is_target for one in replayed], np.bool_),
            marks_seen=np.array([one.marks_seen for one in replayed], np.bool_),
            features=_matrix([one.features for one in replayed], size, width),
            features_after_last=_matrix([one.features_after_last for one in replayed], size, width),
        )


def _matrix(values: list[list[float]], size: int, width: int) -> Float32Array:
    return np.array(values, np.float32).reshape(size, width)


Columns = TypeVar("Columns", _EventColumns, PopularityUpdates)


def _concatenate(first: Columns, second: Columns) -> Columns:
    """Each array of the first, then that of the second."""
    return type(first)(
        *(
            np.concatenate([getattr(first, field.name), getattr(second, field.name)])
            for field in fields(first)
        )
    )
