"""Keeps the sources' lists of trending items in the store, and this worker's view of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from headwater_client.errors import ServerError
from headwater_client.events import EventType

from features.columns import VERSION, TrendList, decode_trending, encode_trending
from features.repo.definitions import item_sources
from features.rows import ItemGroup
from features.schema import FeatureSchema
from features.store import TRENDING, RowRead, RowStore, RowWrite
from features.topics import ACTION_TOPICS
from stream.absorption import Cell
from stream.trending import Trends, sum_of_lists, updated

log = structlog.get_logger()


class TrendLists:
    """Gathers the item groups that batches change, and exchanges lists with the store.

    Args:
        limit: how many items a source's list holds.
        every_s: how old the view may be.
    """

    def __init__(
        self, store: RowStore, schema: FeatureSchema, partitions: int, limit: int, every_s: float
    ) -> None:
        self._store = store
        self._schema = schema
        self._limit = limit
        self._every_s = every_s
        self._reads = [RowRead(TRENDING, n, TRENDING.columns) for n in item_sources(partitions)]
        self._touched: dict[str, dict[str, ItemGroup]] = {}
        self.trends: Trends = sum_of_lists([], schema)

    def touch(self, groups: Mapping[Cell, ItemGroup]) -> None:
        """Groups that a batch has changed."""
        for cell, group in groups.items():
            self._touched.setdefault(cell.column, {})[cell.item_id] = group

    async def run(self) -> None:
        """Refresh for ever; while the store is away the view only grows old."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.refresh()
            except ServerError as error:
                log.warning("trends_not_refreshed", error=str(error))

    async def refresh(self) -> None:
        """Write the lists that have changed, then add up all of them.

        Raises:
            ServerError: the store does not answer.
        """
        stored = await self._store.read(self._reads)
        lists = {
            r.entity_id: decode_trending(s, self._schema)
            for r, s in zip(self._reads, stored, strict=True)
        }
        versions = {r.entity_id: s[VERSION] for r, s in zip(self._reads, stored, strict=True)}
        touched, self._touched = self._touched, {}
        for name, groups in touched.items():
            lists[name] = updated(lists[name], groups, self._limit, self._schema)
        # A list that another worker wrote meanwhile stays: that worker has the partition now.
        await self._store.write(
            [self._write(n, lists[n], g, versions[n]) for n, g in touched.items()]
        )
        self.trends = sum_of_lists(
            [(_signal(n), listed) for n, listed in lists.items()], self._schema
        )

    def _write(
        self, name: str, listed: TrendList, groups: Mapping[str, ItemGroup], version: bytes | None
    ) -> RowWrite:
        newest = max(groups.values(), key=lambda group: group.offset)
        columns = encode_trending(listed, newest.source, newest.offset)
        return RowWrite(TRENDING, name, columns, newest.reference_ms, VERSION, version)


def _signal(source: str) -> EventType:
    """The signal of a source by its name, such as clicks_3."""
    return ACTION_TOPICS[source.rpartition("_")[0]]
