"""Kafka itself: how a client connects, and the topics as they must be there."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import confluent_kafka
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not to its types
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    TopicDescription,
)
from headwater_client.errors import ServerError, SettingsError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.kafka import remedy_of, unreachable
from headwater_client.topics import ITEMS, PEOPLE

from features.settings import BrokerSettings
from features.topics import Hash, Topic, list_topics, source_hash, topic_faults, topic_weaknesses

TIMEOUT_S = 15.0
POLL_S = 0.05
_ASK_S = 2.0
_REPLICAS = 3
NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART,)
# Of a message that its topic will never take.
TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_AWAY = (
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 (public)
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.REQUEST_TIMED_OUT,
)
_NO_COORDINATOR_YET = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
NO_LEADER_YET = (
    *NOT_THERE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    # Of a topic that was made anew the epoch of the one before is still in mind.
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
)

# What clients show for a topic of a broker that gives topics no ids.
NO_TOPIC_ID = ("", "None", "AAAAAAAAAAAAAAAAAAAAAA")
LOG_TOPICS = (*EVENT_TYPES.topics, ITEMS, PEOPLE)

Descriptions = dict[str, TopicDescription]
log = structlog.get_logger()


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
                    f"{self.partitions[topic]}: give all topics of events and {ITEMS} as many, set "
                    f"kafka.partitions to {found}, and rebuild the rows in an empty store"
                )
        return None


def client_config(settings: BrokerSettings) -> dict[str, str]:
    """Librdkafka's configuration of any client: where Kafka is, and how to log in there.

    Raises:
        SettingsError: no address is set.
    """
    return settings.client_settings.client_config()


def ensure_topics(
    settings: BrokerSettings, topics: Collection[Topic] | None = None
) -> dict[str, str]:
    """Create the topics that are missing, wait until all can be used, and check how they are.

    A topic that exists keeps its configuration. What breaks a promise is refused, what weakens one
    is logged.

    Args:
        settings: where Kafka is, and how many partitions a topic has.
        topics: default: all of Headwater's.

    Returns:
        Kafka's own id of each topic.

    Raises:
        SettingsError: a topic is not as it must be, with a line for each fault; or it is missing,
            and `kafka.create_topics` is off.
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
    _check(admin, topics, there, settings)
    return _ids(there, _cluster_id(admin))


def ensure_log(settings: BrokerSettings) -> LogIdentity:
    """Create the topics that are missing; the identity of the log of events and items.

    Raises:
        SettingsError, ServerError: as `ensure_topics`.
    """
    ensure_topics(settings)
    return describe_log(settings)


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


def describe_log(settings: BrokerSettings) -> LogIdentity:
    """The identity of the log of events and items, as it is now, without topics that are missing.

    Raises:
        ServerError: Kafka does not answer.
    """
    admin = _admin(settings)
    described, cluster = _describe(admin, list(LOG_TOPICS)), _cluster_id(admin)
    partitions = {name: len(topic.partitions) for name, topic in described.items()}
    return LogIdentity(cluster, _ids(described, cluster), partitions)


