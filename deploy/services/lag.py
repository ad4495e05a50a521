"""How far the workers are behind."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from features.kafka import client_config
from features.settings import BrokerSettings

_TIMEOUT_S = 10.0


class Lag:
    """What a consumer group has not committed yet of some topics.

    Args:
        partitions: how many each topic has; default: as the settings say.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        group: str,
        topics: Sequence[str],
        partitions: int | None = None,
    ) -> None:
        self._consumer = Consumer({**client_config(settings), "group.id": group, "log_level": "0"})
        self._places = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in range(partitions or settings.partitions)
        ]

    def count_uncommitted(self) -> int | None:
        """Messages that are not committed yet; None while Kafka cannot say."""
        try:
            committed = self._consumer.committed(self._places, timeout=_TIMEOUT_S)
            ends = [
                self._consumer.get_watermark_offsets(p, timeout=_TIMEOUT_S) for p in self._places
            ]
        except KafkaException:
            # A broker's first seconds, or its last: asked again later.
            return None
        return sum(
            end - max(place.offset, start)
            for place, (start, end) in zip(committed, ends, strict=True)
        )

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
