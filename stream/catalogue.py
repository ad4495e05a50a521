"""The catalogue: item messages become item rows, and serving reads those through a cache."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import NamedTuple, cast

import numpy as np
import structlog
from headwater_client import EventError, Item, ServerError
from headwater_client.events import MAX_ID, decode_item
from headwater_client.topics import ITEMS

from features import columns
from features.columns import CatalogueEntry, DamagedRowError
from features.metrics import LogThrottle
from features.schema import FIRST_ITEM, BoolArray, Vocabulary
from features.store import (
    CATALOGUE,
    LOADED,
    VERSION,
    RowRead,
    RowStore,
    RowWrite,
    set_aside,
    tell_damaged,
)
from features.topics import Hash, source_hash
from stream import metrics

log = structlog.get_logger()
_fitted = LogThrottle()
# Items loaded from a file are older than any message.
LOADED_ITEMS = source_hash(f"{ITEMS}_{LOADED}", 0)
_MAX_CACHED_ITEMS = 1_000_000
# Items of a slice, which are read in one call.
_SLICE = 1000


def is_available(entry: CatalogueEntry) -> bool:
    """The default rule for what may be recommended: the catalogue says that it is available."""
    return entry.available


class CatalogueCache:
    """Catalogue entries by item id. An item without a row is taken for available.

    Args:
        refresh_s: largest age of an entry, in seconds.
    """

    def __init__(
        self, store: RowStore, refresh_s: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._store = store
        self._refresh_s = refresh_s
        self._clock = clock
        self._entries: dict[str, tuple[float, CatalogueEntry]] = {}

    async def get(self, item_ids: Iterable[str]) -> dict[str, CatalogueEntry]:
        """The entry of each item; those that are not cached are read in one call.

        Raises:
            ServerError: the store does not answer.
        """
        entries = self.get_cached(item_ids)
        reads = [catalogue_read(name) for name, entry in entries.items() if entry is None]
        for read, stored in zip(reads, await self._store.read(reads), strict=True):
            entries[read.entity_id] = self.put(read.entity_id, stored)
        return cast("dict[str, CatalogueEntry]", entries)

    async def find(self, item_id: str) -> Item | None:
        """All that the catalogue says of an item, as it is stored now; None where it says nothing.

        Raises:
            ServerError: the store does not answer.
        """
        (stored,) = await self._store.read([RowRead(CATALOGUE, item_id, CATALOGUE.columns)])
        try:
            return columns.decode_catalogue_item(item_id, stored)
        except DamagedRowError as error:
            tell_damaged(CATALOGUE, f"item {item_id!r}", error)
            return None

    def get_cached(self, item_ids: Iterable[str]) -> dict[str, CatalogueEntry | None]:
        """The entry of each item; None where it has to be read."""
        now = self._clock()
        found = ((name, self._entries.get(name)) for name in item_ids)
        return {name: held[1] if held and held[0] > now else None for name, held in found}

    def recall(self, item_ids: Iterable[str]) -> dict[str, CatalogueEntry]:
        """The entry of each item as it was read last, however long ago; no server is asked."""
        found = ((name, self._entries.get(name)) for name in item_ids)
        return {name: held[1] if held else CatalogueEntry() for name, held in found}

    def put(self, item_id: str, stored: Mapping[str, bytes | None]) -> CatalogueEntry:
        """Cache the entry that `catalogue_read` has brought.

        An item whose row is damaged is not recommended until its next message, which renews it.
        """
        try:
            entry = columns.decode_catalogue_entry(stored)
        except DamagedRowError as error:
            entry = CatalogueEntry(available=False)
            if (held := self._entries.get(item_id)) is None or held[1] != entry:
                tell_damaged(CATALOGUE, f"item {item_id!r}", error)
        if len(self._entries) >= _MAX_CACHED_ITEMS:
            self._entries.clear()
        self._entries[item_id] = (self._clock() + self._refresh_s, entry)
        return entry


class AllowedItems:
    """Which items of a version may be recommended, by index.

    All of them are read at the first use, and a slice is read again at each later one: so a use
    costs the same however many there are. What was read a while ago is only a guide for what a
    version is asked for: every item of its answer is looked up once more.

    Args:
        check: whether each item may be recommended.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        check: Callable[[Iterable[str]], Awaitable[Mapping[str, bool]]],
    ) -> None:
        self._item_ids = vocabulary.item_ids
        self._check = check
        self._allowed = np.zeros(len(vocabulary), np.bool_)
        self._next = FIRST_ITEM
        self._is_whole = len(vocabulary) == FIRST_ITEM

    async def read(self) -> BoolArray:
        """The mask: bool[N]; False for padding and the unknown item.

        Raises:
            ServerError: the store does not answer.
        """
        await self._read_slice()
        while not self._is_whole:
            await self._read_slice()
        return self._allowed

    async def _read_slice(self) -> None:
        start, end = self._next, self._next + _SLICE
        names = self._item_ids[start:end]
        allowed = await self._check(names)
        self._allowed[start:end] = [allowed[name] for name in names]
        self._is_whole |= end >= len(self._item_ids)
        self._next = FIRST_ITEM if end >= len(self._item_ids) else end