def is_end(message: Message) -> bool:
    """Whether it says that a partition was read to its end, for now."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 (public)


def partition_bounds(
    settings: BrokerSettings, sources: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, int]]:
    """The first offset that Kafka has of each partition, and the one after the last.

    Raises:
        ServerError: Kafka does not answer.
    """
    admin, places = _admin(settings), [TopicPartition(*source) for source in sources]
    if not places:
        return {}
    first, end = (
        admin.list_offsets(dict.fromkeys(places, spec), request_timeout=TIMEOUT_S)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
    )
    return {
        (place.topic, place.partition): tuple(
            _answer(asked[place], ()).offset for asked in (first, end)
        )
        for place in places
    }


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
    waiting, deadline = dict(places), time.monotonic() + TIMEOUT_S
    with closing(confluent_kafka.Consumer(client_config(settings) | options)) as consumer:
        consumer.assign([TopicPartition(*source, offset) for source, offset in places.items()])
        while waiting:
            for message in consumer.consume(len(waiting), POLL_S):
                source = message.topic() or "", message.partition() or 0
                wanted = waiting.pop(source, None)
                if message.error() is None and message.offset() == wanted:
                    times[source] = message.timestamp()[1]
            if waiting and time.monotonic() > deadline:
                raise ServerError(f"Kafka: no answer in {TIMEOUT_S:.0f} s")
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


def topic_ids(settings: BrokerSettings, names: Iterable[str]) -> dict[str, str]:
    """The id that Kafka gave each topic when it was created; topics that are missing are left out.

    A topic that is deleted and made anew has another id: `features.topics.source_hash`.
    """
    admin = _admin(settings)
    return _ids(_describe(admin, list(names)), _cluster_id(admin))


def group_members(settings: BrokerSettings, group: str) -> list[str]:
    """The members that a consumer group has, by the stable name that each gave itself.

    Raises:
        ServerError: Kafka does not answer.
    """
    # By now its coordinator has read its groups: see there.
    _read_committed(settings, group, [TopicPartition(LOG_TOPICS[0], 0)])
    admin = _admin(settings)
    asked = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)
    described = _answer(asked[group], (KafkaError.GROUP_ID_NOT_FOUND,))
    members = described.members if described else []
    return sorted(each.group_instance_id or each.client_id for each in members)


def find_closed_topics(settings: BrokerSettings) -> Iterator[str]:
    """Which topics of Headwater take no messages for now, a line each; one that is missing is none.

    Raises:
        ServerError: Kafka does not answer.
    """
    admin = _admin(settings)
    there = _describe(admin, [topic.name for topic in list_topics()])
    topics = [topic for topic in list_topics() if topic.name in there]
    for found in _inspect(admin, topics, there):
        name, least = found.topic.name, int(found.config.get("min.insync.replicas", 1))
        closed = [
            str(each.id)
            for each in there[name].partitions
            if each.leader is None or len(each.isr) < least
        ]
        if closed:
            yield (
                f"topic {name} takes no messages in partition {', '.join(closed)}: fewer brokers "
                f"have it than its min.insync.replicas, {least}: bring the others back"
            )


def _ids(described: Descriptions, cluster: str) -> dict[str, str]:
    """What names each topic: Kafka's id; of brokers without ids the names of cluster and topic."""
    ids = {name: str(description.topic_id) for name, description in described.items()}
    times = Counter(ids.values())
    return {
        name: f"{cluster}/{name}" if topic_id in NO_TOPIC_ID or times[topic_id] > 1 else topic_id
        for name, topic_id in ids.items()
    }


def _cluster_id(admin: AdminClient) -> str:
    described = _answer(admin.describe_cluster(request_timeout=TIMEOUT_S), ())
    return str(described.cluster_id or "")


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
            if refused := next(filter(remedy_of, heard), None):
                raise unreachable(KafkaException(refused)) from error
            if time.monotonic() > deadline:
                # The longest text guesses what is wrong: a listener of another protocol.
                told = max((each.str() for each in heard), key=len, default=error.args[0].str())
                raise ServerError(
                    f"Kafka: {told}: check kafka.bootstrap_servers and kafka.security_protocol"
                ) from error


def _describe(admin: AdminClient, names: list[str]) -> Descriptions:
    futures = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_S)
    answers = ((name, _answer(future, NOT_THERE)) for name, future in futures.items())
    return {name: answer for name, answer in answers if answer is not None}


