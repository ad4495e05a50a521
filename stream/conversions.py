"""Keeps how often each item of the catalogue was taken and bought, as the items' rows have it.

Nothing is read before a list has an objective. Then all rows are, a slice at a time, and one slice
each time that the catalogue is compared.
"""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import structlog
from headwater_client import EVENT_TYPES, ServerError
from headwater_client.event_types import PURCHASE

from features import columns
from features.columns import DamagedRowError
from features.metrics import LogThrottle
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from features.store import RowRead, RowStore, popularity_table
from stream.filtering import FilterableItems

# Rows that are read in one call; and after so many others get their turn.
_SLICE, _TURN = 500, 50
log = structlog.get_logger()


class ConversionFollower:
    """Reads the counts of items.

    Args:
        kafka: how many partitions topics have: each is a column of a row.
        items: whose counts they are.
        refresh_s: seconds from one slice to the next, once all were read.
    """

    def __init__(
        self,
        kafka: BrokerSettings,
        store: RowStore,
        schema: FeatureSchema,
        items: FilterableItems,
        refresh_s: float,
    ) -> None:
        self._table = popularity_table(kafka.partitions)
        self._signs = {name: _find_signs(name, schema) for name in self._table.columns}
        self._store = store
        self._schema = schema
        self._items = items
        self._refresh_s = refresh_s
        self._failed = LogThrottle()

    async def run(self) -> None:
        """Follow for ever, once anybody asks."""
        start = read = 0
        while True:
            is_behind = read < len(self._items.table)
            await asyncio.sleep(0.0 if self._is_wanted and is_behind else self._refresh_s)
            if not self._is_wanted:
                continue
            try:
                await self._read_slice(start)
            except ServerError as error:
                if turns := self._failed.count():
                    log.warning("conversions_not_read", error=str(error), turns=turns)
                await asyncio.sleep(self._refresh_s)
                continue
            start += _SLICE
            read = max(read, start)
            start = start if start < len(self._items.table) else 0

    async def read_all(self) -> None:
        """Read the counts of all items.

        Raises:
            ServerError: the store does not answer.
        """
        for start in range(0, len(self._items.table), _SLICE):
            await self._read_slice(start)

    @property
    def _is_wanted(self) -> bool:
        return self._items.conversions.is_wanted

    async def _read_slice(self, start: int) -> None:
        names = self._items.table.item_ids[start : start + _SLICE]
        reads = [RowRead(self._table, name, self._table.columns) for name in names]
        stored = await self._store.read(reads)
        counts = []
        for place, row in enumerate(stored):
            counts.append(self._count(row))
            if place % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        rows = np.arange(start, start + len(names))
        self._items.conversions.put(rows, np.array(counts).reshape(-1, 2))

    def _count(self, row: Mapping[str, bytes | None]) -> Sequence[float]:
        """Events of an item, and purchases among them; what was taken back is none."""
        events = purchases = 0.0
        for name, (of_events, of_purchases) in self._signs.items():
            if row[name] is None or not of_events:
                continue
            try:
                total = columns.decode_group(row[name], self._schema).values[-1]
            except DamagedRowError:
                # The worker begins it anew with the next event.
                continue
            events += of_events * total
            purchases += of_purchases * total
        return events, purchases


def _find_signs(column: str, schema: FeatureSchema) -> tuple[int, int]:
    """How an event of a column of items' rows counts: as an event, and as a purchase."""
    code = EVENT_TYPES.spec_of_topic(column.rpartition("_")[0]).code
    taken = schema.takes_back.get(code)
    stands_for = schema.stands_for.get(code if taken is None else taken)
    if stands_for is None:
        return 0, 0
    sign = 1 if taken is None else -1
    return sign, sign if stands_for == PURCHASE.code else 0
