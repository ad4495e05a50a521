"""The log of events and items: what it is known by, how long it is, and who has read how much."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import confluent_kafka
import msgspec
from confluent_kafka import KafkaError, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.topics import IDENTITIES, ITEMS, PEOPLE

from features.kafka import admin
from features.settings import BrokerSettings
from features.topics import Hash, source_hash

_NO_COORDINATOR_YET = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


def log_topics() -> tuple[str, ...]:
    """The topics that rows are made of."""
    return (*EVENT_TYPES.topics, ITEMS, PEOPLE, IDENTITIES)


@dataclass(frozen=True)
class LogIdentity:
    """What makes the log the one that was read.

    Attributes:
        cluster: Kafka's own id of the cluster; "" where it has none.
        topics: by name, what each topic's sources are named by: Kafka's own id of the topic.
        partitions: their number, by name of the topic.
    """

    cluster: str
    topics: Mapping[str, str]
    partitions: Mapping[str, int]

    @property
    def sources(self) -> dict[tuple[str, int], Hash]:
        """What rows call each partition, by topic and number."""
        return {
            (topic, partition): source_hash(topic_id, partition)
            for topic, topic_id in self.topics.items()
            for partition in range(self.partitions[topic])
        }

    @property
    def fingerprint(self) -> str:
        """Twelve characters: others where a topic was made anew, or has more partitions."""
        topics = sorted((name, id_, self.partitions[name]) for name, id_ in self.topics.items())
        return hashlib.sha256(msgspec.json.encode((self.cluster, topics))).hexdigest()[:12]

    def find_change(self, now: "LogIdentity") -> str | None:
        """What has become of the log since, and what to do; None where it is the same.

        A topic that is missing may come back as it was.
        """
        if now.cluster != self.cluster:
            return f"Kafka: cluster {self.cluster} is now {now.cluster}: start again"
        for topic, topic_id in now.topics.items():
            if topic_id != self.topics[topic]:
                return (
                    f"Kafka: topic {topic} was deleted and made anew: start again: it is read from "
                    "its beginning"
                )
            found = now.partitions[topic]
            if found != self.partitions[topic]:
                return (
                    f"Kafka: topic {topic} has {found} partitions, and had "
                    f"{self.partitions[topic]}: give all topics of events, {ITEMS} and {PEOPLE} as "
                    f"many, set kafka.partitions to {found}, and rebuild the rows in an empty store"
                )
        return None


def describe_log(settings: BrokerSettings) -> LogIdentity:
    """The identity of the log of events and items, as it is now, without topics that are missing.

    Raises:
        ServerError: Kafka does not answer.
    """
    client = admin.make_client(settings)
    described, cluster = admin.describe_topics(client, list(log_topics())), admin.cluster_id(client)
    partitions = {name: len(topic.partitions) for name, topic in described.items()}
    return LogIdentity(cluster, admin.identify_topics(described, cluster), partitions)


def topic_ids(settings: BrokerSettings, names: Iterable[str]) -> dict[str, str]:
    """The id that Kafka gave each topic when it was created; topics that are missing are left out.

    A topic that is deleted and made anew has another id: `features.topics.source_hash`.
    """
    client = admin.make_client(settings)
    return admin.identify_topics(
        admin.describe_topics(client, list(names)), admin.cluster_id(client)
    )


def message_times(
    settings: BrokerSettings, places: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    """The time of the message at an offset of each partition; none where Kafka has it no longer.

    Raises:
        ServerError: Kafka does not answer.
    """
    times: dict[tuple[str, int], int] = {}
    if not places:
        return times
    options = {
        "group.id": "headwater-positions",
        "enable.auto.commit": "false",
        "enable.partition.eof": "true",
        "isolation.level": "read_uncommitted",
        "auto.offset.reset": "earliest",
        "log_level": "0",
    }
    waiting, deadline = dict(places), time.monotonic() + admin.TIMEOUT_S
    with closing(confluent_kafka.Consumer(admin.client_config(settings) | options)) as consumer:
        consumer.assign([TopicPartition(*source, offset) for source, offset in places.items()])
        while waiting:
            for message in consumer.consume(len(waiting), admin.POLL_S):
                source = message.topic() or "", message.partition() or 0
                wanted = waiting.pop(source, None)
                if message.error() is None and message.offset() == wanted:
                    times[source] = message.timestamp()[1]
            if waiting and time.monotonic() > deadline:
                raise ServerError(f"Kafka: no answer in {admin.TIMEOUT_S:.0f} s")
    return times


def group_offsets(
    settings: BrokerSettings, group: str, identity: LogIdentity
) -> dict[tuple[str, int], int]:
    """What a consumer group has committed of the log; a partition without a commit is left out.

    Raises:
        ServerError: Kafka does not answer.
    """
    places = [
        TopicPartition(topic, partition)
        for topic in identity.topics
        for partition in range(identity.partitions[topic])
    ]
    return {
        (place.topic, place.partition): place.offset
        for place in _read_committed(settings, group, places)
        if place.offset >= 0
    }


def group_members(settings: BrokerSettings, group: str) -> list[str]:
    """The members that a consumer group has, by the stable name that each gave itself.

    Raises:
        ServerError: Kafka does not answer.
    """
    # By now its coordinator has read its groups: see there.
    _read_committed(settings, group, [TopicPartition(log_topics()[0], 0)])
    client = admin.make_client(settings)
    asked = client.describe_consumer_groups([group], request_timeout=admin.TIMEOUT_S)
    described = admin.take_answer(asked[group], (KafkaError.GROUP_ID_NOT_FOUND,))
    members = described.members if described else []
    return sorted(each.group_instance_id or each.client_id for each in members)


def _read_committed(
    settings: BrokerSettings, group: str, places: list[TopicPartition]
) -> list[TopicPartition]:
    """What a group has committed, by a consumer that does not join it.

    A broker that has just started reads its groups first: it is asked again. Not by an AdminClient:
    librdkafka 2.16 ends the process (SIGSEGV) where that one's coordinator is still reading.

    Raises:
        ServerError: it does not answer, or still reads.
    """
    options = {"group.id": group, "enable.auto.commit": "false", "log_level": "0"}
    with closing(confluent_kafka.Consumer(admin.client_config(settings) | options)) as consumer:
        ask = partial(consumer.committed, places, timeout=admin.TIMEOUT_S)
        committed: list[TopicPartition] = admin.ask_again(ask, _NO_COORDINATOR_YET)
    return committed
