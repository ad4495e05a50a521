"""Training rows from a log: the stream's own functions, replayed up to each event.

`EventHistory` holds all that the trainer knows so far, and is extended window by window without
redoing the past. E events that counted, F user features, T trends, N items of a vocabulary.
 Nothing of an event or of what follows it is in its own row.

What trended when is the popularity of items at the start of every period of time with events, in
S snapshots.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from headwater_client.events import Interaction, Item
from msgspec.structs import replace as replace_fields

from features import inputs, rows
from features.merging import merge_rows
from features.rows import ItemGroup, Observation, UserRow
from features.schema import FeatureSchema, Float32Array, Int64Array, Vocabulary
from features.topics import Hash, hash64

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class ItemTrends:
    """Trend values of every item at points in time.

    Attributes:
        times_ms: int64[S], ascending; a snapshot holds the events strictly before its time.
        values: float16[S, T, N], `inputs.trend_values`; 0 for padding and the unknown item.
    """

    times_ms: Int64Array
    values: npt.NDArray[np.float16]

    def snapshot_indices(self, times_ms: Int64Array) -> Int64Array:
        """The newest snapshot not after each time, int64, same shape."""
        return np.maximum(np.searchsorted(self.times_ms, times_ms, side="right") - 1, 0)


@dataclass(frozen=True)
class PopularityUpdates:
    """What each event made of its item's popularity.

    Attributes:
        items: int64[E], hashes.
        known_ms: int64[E], ascending, when it could be known: what comes late is known late.
        reference_ms: int64[E], the time of `values`: they fade alike from there.
        values: float64[E, T], right after the event.
    """

    items: Int64Array
    known_ms: Int64Array
    reference_ms: Int64Array
    values: npt.NDArray[np.float64]


class ItemPopularity:
    """Item rows as the stream keeps them, which absorb a log bit by bit."""

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._groups: dict[int, dict[int, ItemGroup]] = {}
        self._people: dict[str, UserRow] = {}
        self._known_ms = 0

    def apply(self, log: Sequence[Observation]) -> PopularityUpdates:
        """What these events make of their items, in this order."""
        size = len(log)
        times_ms = np.fromiter((event.time_ms for event in log), np.int64, size)
        known_ms = np.maximum.accumulate(np.maximum(times_ms, self._known_ms))
        self._known_ms = int(known_ms[-1]) if size else self._known_ms
        reference_ms = np.empty(size, np.int64)
        values = np.empty((size, self._schema.trend_count), np.float64)
        for at, event in enumerate(log):
            reference_ms[at], values[at] = self._apply_event(event)
        items = np.fromiter((event.item for event in log), np.int64, size)
        return PopularityUpdates(items, known_ms, reference_ms, values)

    def _apply_event(self, event: Observation) -> tuple[int, list[float]]:
        groups = self._groups.setdefault(event.item, {})
        group = groups.setdefault(event.type, rows.empty_group(self._schema))
        if event.taken_ms is not None:
            # As of the time of what it takes back, as the stream counts it.
            undone = event._replace(time_ms=event.taken_ms, strength=1.0)
            rows.apply_item_event(group, undone, self._schema)
        elif event.is_action and self._counts(event):
            rows.apply_item_event(group, event, self._schema)
        time_ms = max(group.reference_ms for group in groups.values())
        return time_ms, rows.popularity(groups.items(), time_ms, self._schema)[:-1]

    def _counts(self, event: Observation) -> bool:
        """Whether `rows.find_item_event` finds one, of rows that hold the history alone."""
        if self._schema.settings.item_event_limit is None:
            return True
        row = self._people.setdefault(event.user_id, UserRow([]))
        counted = rows.find_item_event(row, event, self._schema)
        rows.add_to_history(row, event, self._schema)
        return counted is not None


def compute_trends(
    log: Sequence[Observation],
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    snapshot_ms: int,
    since_ms: int = 0,
) -> ItemTrends:
    """Trends at the starts of periods of `snapshot_ms` in which events happened.

    Args:
        log: the events that counted, and what took some of them back, in any order.
        since_ms: no snapshot is needed for what happened before.
    """
    ordered = sorted(log, key=attrgetter("time_ms"))
    # Numbered by time: an item's row skips what it takes for absorbed.
    ordered = [event._replace(offset=at) for at, event in enumerate(ordered)]
    found = ItemPopularity(schema).apply(ordered)
    asked_ms = found.known_ms[found.known_ms >= since_ms]
    return take_snapshots(found, asked_ms, vocabulary, schema, snapshot_ms)


def take_snapshots(
    found: PopularityUpdates,
    asked_ms: Int64Array,
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    snapshot_ms: int,
) -> ItemTrends:
    """Trends at the starts of the periods of `snapshot_ms` that these times are in.

    Where they would take more than `MAX_BYTES` the periods become longer.

    Args:
        asked_ms: int64[any], in any order.
    """
    half_lives = np.array(schema.item_half_lives[:-1])
    starts = _snapshot_times(asked_ms, snapshot_ms, len(vocabulary) * len(half_lives))
    ends = np.searchsorted(found.known_ms, starts, side="left")
    indices = vocabulary.indices(found.items)
    current = np.zeros((len(vocabulary), len(half_lives)), np.float64)
    reference_ms = np.zeros(len(vocabulary), np.int64)
    values = np.empty((len(starts), len(half_lives), len(vocabulary)), np.float16)
    done = 0
    for at, (time_ms, end) in enumerate(zip(starts, ends, strict=True)):
        # Of several events of an item the last one stays.
        current[indices[done:end]] = found.values[done:end]
        reference_ms[indices[done:end]] = found.reference_ms[done:end]
        current[vocabulary.unknown] = 0
        left = np.exp2((reference_ms - time_ms) / half_lives[:, None])
        values[at] = np.log1p(np.maximum(0.0, current.T) * left)
        done = end
    return ItemTrends(starts, values)


def _snapshot_times(times_ms: Int64Array, snapshot_ms: int, size: int) -> Int64Array:
    starts = np.unique(times_ms // snapshot_ms) * snapshot_ms
    while len(starts) > 1 and len(starts) * size * 2 > MAX_BYTES:
        snapshot_ms *= 2
        starts = np.unique(times_ms // snapshot_ms) * snapshot_ms
    return starts.astype(np.int64)


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
        is_target: bool[E], a recommendation could have been right: the item was not taken before,
            and what was done was not taken back since.
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
    """One event that counted and what was known before it; fields as in `Examples`.

    `taken_back` is what took it back since, with its `taken_ms`: what is left of it is a look.
    """

    event: Observation
    is_target: bool
    marks_seen: bool
    features: list[float]
    features_after_last: list[float]
    taken_back: Observation | None = None

    def undo(self, taken_back: Observation) -> "Example":
        """What is left of it: nothing to be predicted."""
        return replace(self, is_target=False, taken_back=taken_back)

    def type_in_rows(self, schema: FeatureSchema) -> int:
        """The code for which it stands in its person's history."""
        return schema.event_codes[0] if self.taken_back else schema.stands_for[self.event.type]


