"""Commits offsets: only what is whole, delivered, and on the store's disk.

Faust's own acknowledgements are off: its commits can pass an event that is still open
(`Consumer._new_offset` is off by one), and they know nothing of the store's disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog
from faust import App
from faust.types import TP, EventT

from features.store import RowStore
from stream import metrics
from stream.failures import retry_while_unavailable
from stream.faust_internals import commit_offsets
from stream.producer import RecommendationProducer

log = structlog.get_logger()
_DURABLE_MS = 5_000


class Commits:
    """Remembers how far each partition is done, and commits that every `interval_s`."""

    def __init__(
        self, app: App, store: RowStore, producer: RecommendationProducer, interval_s: float
    ) -> None:
        self._app = app
        self._store = store
        self._producer = producer
        self._interval_s = interval_s
        self._done: dict[TP, int] = {}

    def mark_done(self, events: Iterable[EventT[bytes]]) -> None:
        """A batch is whole: its rows are written, its answers sent."""
        for event in events:
            self._done[event.message.tp] = event.message.offset + 1

    async def run(self) -> None:
        """Commit for ever.

        Raises:
            ServerError: a message cannot be delivered, or the store was restarted: what was read
                since the last commit has to be read again.
        """
        while True:
            await asyncio.sleep(self._interval_s)
            await self.commit()

    async def commit(self) -> None:
        """Commit what is done by now, once it is delivered and on disk."""
        done, self._done = self._done, {}
        if not done:
            return
        await self._producer.flush()
        async for attempt in retry_while_unavailable():
            with attempt:
                while not await self._store.wait_until_durable(_DURABLE_MS):
                    log.warning("store_slow_to_disk", waited_ms=_DURABLE_MS)
        await commit_offsets(self._app, done)
        for partition, offset in done.items():
            metrics.COMMITTED_OFFSET.labels(partition.topic, partition.partition).set(offset)
