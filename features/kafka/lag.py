"""How long each partition is, and how far a group has read it: asked again and again."""

from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition
from headwater_client.kafka import unreachable

from features.kafka import admin, offsets
from features.settings import BrokerSettings

_ANSWER_S = 3.0
Source = tuple[str, int]


class PartitionPlace(NamedTuple):
    """How long a partition is, and how far it has been read.

    Attributes:
        first, end: the offsets of the oldest message, and of the one that comes next.
        committed: where the group reads on; None where it has never committed.
    """

    first: int
    end: int
    committed: int | None

    @property
    def lag(self) -> int:
        """Messages that the group has not read; those that Kafka has no longer count as read."""
        return max(0, self.end - max(self.first, self.committed or 0))


class LagReader:
    """Asks Kafka how long partitions are and how far a group is, by the same client each time.

    The group is not joined. For one thread at a time.
    """

    def __init__(self, settings: BrokerSettings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._consumer: confluent_kafka.Consumer | None = None

    def read(
        self, followed: Collection[str], others: Collection[str]
    ) -> dict[Source, PartitionPlace]:
        """The partitions of topics that are there.

        Args:
            followed: topics that the group reads.
            others: topics of which only the length is asked.

        Raises:
            ServerError: Kafka does not answer.
            SettingsError: it refuses this login.
        """
        consumer = self._connect()
        try:
            known = consumer.list_topics(timeout=_ANSWER_S).topics
            sources = [
                (name, number)
                for name in {*followed, *others}
                for number in (known[name].partitions if name in known else ())
            ]
            bounds = offsets.ask_bounds(consumer, sources, _ANSWER_S)
            places = [TopicPartition(*source) for source in sources if source[0] in followed]
            committed = consumer.committed(places, timeout=_ANSWER_S) if places else []
        except KafkaException as error:
            # A client may be lost for good (librdkafka #5301): the next read has another one.
            self.close()
            raise unreachable(error) from error
        # Where nothing was committed the offset is negative.
        reads = {
            (each.topic, each.partition): each.offset for each in committed if each.offset >= 0
        }
        return {
            source: PartitionPlace(first, end, reads.get(source))
            for source, (first, end) in bounds.items()
        }

    def _connect(self) -> confluent_kafka.Consumer:
        if self._consumer is None:
            options = {
                "group.id": self._group,
                "enable.auto.commit": "false",
                "isolation.level": "read_uncommitted",
                "log_level": "0",
            }
            self._consumer = confluent_kafka.Consumer(admin.client_config(self._settings) | options)
        return self._consumer

    def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            with suppress(KafkaException):
                self._consumer.close()
        self._consumer = None
