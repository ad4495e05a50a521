"""Keeps the catalogue: item messages become item rows; the newest message of an item counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from faust.types import EventT
from headwater_client.errors import ServerError
from headwater_client.events import EventError, Item, decode
from headwater_client.topics import ITEMS

from features.columns import decode_pair, encode_item
from features.store import CATALOGUE, LOADED, VERSION, RowRead, RowStore, RowWrite
from features.topics import Hash, source_hash
from stream import metrics
from stream.commits import Commits
from stream.failures import retry_while_unavailable, send_to_dead_letter
from stream.producer import RecommendationProducer

# What was loaded from a file is older than any message.
LOADED_ITEMS = source_hash(f"{ITEMS}_{LOADED}", 0)


class ItemUpdate(NamedTuple):
    """What the catalogue says of an item (None: it is gone), and where that stood."""

    item: Item | None
    source: Hash
    offset: int
    time_ms: int


class CatalogueWriter:
    """Handles batches of item messages.

    Args:
        sources: the source hash of each topic and partition.
    """

    def __init__(
        self,
        store: RowStore,
        delivery: RecommendationProducer,
        commits: Commits,
        sources: Mapping[tuple[str, int], Hash],
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._commits = commits
        self._sources = sources

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Write the rows of a batch of item messages."""
        newest: dict[str, ItemUpdate] = {}
        for event in events:
            message = event.message
            try:
                item_id, item = parse_item(message.key, message.value)
            except EventError as error:
                await send_to_dead_letter(event, error, self._delivery)
            else:
                source = self._sources[message.topic, message.partition]
                time_ms = int(message.timestamp * 1000)
                newest[item_id] = ItemUpdate(item, source, message.offset, time_ms)
        metrics.count_events(events)
        async for attempt in retry_while_unavailable():
            with attempt:
                await write_items(self._store, newest)
        self._commits.mark_done(events)


async def write_items(store: RowStore, newest: Mapping[str, ItemUpdate]) -> None:
    """Write what the catalogue says by item_id, where the store has nothing newer.

    Raises:
        ServerError: the store does not answer, or another process wrote one of the rows.
    """
    stored = await store.read([RowRead(CATALOGUE, name, (VERSION,)) for name in newest])
    writes = []
    for (name, told), row in zip(newest.items(), stored, strict=True):
        if _is_known(told, row[VERSION]):
            continue
        columns = encode_item(told.item, told.source, told.offset)
        writes.append(RowWrite(CATALOGUE, name, columns, told.time_ms, VERSION, row[VERSION]))
    if not all(await store.write(writes)):
        raise ServerError("an item row was written by another worker: reading it again")


def parse_item(key: bytes | None, value: bytes | None) -> tuple[str, Item | None]:
    """(item_id, item) of a message; no item for a tombstone.

    Raises:
        EventError: it breaks the contract, or its key names another item than its value.
    """
    name = (key or b"").decode(errors="replace")
    if value is None:
        if not name:
            raise EventError("<key>", "<empty>", "a tombstone needs an item_id as its key")
        return name, None
    item = decode(Item, value)
    if name != item.item_id:
        raise EventError("<key>", name or "<empty>", f"expected the item_id, {item.item_id!r}")
    return name, item


def _is_known(told: ItemUpdate, version: bytes | None) -> bool:
    source, offset = decode_pair(version)
    is_loaded = version is not None and told.source == LOADED_ITEMS
    return is_loaded or (source == told.source and offset >= told.offset)