def catalogue_read(item_id: str) -> RowRead:
    """The read that brings an item's entry."""
    return RowRead(CATALOGUE, item_id, columns.ENTRY_COLUMNS)


class ItemUpdate(NamedTuple):
    """A message about an item (None: it was removed), and the message's source, offset and time."""

    item: Item | None
    source: Hash
    offset: int
    time_ms: int


def parse_item(key: bytes | None, value: bytes | None) -> tuple[str, Item | None]:
    """(item_id, item) of a message; no item for a tombstone. What had to be cut is logged.

    Raises:
        EventError: it breaks the contract, or its key names another item than its value.
    """
    name = (key or b"").decode(errors="replace")
    if value is None:
        if not name:
            raise EventError("<key>", "<empty>", "a tombstone needs an item_id as its key")
        if len(name) > MAX_ID:
            raise EventError("<key>", name, f"expected an item_id of at most {MAX_ID} characters")
        return name, None
    item, fitted = decode_item(value)
    if name != item.item_id:
        raise EventError("<key>", name or "<empty>", f"expected the item_id, {item.item_id!r}")
    for field in fitted:
        metrics.ITEM_FIELDS_FITTED.labels(field).inc()
    if fitted and (items := _fitted.count()):
        log.warning("item_fitted", item=name, fields=fitted, items=items)
    return name, item


async def write_items(store: RowStore, updates: Mapping[str, ItemUpdate]) -> None:
    """Write the newest update of each item, by item_id, where the store has nothing newer.

    Raises:
        ServerError: the store does not answer, or another process wrote one of the rows.
    """
    stored = await store.read([RowRead(CATALOGUE, name, (VERSION,)) for name in updates])
    writes = []
    for (name, update), row in zip(updates.items(), stored, strict=True):
        try:
            if _is_stored(update, row[VERSION]):
                continue
        except DamagedRowError as error:
            # The item's topic says it anew.
            await set_aside(store, RowRead(CATALOGUE, name, (VERSION,)), row, error)
        row_columns = columns.encode_item(update.item, update.source, update.offset)
        writes.append(RowWrite(CATALOGUE, name, row_columns, update.time_ms, VERSION, row[VERSION]))
    if not all(await store.write(writes)):
        raise ServerError("an item row was written by another worker: reading it again")


def _is_stored(update: ItemUpdate, version: bytes | None) -> bool:
    """Whether the row holds this update or a newer one."""
    source, offset = columns.decode_pair(version)
    is_loaded = version is not None and update.source == LOADED_ITEMS
    return is_loaded or (source == update.source and offset >= update.offset)
