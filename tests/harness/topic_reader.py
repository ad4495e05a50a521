"""What arrives in topics from now on."""

from __future__ import annotations

import time
from uuid import uuid4

from confluent_kafka import Consumer, Message, TopicPartition

from features.kafka import client_config
from features.settings import BrokerSettings


class TopicReader:
    """Reads what arrives in topics after it is made; what was there before is skipped."""

    def __init__(self, kafka: BrokerSettings, *topics: str) -> None:
        self._consumer = Consumer(client_config(kafka) | {"group.id": f"test-{uuid4()}"})
        known = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [
                TopicPartition(name, number, self._end(name, number))
                for name in topics
                for number in known[name].partitions
            ]
        )

    def _end(self, topic: str, partition: int) -> int:
        return self._consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)[1]

    def read(self, count: int, timeout_s: float = 20) -> list[Message]:
        """The next messages: exactly so many arrive."""
        deadline = time.monotonic() + timeout_s
        messages: list[Message] = []
        while len(messages) < count and time.monotonic() < deadline:
            messages += self._consumer.consume(count - len(messages), 0.2)
        assert len(messages) == count
        assert not self._consumer.consume(1, 0.2)
        return messages

    def close(self) -> None:
        self._consumer.close()