def observe_log(events: Sequence[Interaction], items: Iterable[Item]) -> list[Observation]:
    """A log as the rows see it when its events arrive in this order."""
    categories = {item.item_id: tuple(map(hash64, item.category)) for item in items}
    return [
        rows.observation(event, SOURCE, offset, categories.get(event.item_id, ()))
        for offset, event in enumerate(events)
    ]


def item_events(replayed: Sequence[Example]) -> list[Observation]:
    """What items count of replayed events: each, and what took it back, in order of arrival."""
    undone = [one.taken_back for one in replayed if one.taken_back]
    events = [one.event for one in replayed]
    return sorted([*events, *undone], key=attrgetter("offset")) if undone else events


def select_positive(
    observed: Sequence[Observation], replayed: Sequence[Example]
) -> list[Observation]:
    """The events of a log that say for an item, and were not taken back since.

    Args:
        observed: the log, as of `observe_log`.
        replayed: the same log.
    """
    undone = {one.event.offset for one in replayed if one.taken_back}
    return [seen for seen in observed if seen.is_action and seen.offset not in undone]


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


def previous_times_ms(columns: Examples) -> Int64Array:
    """When the person did something last before each event's instant, int64[E].

    Of a person's first instant it says nothing.
    """
    change = (np.diff(columns.starts) != 0) | (np.diff(columns.times_ms) != 0)
    begins = np.concatenate([[True], change])
    first = np.maximum.accumulate(np.where(begins, np.arange(len(columns)), 0))
    before: Int64Array = columns.times_ms[np.maximum(first - 1, 0)]
    return before


def replay_log(log: Iterable[Observation], schema: FeatureSchema) -> list[Example]:
    """Each event of a log that counts, with what was known before it.

    Args:
        log: the events of many people in the order in which they arrive.
    """
    return Replayer(schema).replay(log)


