"""Lets a batch of events change user and item rows, each event once.

Item rows are written before user rows. So an event that a person's row has absorbed has been
counted for its item too, and whether it is a duplicate is always decided from a row that has not
absorbed it yet: docs/explanation/exactly-once.md says why this is exact under replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import structlog
from cachetools import LRUCache
from headwater_client.events import Interaction

from features import columns
from features.columns import CatalogueEntry
from features.rows import ItemGroup, UserRow, apply_event, apply_item_event, observation
from features.schema import FeatureSchema
from features.store import USERS, VERSION, RowRead, RowStore, RowWrite, StoreTable
from features.topics import Hash
from stream import metrics
from stream.catalogue import CatalogueCache, catalogue_read

log = structlog.get_logger()
RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class ConsumerRecord(NamedTuple):
    """A valid event and where it stood. `column` is its source's column in item rows."""

    event: Interaction
    column: str
    source: Hash
    offset: int


class ItemGroupKey(NamedTuple):
    """Names an item group: an item's row, and the column of one source in it."""

    item_id: str
    column: str


@dataclass(slots=True)
class CachedRow(Generic[RowT]):
    """A row at hand, and its version column as the store holds it."""

    row: RowT
    version: bytes | None


@dataclass(frozen=True, slots=True)
class BatchRows:
    """What a batch works on."""

    users: dict[str, CachedRow[UserRow]]
    groups: dict[ItemGroupKey, CachedRow[ItemGroup]]
    shelves: dict[str, CatalogueEntry]


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What a batch has changed: the rows of all its people, and the groups of its items."""

    users: dict[str, UserRow]
    groups: dict[ItemGroupKey, ItemGroup]


class RowUpdater:
    """Reads the rows of a batch, lets its events change them, and writes them.

    Rows stay at hand between batches. That is safe without any care for rebalances: a write is
    refused unless the store still holds the version that was read.

    Args:
        popularity: the table of item rows.
        keep: how many rows of each kind to keep at hand.
    """

    def __init__(
        self,
        store: RowStore,
        schema: FeatureSchema,
        catalogue: CatalogueCache,
        popularity: StoreTable,
        keep: int,
    ) -> None:
        self._store = store
        self._schema = schema
        self._catalogue = catalogue
        self._popularity = popularity
        self._users: LRUCache[str, CachedRow[UserRow]] = LRUCache(keep)
        self._groups: LRUCache[ItemGroupKey, CachedRow[ItemGroup]] = LRUCache(keep)

    async def apply(self, batch: Sequence[ConsumerRecord]) -> RowChanges:
        """Absorb a batch, whose events of each source are in order, and write all that changed.

        Raises:
            ServerError: the store does not answer. Nothing is lost by absorbing the batch again.
        """
        while True:
            rows = await self._rows(batch)
            changed_users, changed_groups = self._change_rows(batch, rows)
            if await self._written(changed_users, changed_groups):
                self._users.update(rows.users)
                self._groups.update(rows.groups)
                return RowChanges(
                    {name: kept.row for name, kept in rows.users.items()},
                    {cell: kept.row for cell, kept in changed_groups.items()},
                )
            metrics.CONFLICTS.inc()
            log.warning("row_changed_by_another_worker", events=len(batch))

    async def _rows(self, batch: Sequence[ConsumerRecord]) -> BatchRows:
        """The rows of the batch, taken out of those at hand until they are written."""
        users = _taken(self._users, (arrived.event.user_id for arrived in batch))
        groups = _taken(self._groups, (ItemGroupKey(a.event.item_id, a.column) for a in batch))
        shelves = self._catalogue.get_cached({arrived.event.item_id for arrived in batch})
        new_users = [RowRead(USERS, name, USERS.columns) for name in _absent(users)]
        new_groups = [
            RowRead(self._popularity, cell.item_id, (cell.column,)) for cell in _absent(groups)
        ]
        new_shelves = [catalogue_read(name) for name in _absent(shelves)]
        replies = iter(await self._store.read([*new_users, *new_groups, *new_shelves]))
        for read, stored in zip(new_users, replies, strict=False):
            row = columns.decode_user(stored, self._schema)
            users[read.entity_id] = CachedRow(row, stored[VERSION])
        for read, stored in zip(new_groups, replies, strict=False):
            (name,) = read.columns
            group = columns.decode_group(stored[name], self._schema)
            groups[ItemGroupKey(read.entity_id, name)] = CachedRow(group, stored[name])
        for read, stored in zip(new_shelves, replies, strict=True):
            shelves[read.entity_id] = self._catalogue.put(read, stored)
        return BatchRows(_present(users), _present(groups), _present(shelves))

    def _change_rows(
        self, batch: Sequence[ConsumerRecord], rows: BatchRows
    ) -> tuple[dict[str, CachedRow[UserRow]], dict[ItemGroupKey, CachedRow[ItemGroup]]]:
        """Let the events change the rows; the rows that have changed."""
        changed_users: dict[str, CachedRow[UserRow]] = {}
        changed_groups: dict[ItemGroupKey, CachedRow[ItemGroup]] = {}
        for event, column, source, offset in batch:
            user = rows.users[event.user_id]
            if offset <= user.row.offsets.get(source, -1):
                continue
            seen = observation(event, source, offset, rows.shelves[event.item_id].category_hashes)
            changed_users[event.user_id] = user
            if apply_event(user.row, seen, self._schema):
                cell = ItemGroupKey(event.item_id, column)
                apply_item_event(rows.groups[cell].row, seen, self._schema)
                changed_groups[cell] = rows.groups[cell]
        return changed_users, changed_groups

    async def _written(
        self,
        users: Mapping[str, CachedRow[UserRow]],
        groups: Mapping[ItemGroupKey, CachedRow[ItemGroup]],
    ) -> bool:
        """Write the groups, then the users; False as soon as a row was not as it was read."""
        written_groups = {cell: columns.encode_group(kept.row) for cell, kept in groups.items()}
        accepted = await self._store.write(
            [
                RowWrite(
                    self._popularity,
                    cell.item_id,
                    {cell.column: written_groups[cell]},
                    kept.row.reference_ms,
                    cell.column,
                    kept.version,
                )
                for cell, kept in groups.items()
            ]
        )
        if not all(accepted):
            return False
        written_users = {name: columns.encode_user(kept.row) for name, kept in users.items()}
        accepted = await self._store.write(
            [
                RowWrite(USERS, name, written_users[name], k.row.reference_ms, VERSION, k.version)
                for name, k in users.items()
            ]
        )
        for cell, kept in groups.items():
            kept.version = written_groups[cell]
        for name, user in users.items():
            user.version = written_users[name][VERSION]
        return all(accepted)


def _taken(
    cache: MutableMapping[KeyT, CachedRow[RowT]], keys: Iterable[KeyT]
) -> dict[KeyT, CachedRow[RowT] | None]:
    """What is at hand of each key, removed: rows that change and are not written are forgotten."""
    return {key: cache.pop(key, None) for key in dict.fromkeys(keys)}


def _absent(found: Mapping[KeyT, object | None]) -> list[KeyT]:
    return [key for key, value in found.items() if value is None]


def _present(found: Mapping[KeyT, ValueT | None]) -> dict[KeyT, ValueT]:
    return {key: value for key, value in found.items() if value is not None}
