"""Applies a batch of events to user and item rows, each event once; reads rows for who only asks.

Item rows are written before user rows. So an event that a user's row contains has been counted for
its item too, and whether it is a duplicate is always decided from a row that does not contain it
yet: docs/explanation/exactly-once.md says why this is exact under replay.
"""

from array import array
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import structlog
from cachetools import LRUCache
from headwater_client import Interaction
from opentelemetry.trace import SpanContext

from features import columns
from features.columns import CatalogueEntry, DamagedRowError, Stored
from features.events import current_ms
from features.merging import merge_rows
from features.metrics import LogThrottle
from features.rows import (
    ItemGroup,
    Observation,
    UserRow,
    apply_event,
    apply_item_event,
    empty_group,
    empty_user,
    find_item_event,
    observation,
    recover_group,
    recover_user,
    says_otherwise,
)
from features.schema import FeatureSchema
from features.store import USERS, VERSION, RowRead, RowStore, RowWrite, StoreTable, set_aside
from features.topics import Hash, hash64, source_hash
from stream import metrics
from stream.catalogue import CatalogueCache, catalogue_read

log = structlog.get_logger()
RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class ConsumerRecord(NamedTuple):
    """A valid event and its place in Kafka. `column` is its source's column in item rows.

    `arrived_ms` is when Kafka took it. `answered`: it is read again, and its person has had the
    answer to it. `sender`: the span in which an app sent it.
    """

    event: Interaction
    column: str
    source: Hash
    offset: int
    arrived_ms: int = 0
    answered: bool = False
    sender: SpanContext | None = None


class ItemGroupKey(NamedTuple):
    """Names an item group: an item's row, and the column of one source in it."""

    item_id: str
    column: str


@dataclass(slots=True)
class CachedRow(Generic[RowT]):
    """A row, and its version column as the store holds it: the condition of the next write."""

    row: RowT
    version: bytes | None


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The rows that a batch works on."""

    users: dict[str, CachedRow[UserRow]]
    groups: dict[ItemGroupKey, CachedRow[ItemGroup]]
    entries: dict[str, CatalogueEntry]


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What a batch has changed: the rows of all its users, and the groups of its items."""

    users: dict[str, UserRow]
    groups: dict[ItemGroupKey, ItemGroup]


