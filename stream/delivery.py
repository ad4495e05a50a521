"""At-least-once: sends what a worker produces, and commits what is whole, delivered and on disk.

Recommendations and dead letters are sent by confluent-kafka: Faust's own producer costs a hundred
times as much an event. Its acknowledgements are off: its commits can pass an event that is still
open (`Consumer._new_offset` is off by one), and they know nothing of the store's disk.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable

import structlog
from confluent_kafka import KafkaError, Message, Producer
from faust import App
from faust.types import TP, EventT
from headwater_client import DeadLetter, EventError, ServerError, encode
from headwater_client.topics import DEAD_LETTERS, MAX_MESSAGE_BYTES, PARTITIONER

from features.kafka import client_config
from features.settings import BrokerSettings
from features.store import RowStore
from stream import metrics
from stream.failures import retry_while_unavailable
from stream.faust_internals import commit_offsets

log = structlog.get_logger()
_POLL_S = 0.01
_LINGER_MS = 5
_DURABLE_MS = 5_000


class RecommendationProducer:
    """A producer that can say when all that was sent is delivered, at least once."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._producer = Producer(
            client_config(settings)
            | {
                # Not idempotent: with five requests in flight, one a partition, librdkafka's thread
                # asks for their end without pause, and Kafka gets no turn where cores are few. A
                # recommendation that is sent again has the same id anyway.
                "acks": "all",
                "partitioner": PARTITIONER,
                "linger.ms": str(_LINGER_MS),
                "message.max.bytes": str(MAX_MESSAGE_BYTES),
                # A broker that is away is waited for: what was read is not committed meanwhile.
                "message.timeout.ms": "0",
            }
        )
        self._sent = 0
        self._open: dict[int, None] = {}
        self._failed: deque[KafkaError] = deque()

    async def send(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand a message over; waits only while the producer's queue is full."""
        number = self._sent = self._sent + 1

        def settle(error: KafkaError | None, _: Message) -> None:
            self._open.pop(number, None)
            if error is not None:
                self._failed.append(error)

        self._open[number] = None
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=settle)
                return
            except BufferError:
                await self._poll()

    async def send_to_dead_letter(self, event: EventT[bytes], error: EventError) -> None:
        """Keep a message that breaks the contract in the dead-letter topic, with the reason."""
        message = event.message
        letter = DeadLetter(
            raw=message.value or b"",
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            reason=str(error),
            refused_time=int(time.time() * 1000),
        )
        await self.send(DEAD_LETTERS, message.key, encode(letter))
        metrics.DEAD_LETTERS.labels(message.topic).inc()
        log.warning(
            "event_refused",
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            field=error.field,
        )

    async def flush(self) -> None:
        """Wait until everything sent before this call is delivered.

        Raises:
            ServerError: a message cannot be delivered; what led to it must not be committed.
        """
        last = self._sent
        while (oldest := next(iter(self._open), None)) is not None and oldest <= last:
            await self._poll()
        self._raise_failure()

    async def _poll(self) -> None:
        if not self._producer.poll(0):
            await asyncio.sleep(_POLL_S)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failed:
            raise ServerError(f"Kafka does not take a message: {self._failed[0].str()}")


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