def _create(admin: AdminClient, topics: list[Topic], settings: BrokerSettings) -> None:
    if not settings.create_topics:
        names = ", ".join(topic.name for topic in topics)
        raise SettingsError(
            f"kafka.create_topics: false: Kafka has no topic {names}: create what is missing as "
            "docs/how-to/operate.md says, or set kafka.create_topics to true"
        )
    # Of a cluster that does not tell its brokers, its own default (-1) is taken.
    replicas = settings.replication_factor or min(_REPLICAS, _count_brokers(admin) or -1)
    # A write is whole once it is on two brokers: one may then fail at any moment.
    held = {"min.insync.replicas": "2"} if replicas >= _REPLICAS else {}
    new = [
        NewTopic(
            topic.name,
            num_partitions=_partitions(topic, settings),
            replication_factor=replicas,
            config=topic.config | held,
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


def _partitions(topic: Topic, settings: BrokerSettings) -> int:
    return settings.partitions if topic.partitioned else 1


def _count_brokers(admin: AdminClient) -> int | None:
    """How many brokers there are; None where Kafka does not tell."""
    cluster = _answer_or_warn(admin.describe_cluster(request_timeout=TIMEOUT_S), "brokers")
    return len(cluster.nodes) if cluster else None


class _FoundTopic(NamedTuple):
    """A topic as it is; what Kafka does not tell this client is left out."""

    topic: Topic
    partitions: int
    copies: int
    config: dict[str, str]
    brokers: int | None


def _check(
    admin: AdminClient, topics: Collection[Topic], there: Descriptions, settings: BrokerSettings
) -> None:
    """Compare topics with what they must be.

    Raises:
        SettingsError: with a line for each fault.
    """
    faults: list[str] = []
    for found in _inspect(admin, topics, there):
        if fault := _setting_fault(found, settings):
            # The other topics have as many, or are named once the setting is right.
            raise SettingsError(fault)
        faults += _faults(found, settings)
        for weakness in _weaknesses(found, settings):
            log.warning("topic_weak", topic=found.topic.name, problem=weakness)
    if faults:
        raise SettingsError("\n".join(faults))


def _inspect(
    admin: AdminClient, topics: Collection[Topic], there: Descriptions
) -> Iterator[_FoundTopic]:
    if not topics:
        return  # confluent-kafka refuses to ask for nothing.
    brokers = _count_brokers(admin)
    asked = [ConfigResource(ConfigResource.Type.TOPIC, topic.name) for topic in topics]
    futures = admin.describe_configs(asked, request_timeout=TIMEOUT_S)
    for topic, resource in zip(topics, asked, strict=True):
        told = _answer_or_warn(futures[resource], f"topic {topic.name}") or {}
        partitions = there[topic.name].partitions
        yield _FoundTopic(
            topic,
            len(partitions),
            min(len(each.replicas) for each in partitions),
            {name: entry.value for name, entry in told.items() if entry.value is not None},
            brokers,
        )


def _faults(found: _FoundTopic, settings: BrokerSettings) -> Iterator[str]:
    """What breaks a promise, a line each."""
    topic = found.topic
    if fault := _partition_fault(topic, found.partitions, settings):
        yield fault
    for fault in topic_faults(topic, found.config):
        yield f"topic {topic.name}: {fault}"
    if _is_alone(found) and settings.replication_factor != 1:
        yield (
            f"topic {topic.name}: {_ALONE.format(found.brokers)}: keep it on three "
            "(kafka-reassign-partitions.sh), or accept it: set kafka.replication_factor to 1"
        )


def _weaknesses(found: _FoundTopic, settings: BrokerSettings) -> Iterator[str]:
    """What weakens a promise, a line each."""
    yield from topic_weaknesses(found.topic, found.config)
    if _is_alone(found) and settings.replication_factor == 1:
        yield _ALONE.format(found.brokers)
    if found.copies >= _REPLICAS and found.config.get("min.insync.replicas") == "1":
        yield "min.insync.replicas is 1: what one broker alone has may be lost with it: set it to 2"


_ALONE = "each partition is on one of {} brokers, and lost with it"


def _is_alone(found: _FoundTopic) -> bool:
    return found.copies == 1 and (found.brokers or 1) > 1


def _setting_fault(found: _FoundTopic, settings: BrokerSettings) -> str:
    """Why the setting of partitions is wrong; "" where it fits this topic."""
    wanted, name = settings.partitions, found.topic.name
    # Workers name the source of each partition that they consume at start.
    if name not in LOG_TOPICS or found.partitions == wanted:
        return ""
    return (
        f"kafka.partitions: {wanted}: topic {name} has {found.partitions}: "
        f"set kafka.partitions to {found.partitions}, or use another cluster"
    )


def _partition_fault(topic: Topic, found: int, settings: BrokerSettings) -> str:
    """Why a topic cannot have so many partitions; "" where it can."""
    wanted = _partitions(topic, settings)
    if topic.any_partitions or found == wanted:
        return ""
    if not topic.partitioned:
        return f"topic {topic.name} has {found} partitions: its order needs one: make it anew"
    # A click would be looked for in another partition than what was recommended before it.
    return f"topic {topic.name} has {found} partitions, and events have {wanted}: make it anew"


def _answer_or_warn(future: Future[Any], what: str) -> Any:
    """What Kafka tells of itself; None, and a warning, where it does not tell this client."""
    try:
        return future.result()
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() in _AWAY:
            raise unreachable(error) from error
        log.warning("topics_not_checked", of=what, reason=reason.str())
        return None


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


def _read_committed(
    settings: BrokerSettings, group: str, places: list[TopicPartition]
) -> list[TopicPartition]:
    """What a group has committed, by a consumer that does not join it.

    A broker that has just started reads its groups first: it is asked again. Not by an AdminClient:
    librdkafka 2.16 ends the process (SIGSEGV) where that one's coordinator is still reading.

    Raises:
        ServerError: it does not answer, or still reads.
    """
    deadline = time.monotonic() + TIMEOUT_S
    options = {"group.id": group, "enable.auto.commit": "false", "log_level": "0"}
    with closing(confluent_kafka.Consumer(client_config(settings) | options)) as consumer:
        while True:
            try:
                return consumer.committed(places, timeout=TIMEOUT_S)
            except KafkaException as error:
                is_reading = error.args[0].code() in _NO_COORDINATOR_YET
                if not is_reading or time.monotonic() > deadline:
                    raise unreachable(error) from error
            time.sleep(POLL_S)