class RowUpdater:
    """Reads the rows of a batch, applies its events to them, and writes them.

    Rows are cached between batches. That is safe without any care for rebalances: a write is
    refused unless the store still holds the version that was read.

    Args:
        popularity: the table of item rows.
        cache_size: number of rows of each kind to cache; 0: none.
    """

    def __init__(
        self,
        store: RowStore,
        schema: FeatureSchema,
        catalogue: CatalogueCache,
        popularity: StoreTable,
        cache_size: int,
    ) -> None:
        self._store = store
        self._used_twice = LogThrottle(every_s=60.0)
        self._schema = schema
        self._catalogue = catalogue
        self._popularity = popularity
        self._users: LRUCache[str, CachedRow[UserRow]] = LRUCache(cache_size)
        self._groups: LRUCache[ItemGroupKey, CachedRow[ItemGroup]] = LRUCache(cache_size)

    async def apply(self, batch: Sequence[ConsumerRecord]) -> RowChanges:
        """Apply a batch, whose events of each source are in order, and write all that changed.

        Raises:
            ServerError: the store does not answer. Nothing is lost by applying the batch again.
        """
        while True:
            rows = await self._take_rows(batch)
            changed_users, changed_groups = self._change(batch, rows)
            if await self._write(changed_users, changed_groups):
                if self._users.maxsize:
                    self._users.update(rows.users)
                    self._groups.update(rows.groups)
                return RowChanges(
                    {name: user.row for name, user in rows.users.items()},
                    {key: group.row for key, group in changed_groups.items()},
                )
            metrics.CONFLICTS.inc()
            log.warning("row_changed_by_another_worker", events=len(batch))

    async def _take_rows(self, batch: Sequence[ConsumerRecord]) -> BatchRows:
        """The rows of the batch, out of the cache until they are written; others are read."""
        users = _pop(self._users, (record.event.user_id for record in batch))
        # Of what speaks against an item there is nothing to count for it.
        counted = (record for record in batch if record.column in self._popularity.types)
        groups = _pop(self._groups, (ItemGroupKey(r.event.item_id, r.column) for r in counted))
        entries = self._catalogue.get_cached({record.event.item_id for record in batch})
        user_reads = [RowRead(USERS, name, USERS.columns) for name in _missing(users)]
        group_reads = [
            RowRead(self._popularity, key.item_id, (key.column,)) for key in _missing(groups)
        ]
        entry_reads = [catalogue_read(name) for name in _missing(entries)]
        replies = iter(await self._store.read([*user_reads, *group_reads, *entry_reads]))
        now_ms = current_ms()
        for read, stored in zip(user_reads, replies, strict=False):
            try:
                row = columns.decode_user(stored, self._schema)
            except DamagedRowError as error:
                await set_aside(self._store, read, stored, error)
                row = empty_user(self._schema)
            recover_user(row, now_ms, self._schema)
            users[read.entity_id] = CachedRow(row, stored[VERSION])
        for read, stored in zip(group_reads, replies, strict=False):
            (column,) = read.columns
            try:
                group = columns.decode_group(stored[column], self._schema)
            except DamagedRowError as error:
                await set_aside(self._store, read, stored, error)
                group = empty_group(self._schema)
            recover_group(group, now_ms)
            groups[ItemGroupKey(read.entity_id, column)] = CachedRow(group, stored[column])
        for read, stored in zip(entry_reads, replies, strict=True):
            entries[read.entity_id] = self._catalogue.put(read.entity_id, stored)
        return BatchRows(_present(users), _present(groups), _present(entries))

    def _change(
        self, batch: Sequence[ConsumerRecord], rows: BatchRows
    ) -> tuple[dict[str, CachedRow[UserRow]], dict[ItemGroupKey, CachedRow[ItemGroup]]]:
        """Apply the events in place; the rows that have changed."""
        changed_users: dict[str, CachedRow[UserRow]] = {}
        changed_groups: dict[ItemGroupKey, CachedRow[ItemGroup]] = {}
        for event, column, source, offset, arrived_ms, *_ in batch:
            user = rows.users[event.user_id]
            if offset <= user.row.offsets.get(source, -1):
                continue
            if user.row.merges and user.row.merges.forgets(arrived_ms):
                user.row.offsets[source] = offset
                changed_users[event.user_id] = user
                continue
            categories = rows.entries[event.item_id].category_hashes
            observed = observation(event, source, offset, categories)
            changed_users[event.user_id] = user
            for_item = find_item_event(user.row, observed, self._schema)
            if not apply_event(user.row, observed, self._schema):
                self._count_repeat(user.row, observed, column)
            elif for_item is not None:
                key = ItemGroupKey(event.item_id, column)
                apply_item_event(rows.groups[key].row, for_item, self._schema)
                changed_groups[key] = rows.groups[key]
        return changed_users, changed_groups

    def _count_repeat(self, row: UserRow, event: Observation, column: str) -> None:
        """Count an event of a known id; one that says something else is told in the log."""
        topic, other = column.rpartition("_")[0], says_otherwise(row, event, self._schema)
        metrics.REPEATED_EVENTS.labels(topic, "other" if other else "same").inc()
        if other and (count := self._used_twice.count()):
            log.warning("event_id_used_twice", topic=topic, events=count)

    async def _write(
        self,
        users: Mapping[str, CachedRow[UserRow]],
        groups: Mapping[ItemGroupKey, CachedRow[ItemGroup]],
    ) -> bool:
        """Write the groups, then the users; False as soon as a row was not as it was read."""
        group_columns = {key: columns.encode_group(group.row) for key, group in groups.items()}
        accepted = await self._store.write(
            [
                RowWrite(
                    self._popularity,
                    key.item_id,
                    {key.column: group_columns[key]},
                    group.row.reference_ms,
                    key.column,
                    group.version,
                )
                for key, group in groups.items()
            ]
        )
        if not all(accepted):
            return False
        user_columns = {name: columns.encode_user(user.row) for name, user in users.items()}
        accepted = await self._store.write(
            [
                RowWrite(USERS, name, user_columns[name], u.row.reference_ms, VERSION, u.version)
                for name, u in users.items()
            ]
        )
        for key, group in groups.items():
            group.version = group_columns[key]
        for name, user in users.items():
            user.version = user_columns[name][VERSION]
        return all(accepted)


class RowView(NamedTuple):
    """Whose row is wanted, and what of it the store may not know yet.

    Attributes:
        events: have just happened to this person, in this order.
        left_out: items that are taken for seen.
        left_out_hashes: likewise, by their hashes.
        is_guest: nothing is stored of this person.
        merged_id: of a guest who has become this person, "" for none: what is known of both counts.
    """

    user_id: str
    events: Sequence[Interaction] = ()
    left_out: Sequence[str] = ()
    is_guest: bool = False
    merged_id: str = ""
    left_out_hashes: Collection[Hash] = ()


