"""Training rows from a log: the stream's own functions, replayed up to each event.

`EventHistory` holds all that the trainer knows so far, and is extended window by window without
redoing the past. E events that counted, F user features, T trends, N items of a vocabulary.
 Nothing of an event or of what follows it is in its own row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from headwater_client.events import Interaction, Item

from features import inputs, rows
from features.arrays import Float32Array, Int64Array
from features.rows import Observation, UserRow
from features.schema import FeatureSchema
from features.topics import Hash, hash64
from features.vocabulary import Vocabulary
from trainer.examples.trends import ItemPopularity, ItemTrends, PopularityUpdates, take_snapshots

BoolArray = npt.NDArray[np.bool_]
SOURCE = Hash(0)


@dataclass(frozen=True)
class Examples:
    """Events that counted, a person's together and ascending in time, with what was known before.

    Attributes:
        items: int64[E], vocabulary indices.
        types: int64[E].
        times_ms: int64[E].
        starts: int64[E], where the events of the same person begin.
        is_target: bool[E], a recommendation could have been right: the item was not taken before.
        marks_seen: bool[E], this event takes its item for the first time.
        features: float32[E, F], of the person as of the event's time, before it.
        features_after_last: float32[E, F], the same as of the event before it.
    """

    items: Int64Array
    types: Int64Array
    times_ms: Int64Array
    starts: Int64Array
    is_target: BoolArray
    marks_seen: BoolArray
    features: Float32Array
    features_after_last: Float32Array

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Example:
    """One event that counted and what was known before it; fields as in `Examples`."""

    event: Observation
    is_target: bool
    marks_seen: bool
    features: list[float]
    features_after_last: list[float]


def observe_log(events: Sequence[Interaction], items: Iterable[Item]) -> list[Observation]:
    """A log as the rows see it when its events arrive in this order."""
    categories = {item.item_id: tuple(map(hash64, item.category)) for item in items}
    return [
        rows.observation(event, SOURCE, offset, categories.get(event.item_id, ()))
        for offset, event in enumerate(events)
    ]


def build_examples(
    replayed: Sequence[Example], vocabulary: Vocabulary, schema: FeatureSchema
) -> Examples:
    """Replayed events as columns, in the order of `order_by_person`."""
    return _to_columns(order_by_person(replayed), vocabulary, schema)


def order_by_person(replayed: Sequence[Example]) -> list[Example]:
    """A person's events together and ascending in time."""
    people: dict[str, int] = {}
    numbers = [people.setdefault(one.event.user_id, len(people)) for one in replayed]
    times_ms = np.fromiter((one.event.time_ms for one in replayed), np.int64, len(replayed))
    order = np.lexsort((times_ms, np.asarray(numbers, np.int64)))
    return [replayed[index] for index in order]


def replay_log(log: Iterable[Observation], schema: FeatureSchema) -> list[Example]:
    """Each event of a log that counts, with what was known before it.

    Args:
        log: the events of many people in the order in which they arrive.
    """
    return Replayer(schema).replay(log)


class Replayer:
    """People as far as their events were replayed; it goes on where the last log ended.

    So the training rows of a window cost no replay of those before it.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._arrived = 0
        self._known: dict[str, UserRow] = {}
        self._taken: dict[str, set[int]] = {}

    def replay(self, log: Iterable[Observation]) -> list[Example]:
        """Each event that counts, with what was known before it, all earlier logs included.

        Args:
            log: what arrived next, in this order. Its offsets are numbered anew: those of several
                logs, or of a window, do not ascend.
        """
        return [made for event in log if (made := self._replay_event(event))]

    def _replay_event(self, event: Observation) -> Example | None:
        event = event._replace(source=SOURCE, offset=self._arrived)
        self._arrived += 1
        row = self._known.setdefault(event.user_id, rows.empty_user(self._schema))
        before = _previous_features(row, event, self._schema)
        if not rows.apply_event(row, event, self._schema):
            return None
        mine = self._taken.setdefault(event.user_id, set())
        wanted = event.item not in mine
        takes = wanted and event.type in self._schema.seen_by
        if takes:
            mine.add(event.item)
        return Example(event, wanted, takes, *before)


def _previous_features(
    row: UserRow, event: Observation, schema: FeatureSchema
) -> tuple[list[float], list[float]]:
    at_event = inputs.user_features(row, event.time_ms, schema)
    if not row.events or row.reference_ms == event.time_ms:
        return at_event, at_event
    return at_event, inputs.user_features(row, row.reference_ms, schema)


def _to_columns(
    ordered: Sequence[Example], vocabulary: Vocabulary, schema: FeatureSchema
) -> Examples:
    size = len(ordered)
    hashes = np.fromiter((one.event.item for one in ordered), np.int64, size)
    width = schema.user_feature_count
    return Examples(
        items=vocabulary.indices(hashes),
        types=np.fromiter((one.event.type for one in ordered), np.int64, size),
        times_ms=np.fromiter((one.event.time_ms for one in ordered), np.int64, size),
        starts=_person_starts([one.event.user_id for one in ordered]),
        is_target=np.fromiter((one.is_target for one in ordered), np.bool_, size),
        marks_seen=np.fromiter((one.marks_seen for one in ordered), np.bool_, size),
        features=_matrix((one.features for one in ordered), size, width),
        features_after_last=_matrix((one.features_after_last for one in ordered), size, width),
    )


def _person_starts(user_ids: Sequence[str]) -> Int64Array:
    first: dict[str, int] = {}
    found = (first.setdefault(name, at) for at, name in enumerate(user_ids))
    return np.fromiter(found, np.int64, len(user_ids))


def _matrix(values: Iterable[list[float]], size: int, width: int) -> Float32Array:
    flat = np.fromiter((one for row in values for one in row), np.float32, size * width)
    return flat.reshape(size, width)


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
            features=_feature_matrix([one.features for one in replayed], size, width),
            features_after_last=_feature_matrix(
                [one.features_after_last for one in replayed], size, width
            ),
        )


def _feature_matrix(values: list[list[float]], size: int, width: int) -> Float32Array:
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
