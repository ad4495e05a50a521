"""Keeps the catalogue: item messages become item rows; the newest message of an item counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faust.types import EventT

from features.columns import VERSION, decode_pair, encode_item
from features.errors import ServerError
from features.events import EventError, Item, decode
from features.store import CATALOGUE, Read, RowStore, Write
from features.topics import Hash
from stream import metrics
from stream.commits import Commits
from stream.delivery import Delivery
from stream.refusing import refuse
from stream.retrying import patiently


class Shelver:
    """Handles batches of item messages.

    Args:
        sources: the source hash of each topic and partition.
    """

    def __init__(
        self,
        store: RowStore,
        delivery: Delivery,
        commits: Commits,
        sources: Mapping[tuple[str, int], Hash],
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._commits = commits
        self._sources = sources

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Write the rows of a batch of item messages."""
        newest: dict[str, tuple[EventT[bytes], Item | None]] = {}
        for event in events:
            try:
                item_id, item = _decoded(event)
            except EventError as error:
                await refuse(event, error, self._delivery)
            else:
                newest[item_id] = (event, item)
        metrics.count_events(events)
        async for attempt in patiently():
            with attempt:
                await self._write(newest)
        self._commits.done(events)

    async def _write(self, newest: Mapping[str, tuple[EventT[bytes], Item | None]]) -> None:
        stored = await self._store.read([Read(CATALOGUE, name, (VERSION,)) for name in newest])
        writes = []
        for (name, (event, item)), row in zip(newest.items(), stored, strict=True):
            message = event.message
            source = self._sources[message.topic, message.partition]
            known_source, known_offset = decode_pair(row[VERSION])
            if known_source == source and known_offset >= message.offset:
                continue
            columns = encode_item(item, source, message.offset)
            time_ms = int(message.timestamp * 1000)
            writes.append(Write(CATALOGUE, name, columns, time_ms, VERSION, row[VERSION]))
        if not all(await self._store.write(writes)):
            raise ServerError("an item row was written by another worker: reading it again")


def _decoded(event: EventT[bytes]) -> tuple[str, Item | None]:
    """(item_id, item) of a message; no item for a tombstone.

    Raises:
        EventError: it breaks the contract, or its key names another item than its value.
    """
    key = (event.message.key or b"").decode(errors="replace")
    if event.message.value is None:
        if not key:
            raise EventError("<key>", "<empty>", "a tombstone needs an item_id as its key")
        return key, None
    item = decode(Item, event.message.value)
    if key != item.item_id:
        raise EventError("<key>", key or "<empty>", f"expected the item_id, {item.item_id!r}")
    return key, item
