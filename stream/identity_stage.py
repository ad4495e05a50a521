"""The worker's way with `identities`: what rows lack is waited for, what they lead to is sent.

A store that was put back is read again, in this order: what workers had answered of `identities`,
what they had answered of events, what was asked of `identities` by then, and what is new. So a row
is handed over, or emptied, as it is once it holds again what it held, and no more: what comes then
is sent on.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import structlog
from faust.types import EventT
from headwater_client import EventError

from features.metrics import LogThrottle
from features.positions import PositionKeeper
from stream import metrics
from stream.failures import retry_while_unavailable
from stream.identities import IdentityRecord, IdentityUpdater
from stream.pipeline import Commits, RecommendationProducer

log = structlog.get_logger()
HELD_BATCHES = 32
"""So many batches of a partition's events wait, and no more of it are fetched."""

Place = tuple[str, int]


class IdentityStage:
    """Handles batches of messages about who is whom.

    Args:
        read: a message; raises `EventError`.
        positions: says what is read again.
    """

    def __init__(
        self,
        read: Callable[[EventT[bytes]], IdentityRecord],
        updater: IdentityUpdater,
        producer: RecommendationProducer,
        commits: Commits,
        positions: PositionKeeper,
    ) -> None:
        self._read = read
        self._updater = updater
        self._producer = producer
        self._commits = commits
        self._positions = positions

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Let a batch change rows, and send what it leads to."""
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._positions.wait_for_items()
        records, begin = list[IdentityRecord](), 0
        for place, event in enumerate(events):
            try:
                record = self._read(event)
            except EventError as error:
                await self._producer.send_to_dead_letter(event, error)
                continue
            is_new = record.is_request and not record.answered
            if is_new and self._positions.has_events_to_store:
                await self._apply(records, events[begin:place])
                records, begin = [], place
                await self._wait_for_events()
            records.append(record)
        await self._apply(records, events[begin:])
        metrics.count_events(event.message.topic for event in events)

    async def _apply(
        self, records: Sequence[IdentityRecord], events: Sequence[EventT[bytes]]
    ) -> None:
        async for attempt in retry_while_unavailable():
            with attempt:
                leads_to = await self._updater.apply(records)
        await self._producer.send_identities(leads_to)
        self._commits.mark_done(events)

    async def _wait_for_events(self) -> None:
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._positions.wait_for_events()

    async def start(self) -> None:
        """Nothing has to be known before the first message."""

    async def skip(self, events: Sequence[EventT[bytes]]) -> None:
        """Take a batch for handled."""
        self._commits.mark_done(events)

    async def drain(self) -> None:
        """A batch is done when it is handled."""


class PartitionFlow(Protocol):
    """Lets partitions be read, or not."""

    def pause(self, places: Collection[Place]) -> None:
        """Fetch nothing more of these partitions, until `resume`."""

    def resume(self, places: Collection[Place]) -> None:
        """Fetch what comes of these partitions again, as far as they are this worker's still."""


class EventGate:
    """Lets batches of events through, those that are new not before it is their turn.

    Of a partition of which many wait nothing more is fetched: what is read again may take long.

    Args:
        positions: says what is read again.
        handle: handles a batch.
        batch_size: of a batch, at most: a person is answered once in each.
        flow: of the partitions.
    """

    def __init__(
        self,
        positions: PositionKeeper,
        handle: Callable[[Sequence[EventT[bytes]]], Awaitable[None]],
        batch_size: int,
        flow: PartitionFlow,
    ) -> None:
        self._positions = positions
        self._handle = handle
        self._batch_size = batch_size
        self._flow = flow
        self._paused: set[Place] = set()
        self._held: list[EventT[bytes]] = []
        self._told = LogThrottle(every_s=10.0)

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Handle a batch, or keep those of it that are new until what is read again is there."""
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._positions.wait_for_catalogue()
        if self._positions.is_reading_again:
            events = await self._handle_answered(events)
        events, self._held = [*self._held, *events], []
        if self._positions.lacks_events:
            self._hold(events)
            return
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._positions.wait_for_identities()
        for begin in range(0, len(events), self._batch_size):
            await self._handle(events[begin : begin + self._batch_size])
        paused, self._paused = self._paused, set()
        self._flow.resume(paused)

    def _hold(self, events: Sequence[EventT[bytes]]) -> None:
        self._held = list(events)
        if self._told.count():
            log.warning("events_wait_for_what_the_store_lost", events=len(events))
        waiting = Counter((each.message.topic, each.message.partition) for each in events)
        full = {place for place, held in waiting.items() if held >= HELD_BATCHES * self._batch_size}
        if full:
            # Again each time: Faust goes on by itself with one that it had paused, too.
            self._paused |= full
            self._flow.pause(full)

    async def _handle_answered(self, events: Sequence[EventT[bytes]]) -> list[EventT[bytes]]:
        """Handle those that had been answered; the others."""
        answered, new = list[EventT[bytes]](), list[EventT[bytes]]()
        for event in events:
            message = event.message
            place = message.topic, message.partition
            known = self._positions.split_answered(place, message.offset)
            (answered if known else new).append(event)
        if answered:
            await self._handle(answered)
        return new
