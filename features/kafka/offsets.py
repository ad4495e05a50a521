"""The offsets that a log has at a moment, at its beginning and at its end.

A consumer asks for them, not an AdminClient: librdkafka 2.16 ends the process (SIGABRT) where a
broker does not answer that one's question for offsets in time.
"""

from collections.abc import Iterable
from contextlib import closing
from functools import partial

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from features.kafka import admin
from features.settings import BrokerSettings

# What this client knows of the topic is older than the topic. Or Kafka told it so in the moment in
# which its process went on again.
_UNKNOWN_PARTITION = KafkaError._UNKNOWN_PARTITION  # noqa: SLF001  (its public name)
# Of a partition that has just been made, or whose leader has just changed.
_NO_LEADER_YET = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    # Of a topic that was made anew the epoch of the one before is still in mind.
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    _UNKNOWN_PARTITION,
)


def partition_bounds(
    settings: BrokerSettings, sources: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, int]]:
    """The first offset that Kafka has of each partition, and the one after the last.

    Raises:
        ServerError: Kafka does not answer.
    """
    options = {"group.id": "headwater-bounds", "enable.auto.commit": "false", "log_level": "0"}
    options["isolation.level"] = "read_uncommitted"
    with closing(confluent_kafka.Consumer(admin.client_config(settings) | options)) as consumer:
        return ask_bounds(consumer, sources)


def ask_bounds(
    consumer: confluent_kafka.Consumer,
    sources: Iterable[tuple[str, int]],
    timeout_s: float = admin.TIMEOUT_S,
) -> dict[tuple[str, int], tuple[int, int]]:
    """The same, by a consumer that is there.

    What is still being written in a transaction lies beyond the end, where the consumer's isolation
    level is `read_committed`.

    Args:
        timeout_s: of each of two questions.

    Raises:
        ServerError: Kafka does not answer.
    """
    wanted = list(sources)
    first, end = (
        ask_offsets(consumer, [TopicPartition(*source, what) for source in wanted], timeout_s)
        for what in (OFFSET_BEGINNING, OFFSET_END)
    )
    return {
        source: (begin.offset, last.offset)
        for source, begin, last in zip(wanted, first, end, strict=True)
    }


def ask_offsets(
    consumer: confluent_kafka.Consumer,
    places: Iterable[TopicPartition],
    timeout_s: float = admin.TIMEOUT_S,
) -> list[TopicPartition]:
    """Partitions in their order, each with the offset that it has at a moment.

    Args:
        places: for an offset the moment in milliseconds since 1970, or `OFFSET_BEGINNING` or
            `OFFSET_END`. Where nothing came at that moment or later, the answer is below 0.
        timeout_s: so long it is asked again where a partition has no leader yet.

    Raises:
        ServerError: Kafka does not answer.
        SettingsError: it refuses this login.
    """
    wanted = list(places)
    if not wanted:
        return []
    ask = partial(_ask_once, consumer, wanted, timeout_s)
    found = admin.ask_again(ask, _NO_LEADER_YET, timeout_s)
    answers = {(each.topic, each.partition): each for each in found}
    return [answers[each.topic, each.partition] for each in wanted]


def _ask_once(
    consumer: confluent_kafka.Consumer, places: list[TopicPartition], timeout_s: float
) -> list[TopicPartition]:
    try:
        found: list[TopicPartition] = consumer.offsets_for_times(places, timeout=timeout_s)
    except KafkaException as error:
        if error.args[0].code() == _UNKNOWN_PARTITION:
            # librdkafka keeps what it knows of a topic for minutes, and answers from that.
            for topic in {place.topic for place in places}:
                consumer.list_topics(topic, timeout_s)
        raise
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return found