class Replayer:
    """People as far as their events were replayed; it goes on where the last log ended.

    So the training rows of a window cost no replay of those before it.

    Attributes:
        unmatched: of the last log, what takes back an event that is in no example of that log;
            each with its `taken_ms`.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._arrived = 0
        self._known: dict[str, UserRow] = {}
        self._taken: dict[str, set[int]] = {}
        self._taken_by = {taken: code for code, taken in schema.takes_back.items()}
        self.unmatched: list[Observation] = []

    def replay(self, log: Iterable[Observation]) -> list[Example]:
        """Each event that counts as an action, with what was known before it, of all logs so far.

        One that speaks against an item changes its person's row only, and so does one that takes
        another back: but that one is nothing to be predicted then.

        Args:
            log: what arrived next, in this order. Its offsets are numbered anew: those of several
                logs, or of a window, do not ascend.
        """
        self.unmatched = []
        made = [one for event in log if (one := self._replay_event(event))]
        return self._undo(made) if self.unmatched else made

    def merge(self, guest: str, member: str) -> None:
        """Let a guest be a member: what is known of both is one row, and what they have taken."""
        if guest in self._known:
            row = self._known.setdefault(member, rows.empty_user(self._schema))
            merge_rows(row, self._known.pop(guest), self._schema)
            taken = self._taken.pop(guest, set())
            self._taken.setdefault(member, set()).update(taken)

    def _undo(self, made: list[Example]) -> list[Example]:
        """Take back those of these examples that were taken back."""
        places = {
            _name_of(one.event, one.event.type, one.event.time_ms): n for n, one in enumerate(made)
        }
        said, self.unmatched = self.unmatched, []
        for event in said:
            taken = self._schema.takes_back[event.type]
            place = places.get(_name_of(event, taken, event.taken_ms))
            if place is None:
                self.unmatched.append(event)
            elif made[place].taken_back is None:
                made[place] = made[place].undo(event)
        return made

    def _replay_event(self, event: Observation) -> Example | None:
        event = event._replace(source=SOURCE, offset=self._arrived)
        self._arrived += 1
        row = self._known.setdefault(event.user_id, rows.empty_user(self._schema))
        before = _previous_features(row, event, self._schema)
        counted = rows.find_item_event(row, event, self._schema)
        undone = rows.is_taken_back(row, event, self._schema)
        if not rows.apply_event(row, event, self._schema):
            return None
        if event.type in self._schema.takes_back:
            if counted:
                self.unmatched.append(event._replace(taken_ms=counted.time_ms))
            return None
        mine = self._taken.setdefault(event.user_id, set())
        if not event.is_action:
            if rows.speaks_against(event, self._schema):
                mine.add(event.item)
            return None
        wanted = event.item not in mine
        takes = wanted and event.type in self._schema.seen_by
        if takes:
            mine.add(event.item)
        made = Example(event, wanted, takes, *before)
        if not undone:
            return made
        # It comes after what took it back, which found nothing to undo then.
        by = event._replace(type=self._taken_by[event.type], strength=-1.0, taken_ms=event.time_ms)
        return made.undo(by)


def _name_of(
    event: Observation, code: int, time_ms: int | None
) -> tuple[str, Hash, int, int | None]:
    """Names what an event takes back, or itself."""
    return event.user_id, event.item, code, time_ms


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
        types=np.fromiter((one.type_in_rows(schema) for one in ordered), np.int64, size),
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
        self._members: dict[str, str] = {}
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
        if self._members:
            events = [self._rename(event) for event in events]
        named = {event.item_id for event in events}
        known = [self.catalogue[name] for name in named if name in self.catalogue]
        replayed = self._replayer.replay(observe_log(events, known))
        self.events_of.update(one.event.item_id for one in replayed)
        undone = self._undo(self._replayer.unmatched)
        self._rows = _concatenate(self._rows, self._columns(replayed))
        self._by_person = None
        counted = sorted([*item_events(replayed), *undone], key=attrgetter("offset"))
        found = self._popularity.apply(counted)
        self._popularities = _concatenate(self._popularities, found)

    def merge(self, merges: Mapping[str, str]) -> None:
        """Let guests be members, in what is known and in what arrives next; the first word stays.

        What was known before each event stays as it was: then they were two.
        """
        for guest, member in merges.items():
            root = self._find_member(member)
            if guest in self._members or root == guest:
                continue
            self._members[guest] = root
            self._replayer.merge(guest, root)
            if (number := self._users.get(guest)) is not None:
                own = self._users.setdefault(root, len(self._users))
                self._rows.users[self._rows.users == number] = own
                self._by_person = None

    def _find_member(self, person: str) -> str:
        """Whom a person has become, and that one, and so on; circles are not among them."""
        while person in self._members:
            person = self._members[person]
        return person

    def _rename(self, event: Interaction) -> Interaction:
        if event.user_id not in self._members:
            return event
        return replace_fields(event, user_id=self._find_member(event.user_id))

    def _undo(self, said: Sequence[Observation]) -> list[Observation]:
        """Take back what earlier logs had; those events that have found something to undo."""
        if not said:
            return []
        known, done = self._rows, list[Observation]()
        places: dict[tuple[int, int, int, int], int] = {}
        items = np.fromiter((event.item for event in said), np.int64, len(said))
        columns = known.users, known.hashes, known.types, known.times_ms
        for at in np.flatnonzero(np.isin(known.hashes, items)).tolist():
            user, item, code, time_ms = (int(column[at]) for column in columns)
            places[user, item, code, time_ms] = at
        for event in said:
            user, taken = self._users.get(event.user_id, -1), self.schema.takes_back[event.type]
            place = user, event.item, self.schema.stands_for[taken], event.taken_ms or 0
            if place in places:
                at = places.pop(place)
                known.is_target[at], known.types[at] = False, self.schema.event_codes[0]
                done.append(event)
        return done

    @property
    def users(self) -> list[str]:
        """Everyone, in the order in which `examples` has them; guests of old, too."""
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
            types=np.array([one.type_in_rows(self.schema) for one in replayed], np.int64),
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
