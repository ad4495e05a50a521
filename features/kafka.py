"""Kafka itself: how a client connects, and the topics as they must be there."""

import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, TopicDescription  # type: ignore[attr-defined]  # public, but not to its types
from headwater_client.errors import ServerError, SettingsError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.kafka import remedy_of, unreachable
from headwater_client.topics import ITEMS

from features.settings import BrokerSettings
from features.topics import Hash, Topic, list_topics, source_hash

TIMEOUT_S = 15.0
POLL_S = 0.05
_ASK_S = 2.0
NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART,)
NO_LEADER_YET = (
    *NOT_THERE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)

Descriptions = dict[str, TopicDescription]


def client_config(settings: BrokerSettings) -> dict[str, str]:
    """Librdkafka's configuration of any client: where Kafka is, and how to log in there.

    Raises:
        SettingsError: no address is set.
    """
    return settings.client_settings.client_config()


def ensure_topics(
    settings: BrokerSettings, topics: Collection[Topic] | None = None
) -> dict[str, str]:
    """Create the topics that are missing, and wait until all can be used.

    A topic that exists keeps its configuration.

    Args:
        settings: where Kafka is, and how many partitions a topic has.
        topics: default: all of Headwater's.

    Returns:
        Kafka's own id of each topic.

    Raises:
        SettingsError: a topic of people's actions has another number of partitions than the
            settings say: a person would then change partition, and rows would be counted anew.
        ServerError: Kafka does not answer, or refuses to create one.
    """
    admin = _connect(settings)
    topics = list_topics() if topics is None else topics
    names = [topic.name for topic in topics]
    there = _describe(admin, names)
    missing = [topic for topic in topics if topic.name not in there]
    if missing:
        _create(admin, missing, settings)
        there = _wait_for(admin, names)
    for topic in topics:
        _check_partitions(topic, there[topic.name], settings)
    return _ids(there)


def ensure_sources(settings: BrokerSettings) -> dict[tuple[str, int], Hash]:
    """Create the topics that are missing; what rows call each partition, by topic and number.

    Raises:
        SettingsError, ServerError: as `ensure_topics`.
    """
    return {
        (topic, partition): source_hash(topic_id, partition)
        for topic, topic_id in ensure_topics(settings).items()
        for partition in range(settings.partitions)
    }


def topic_ids(settings: BrokerSettings, names: Iterable[str]) -> dict[str, str]:
    """The id that Kafka gave each topic when it was created; topics that are missing are left out.

    A topic that is deleted and made anew has another id: `features.topics.source_hash`.
    """
    return _ids(_describe(_admin(settings), list(names)))


def group_members(settings: BrokerSettings, group: str) -> list[str]:
    """The members that a consumer group has, by the stable name that each gave itself.

    Raises:
        ServerError: Kafka does not answer.
    """
    admin = _admin(settings)
    asked = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)
    described = _answer(asked[group], (KafkaError.GROUP_ID_NOT_FOUND,))
    members = described.members if described else []
    return sorted(each.group_instance_id or each.client_id for each in members)


def _ids(described: Descriptions) -> dict[str, str]:
    return {name: str(description.topic_id) for name, description in described.items()}


def _admin(settings: BrokerSettings) -> AdminClient:
    # What goes wrong is raised; librdkafka's own lines on the terminal say it again and again.
    return AdminClient({**client_config(settings), "log_level": "0"})


def _connect(settings: BrokerSettings) -> AdminClient:
    """A client that Kafka has answered.

    Raises:
        SettingsError: Kafka refuses it.
        ServerError: it does not answer.
    """
    heard: list[KafkaError] = []
    config: dict[str, Any] = {**client_config(settings), "log_level": "0", "error_cb": heard.append}
    try:
        admin = AdminClient(config)
    except KafkaException as error:
        raise SettingsError(f"kafka: {error.args[0].str()}") from error
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            admin.list_topics(timeout=_ASK_S)
            return admin
        except KafkaException as error:
            # The answer is that time is over; why, librdkafka tells by the way, again and again.
            admin.poll(0)
            refused = next(filter(remedy_of, heard), None)
            if refused or time.monotonic() > deadline:
                raise unreachable(KafkaException(refused) if refused else error) from error


def _describe(admin: AdminClient, names: list[str]) -> Descriptions:
    futures = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_S)
    answers = ((name, _answer(future, NOT_THERE)) for name, future in futures.items())
    return {name: answer for name, answer in answers if answer is not None}


def _create(admin: AdminClient, topics: list[Topic], settings: BrokerSettings) -> None:
    new = [
        NewTopic(
            topic.name,
            num_partitions=settings.partitions if topic.partitioned else 1,
            replication_factor=settings.replication_factor,
            config=topic.config,
        )
        for topic in topics
    ]
    futures: Mapping[str, Future[Any]] = admin.create_topics(new, request_timeout=TIMEOUT_S)
    for future in futures.values():
        # Another process may be creating the same topics at the same moment.
        _answer(future, (KafkaError.TOPIC_ALREADY_EXISTS,))


def _wait_for(admin: AdminClient, names: list[str]) -> Descriptions:
    """What was just created takes a moment to be known, and to have leaders that answer."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        there = _describe(admin, names)
        if len(there) == len(names) and _leaders_answer(admin, there):
            return there
        time.sleep(POLL_S)
    raise ServerError(f"Kafka created the topics, but they have no leader after {TIMEOUT_S:.0f} s")


def _leaders_answer(admin: AdminClient, topics: Descriptions) -> bool:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {
        TopicPartition(name, partition.id): latest
        for name, topic in topics.items()
        for partition in topic.partitions
    }
    futures = admin.list_offsets(asked, request_timeout=TIMEOUT_S)
    return all(_answer(future, NO_LEADER_YET) is not None for future in futures.values())


def _check_partitions(topic: Topic, there: TopicDescription, settings: BrokerSettings) -> None:
    found = len(there.partitions)
    # Workers name the source of each partition that they consume at start.
    if topic.name in (*EVENT_TYPES.topics, ITEMS) and found != settings.partitions:
        raise SettingsError(
            f"kafka.partitions: {settings.partitions}: topic {topic.name} has {found}: "
            f"set kafka.partitions to {found}, or use another cluster"
        )


def _answer(future: Future[Any], expected: Collection[int]) -> Any:
    """A future's result; None for an expected error.

    Raises:
        ServerError: any other.
    """
    try:
        return future.result()
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() in expected:
            return None
        raise unreachable(error) from error
