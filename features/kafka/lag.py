"""How long each partition is, and how far a group has read it: asked again and again."""

from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # see log.py
from headwater_client.kafka import unreachable

from features.kafka import admin
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
    """Asks Kafka how long partitions are and how far a group is, by the same clients each time.

    The group is not joined. For one thread at a time.
    """

    def __init__(self, settings: BrokerSettings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._admin: AdminClient | None = None
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
        if self._admin is None:
            self._admin = admin.make_client(self._settings)
        client = self._admin
        try:
            known = client.list_topics(timeout=_ANSWER_S).topics
            sources = [
                (name, number)
                for name in {*followed, *others}
                for number in (known[name].partitions if name in known else ())
            ]
            committed = self._find_committed([each for each in sources if each[0] in followed])
        except KafkaException as error:
            raise unreachable(error) from error
        places = [TopicPartition(*source) for source in sources]
        if not places:
            return {}
        first, end = (
            client.list_offsets(dict.fromkeys(places, spec), request_timeout=_ANSWER_S)
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
        found: dict[Source, PartitionPlace] = {}
        for source, place in zip(sources, places, strict=True):
            # A topic that is being deleted is not there.
            bounds = [admin.take_answer(each[place], admin.NOT_THERE) for each in (first, end)]
            if all(bounds):
                found[source] = PartitionPlace(
                    bounds[0].offset, bounds[1].offset, committed.get(source)
                )
        return found

    def _find_committed(self, sources: Collection[Source]) -> dict[Source, int]:
        """By a consumer, and not by the other client: see `features.kafka.log`."""
        if not sources:
            return {}
        if self._consumer is None:
            options = {"group.id": self._group, "enable.auto.commit": "false", "log_level": "0"}
            self._consumer = confluent_kafka.Consumer(admin.client_config(self._settings) | options)
        places = [TopicPartition(*source) for source in sources]
        found = self._consumer.committed(places, timeout=_ANSWER_S)
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            with suppress(KafkaException):
                self._consumer.close()
        self._admin = self._consumer = None