# Where events stand that are in no topic yet: a source that no stored row has absorbed.
_REQUEST = source_hash("request", 0)


class RowReader:
    """Reads people's rows as they are now; nothing is written, and nothing is kept.

    Events that came with a question change the row in memory, by the function that the worker
    changes it by: an event that the worker has absorbed meanwhile counts once all the same.
    """

    def __init__(self, store: RowStore, schema: FeatureSchema, catalogue: CatalogueCache) -> None:
        self._store = store
        self._schema = schema
        self._catalogue = catalogue
        self._damaged = LogThrottle()

    async def read(self, views: Sequence[RowView]) -> list[UserRow]:
        """A row of its own for each view; all are read in one call.

        Raises:
            ServerError: the store does not answer.
        """
        item_ids = {event.item_id for view in views for event in view.events}
        entries = self._catalogue.get_cached(item_ids)
        stored_views = [view for view in views if not view.is_guest]
        people = dict.fromkeys(
            [view.user_id for view in stored_views]
            + [view.merged_id for view in stored_views if view.merged_id]
        )
        user_reads = [RowRead(USERS, name, USERS.columns) for name in people]
        entry_reads = [catalogue_read(name) for name in _missing(entries)]
        replies = await self._store.read([*user_reads, *entry_reads])
        for read, found in zip(entry_reads, replies[len(user_reads) :], strict=True):
            entries[read.entity_id] = self._catalogue.put(read.entity_id, found)
        stored = {read.entity_id: found for read, found in zip(user_reads, replies, strict=False)}
        known = _present(entries)
        return [self._apply(self._merge(view, stored), view, known) for view in views]

    def _merge(self, view: RowView, stored: Mapping[str, Stored]) -> UserRow:
        """The stored row, with that of the guest whom the person has been."""
        row = self._decode(None if view.is_guest else stored[view.user_id])
        if view.merged_id and not view.is_guest:
            guest = self._decode(stored[view.merged_id])
            if _is_handed_over(row, guest):
                return row
            for each in (row, guest):
                recover_user(each, current_ms(), self._schema)
            merge_rows(row, guest, self._schema)
        return row

    def _decode(self, stored: Stored | None) -> UserRow:
        """A row as it is stored; a guest's and a damaged one, which its next event mends, is empty.

        Who only reads needs no right to write, and keeps nothing aside.
        """
        try:
            return columns.decode_user(stored, self._schema) if stored else empty_user(self._schema)
        except DamagedRowError as error:
            if rows := self._damaged.count():
                log.warning("damaged_row_read", table=USERS.name, rows=rows, error=str(error))
            return empty_user(self._schema)

    def recall(self, view: RowView) -> UserRow:
        """What the view alone says, without the row: for when the store is away."""
        entries = self._catalogue.recall(event.item_id for event in view.events)
        return self._apply(empty_user(self._schema), view, entries)

    def _apply(self, row: UserRow, view: RowView, entries: Mapping[str, CatalogueEntry]) -> UserRow:
        recover_user(row, current_ms(), self._schema)
        for number, event in enumerate(view.events):
            categories = entries[event.item_id].category_hashes
            apply_event(row, observation(event, _REQUEST, number, categories), self._schema)
        if view.left_out or view.left_out_hashes:
            others = {*map(hash64, view.left_out), *view.left_out_hashes}
            row.seen = array("q", sorted(others.union(row.seen)))
        return row


def _is_handed_over(row: UserRow, guest: UserRow) -> bool:
    """Whether a person's row has that of the guest, by a merge for good."""
    into = guest.merges.into if guest.merges else None
    return into is not None and row.merges is not None and row.merges.knows(into.merge)


def _pop(
    cache: MutableMapping[KeyT, CachedRow[RowT]], keys: Iterable[KeyT]
) -> dict[KeyT, CachedRow[RowT] | None]:
    """The cached row of each key, removed: rows that change but fail to be written are dropped."""
    return {key: cache.pop(key, None) for key in dict.fromkeys(keys)}


def _missing(rows: Mapping[KeyT, object | None]) -> list[KeyT]:
    return [key for key, row in rows.items() if row is None]


def _present(rows: Mapping[KeyT, ValueT | None]) -> dict[KeyT, ValueT]:
    return {key: row for key, row in rows.items() if row is not None}
