"""Sends what a worker produces: recommendations and dead letters, by confluent-kafka.

Faust's own producer costs a hundred times as much an event.
"""

from __future__ import annotations

import asyncio
from collections import deque

from confluent_kafka import KafkaError, Message, Producer
from headwater_client.errors import ServerError
from headwater_client.topics import MAX_MESSAGE_BYTES, PARTITIONER

from features.kafka import client_config
from features.settings import KafkaSettings

_POLL_S = 0.01
_LINGER_MS = 5


class RecommendationProducer:
    """A producer that can say when all that was sent is delivered, at least once."""

    def __init__(self, settings: KafkaSettings) -> None:
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

        def settled(error: KafkaError | None, _: Message) -> None:
            self._open.pop(number, None)
            if error is not None:
                self._failed.append(error)

        self._open[number] = None
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=settled)
                return
            except BufferError:
                await self._poll()

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
