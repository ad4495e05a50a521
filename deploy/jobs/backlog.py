"""What Kafka has of some topics, from the oldest message on to those that it has by now."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from confluent_kafka import Message

from features.settings import BrokerSettings
from trainer.windows.reader import MessageReader, is_end

GROUP = "headwater-backfill"
BATCH = 4096


class KafkaBacklog:
    """All messages of some topics; it commits nothing, so that no worker is moved.

    Args:
        kafka: where Kafka is.
        topics: what to read, all partitions of it.

    Raises:
        ServerError: Kafka does not answer, or a topic is missing.
    """

    def __init__(self, kafka: BrokerSettings, topics: Collection[str]) -> None:
        self._reader = MessageReader(kafka, GROUP, topics)
        self._backlog = self._reader.backlog()
        self.total = self._backlog.total

    def batches(self) -> Iterator[list[Message]]:
        """The messages, each partition's in its order.

        Raises:
            ServerError: a partition cannot be read.
        """
        backlog = self._backlog
        self._reader.start(backlog.starts)
        while not backlog.is_read:
            batch: list[Message] = []
            while len(batch) < BATCH and not backlog.is_read:
                for message in self._reader.read():
                    backlog.saw(message)
                    if not is_end(message):
                        batch.append(message)
            yield batch

    def close(self) -> None:
        """End reading."""
        self._reader.close()
