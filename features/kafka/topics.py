"""Topics as they must be there: made where they are missing, checked where they are not."""

import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # public, but not to its types
from headwater_client.errors import ServerError, SettingsError
from headwater_client.kafka import unreachable

from features.kafka import admin
from features.kafka.log import LogIdentity, describe_log, log_topics
from features.kafka.offsets import partition_bounds
from features.settings import BrokerSettings
from features.topics import Hash, Topic, list_topics, source_hash, topic_faults, topic_weaknesses

_REPLICAS = 3
_AWAY = (
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 (public)
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.REQUEST_TIMED_OUT,
)
log = structlog.get_logger()


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
    client = admin.connect(settings)
    topics = list_topics() if topics is None else topics
    names = [topic.name for topic in topics]
    there = admin.describe_topics(client, names)
    missing = [topic for topic in topics if topic.name not in there]
    if missing:
        _create(client, missing, settings)
        there = _wait_for(client, settings, names)
    _check(client, topics, there, settings)
    return admin.identify_topics(there, admin.cluster_id(client))


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


def read_retention(settings: BrokerSettings, names: Collection[str]) -> dict[str, int]:
    """How many milliseconds each topic keeps a message, at most; -1: for ever.

    Left out are topics that are missing, those that Kafka does not describe to this login, and
    those that are compacted, which keep what is newest. A segment is removed whole, once its newest
    message is old enough: a message may stay for `segment.ms` longer, which is among it.

    Raises:
        ServerError: Kafka does not answer.
    """
    client = admin.make_client(settings)
    there = admin.describe_topics(client, list(names))
    topics = [topic for topic in list_topics() if topic.name in there]
    return {
        found.topic.name: _longest_ms(found.config)
        for found in _inspect(client, topics, there)
        if "delete" in found.config.get("cleanup.policy", "")
    }


def _longest_ms(config: Mapping[str, str]) -> int:
    kept_ms = int(config["retention.ms"])
    return -1 if kept_ms < 0 else kept_ms + int(config["segment.ms"])


def find_closed_topics(settings: BrokerSettings) -> Iterator[str]:
    """Which topics of Headwater take no messages for now, a line each; one that is missing is none.

    Raises:
        ServerError: Kafka does not answer.
    """
    client = admin.make_client(settings)
    there = admin.describe_topics(client, [topic.name for topic in list_topics()])
    topics = [topic for topic in list_topics() if topic.name in there]
    for found in _inspect(client, topics, there):
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


def _create(client: AdminClient, topics: list[Topic], settings: BrokerSettings) -> None:
    if not settings.create_topics:
        names = ", ".join(topic.name for topic in topics)
        raise SettingsError(
            f"kafka.create_topics: false: Kafka has no topic {names}: create what is missing as "
            "docs/how-to/operate.md says, or set kafka.create_topics to true"
        )
    # Where no broker is told of for a moment, the cluster's own default (-1) is taken.
    replicas = settings.replication_factor or min(_REPLICAS, _count_brokers(client) or -1)
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
    futures: Mapping[str, Future[Any]] = client.create_topics(new, request_timeout=admin.TIMEOUT_S)
    for future in futures.values():
        # Another process may be creating the same topics at the same moment.
        admin.take_answer(future, (KafkaError.TOPIC_ALREADY_EXISTS,))


def _wait_for(
    client: AdminClient, settings: BrokerSettings, names: list[str]
) -> admin.TopicDescriptions:
    """What was just created takes a moment to be known, and to have leaders that answer."""
    deadline, problem = time.monotonic() + admin.TIMEOUT_S, None
    while time.monotonic() < deadline:
        there = admin.describe_topics(client, names)
        if len(there) == len(names):
            places = [(name, each.id) for name in names for each in there[name].partitions]
            try:
                partition_bounds(settings, places)
                return there
            except ServerError as error:
                # Not every broker knows of them yet.
                problem = error
        time.sleep(admin.POLL_S)
    raise ServerError(
        f"Kafka created the topics, but does not know them after {admin.TIMEOUT_S:.0f} s"
    ) from problem


def _partitions(topic: Topic, settings: BrokerSettings) -> int:
    return settings.partitions if topic.partitioned else 1


def _count_brokers(client: AdminClient) -> int:
    """How many brokers Kafka tells of; 0 for a moment where one has slept."""
    return len(admin.read_metadata(client).brokers)


class _FoundTopic(NamedTuple):
    """A topic as it is; what Kafka does not tell this client is left out."""

    topic: Topic
    partitions: int
    copies: int
    config: dict[str, str]
    brokers: int


def _check(
    client: AdminClient,
    topics: Collection[Topic],
    there: admin.TopicDescriptions,
    settings: BrokerSettings,
) -> None:
    """Compare topics with what they must be.

    Raises:
        SettingsError: with a line for each fault.
    """
    faults: list[str] = []
    in_log = {name: len(topic.partitions) for name, topic in there.items() if name in log_topics()}
    if fault := _setting_fault(in_log, settings):
        # The other topics are named once this is right.
        raise SettingsError(fault)
    for found in _inspect(client, topics, there):
        faults += _faults(found, settings)
        for weakness in _weaknesses(found, settings):
            log.warning("topic_weak", topic=found.topic.name, problem=weakness)
    if faults:
        raise SettingsError("\n".join(faults))


def _inspect(
    client: AdminClient, topics: Collection[Topic], there: admin.TopicDescriptions
) -> Iterator[_FoundTopic]:
    if not topics:
        return  # confluent-kafka refuses to ask for nothing.
    brokers = _count_brokers(client)
    asked = [ConfigResource(ConfigResource.Type.TOPIC, topic.name) for topic in topics]
    futures = client.describe_configs(asked, request_timeout=admin.TIMEOUT_S)
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
    return found.copies == 1 and found.brokers > 1


def _setting_fault(found: Mapping[str, int], settings: BrokerSettings) -> str:
    """Why the setting of partitions is wrong; "" where it fits.

    Args:
        found: the partitions of each topic of the log.
    """
    most = max(found.values(), default=settings.partitions)
    fewer = [name for name, partitions in found.items() if partitions < most]
    if fewer:
        # None can be taken away again.
        more = next(name for name, partitions in found.items() if partitions == most)
        return (
            f"kafka.partitions: topic {more} has {most}, and {', '.join(fewer)} fewer: give each "
            f"as many (kafka-topics.sh --alter --topic {fewer[0]} --partitions {most}), set "
            f"kafka.partitions to {most}, and rebuild the rows in an empty store (headwater "
            "backfill rows)"
        )
    # Workers name the source of each partition that they consume at start.
    if most == settings.partitions:
        return ""
    name = next(iter(found))
    return (
        f"kafka.partitions: {settings.partitions}: topic {name} has {most}: "
        f"set kafka.partitions to {most}, or use another cluster"
    )


def _partition_fault(topic: Topic, found: int, settings: BrokerSettings) -> str:
    """Why a topic cannot have so many partitions; "" where it can."""
    wanted = _partitions(topic, settings)
    if topic.any_partitions or found == wanted:
        return ""
    if not topic.partitioned:
        return f"topic {topic.name} has {found} partitions: its order needs one: make it anew"
    # A click would be looked for in another partition than what was recommended before it.
    remedy = (
        f"kafka-topics.sh --alter --topic {topic.name} --partitions {wanted}"
        if found < wanted
        else "make it anew"
    )
    return f"topic {topic.name} has {found} partitions, and events have {wanted}: {remedy}"


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
