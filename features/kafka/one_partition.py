"""Topics that are read up to their ends: those of one partition whole, those of events by time.

Topics of one partition are written one message at a time.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from uuid import uuid4

import confluent_kafka
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from headwater_client.errors import ServerError

from features.kafka.admin import TIMEOUT_S, client_config
from features.kafka.offsets import ask_offsets
from features.settings import BrokerSettings
from features.signing import Headers

FETCH_WAIT_MS = 50
_MESSAGES, _POLL_S = 1000, 0.05
_RANGE_MESSAGES, _RANGE_POLL_S = 500, 0.1


def is_end(message: Message) -> bool:
    """Whether it says that a partition was read to its end, for now."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 (public)


def topic_consumer(
    settings: BrokerSettings, group: str, options: Mapping[str, Any] | None = None
) -> confluent_kafka.Consumer:
    """A consumer of a whole topic: it commits nothing, and tells where the topic ends.

    What was written in one transaction is seen whole, or not at all.

    Args:
        group: what the name of its group begins with, which rights are given by. It is alone in
            it, to be assigned and never subscribed.
        options: more of librdkafka's configuration.
    """
    return confluent_kafka.Consumer(
        client_config(settings)
        | {
            "group.id": f"{group}-{uuid4()}",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            # Of a topic that was deleted and made anew.
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            # The end is told once a fetch comes back empty: by default after half a second.
            "fetch.wait.max.ms": str(FETCH_WAIT_MS),
            "log_level": "0",
        }
        | dict(options or {})
    )


def read_to_end(
    consumer: confluent_kafka.Consumer, topic: str, start: int = OFFSET_BEGINNING
) -> Iterator[Message]:
    """Every message that a topic has now; the consumer is left assigned, behind the last.

    Args:
        start: the offset to begin at. Of a topic that was made anew since, and is shorter than
            that, all is read.

    Raises:
        ServerError: the topic cannot be read.
    """
    # Asked before it reads: between fetches a broker answers half a second later.
    (last,) = ask_offsets(consumer, [TopicPartition(topic, 0, OFFSET_END)])
    begin = start if start <= last.offset else OFFSET_BEGINNING
    yield from read_places(consumer, [TopicPartition(topic, 0, begin)])


def read_since(
    settings: BrokerSettings, group: str, topics: Sequence[str], since_ms: int
) -> Iterator[Message]:
    """What topics of events have since a moment, up to their ends as they are now.

    Args:
        group: as of `topic_consumer`.
        since_ms: when Kafka took the first, at least.

    Raises:
        ServerError: Kafka cannot be read.
    """
    numbers = range(settings.partitions)
    times = [TopicPartition(name, number, since_ms) for name in topics for number in numbers]
    with closing(topic_consumer(settings, group)) as consumer:
        yield from read_places(consumer, ask_offsets(consumer, times))


def read_places(
    consumer: confluent_kafka.Consumer, places: Sequence[TopicPartition]
) -> Iterator[Message]:
    """What partitions have now from their offsets on; the consumer is left assigned, behind it.

    What has come meanwhile may be among it.

    Raises:
        ServerError: a partition cannot be read.
    """
    try:
        # Anew each time, so that the ends are told also where nothing has come since.
        consumer.assign(list(places))
    except KafkaException as error:
        raise ServerError(f"Kafka: {error.args[0].str()}") from error
    left = {(place.topic, place.partition) for place in places}
    heard_s = time.monotonic()
    while left:
        # The first at once, as it comes, and what has come with it. What is out of the consumer is
        # handed on, also behind an end.
        first = consumer.poll(_POLL_S)
        for message in [first, *consumer.consume(_MESSAGES, 0)] if first else ():
            heard_s = time.monotonic()
            if is_end(message):
                left.discard((message.topic() or "", message.partition() or 0))
            elif (problem := message.error()) is not None:
                raise ServerError(f"Kafka: topic {message.topic()}: {problem.str()}")
            else:
                yield message
        if left and time.monotonic() - heard_s > TIMEOUT_S:
            names = ", ".join(sorted({topic for topic, _ in left}))
            raise ServerError(f"topic {names} cannot be read: no answer in {TIMEOUT_S:.0f} s")


def read_ranges(
    make_consumer: Callable[[], confluent_kafka.Consumer],
    ranges: Mapping[tuple[str, int], tuple[int, int]],
    answer_s: float,
    longest_s: float = math.inf,
) -> Iterator[Message]:
    """The messages of ranges of partitions, those of a partition in order; few are held.

    Args:
        make_consumer: as of `topic_consumer`; called where there is anything to read.
        ranges: by topic and partition, the first offset and the one after the last.
        answer_s: how long Kafka may say nothing.
        longest_s: how long all of it may take.

    Raises:
        ServerError: it takes longer, or Kafka says why a partition cannot be read.
    """
    ends = {place: end for place, (start, end) in ranges.items() if start < end}
    if not ends:
        return
    with closing(make_consumer()) as consumer:
        consumer.assign([TopicPartition(*place, ranges[place][0]) for place in ends])
        heard_s = began_s = time.monotonic()
        while ends:
            for message in consumer.consume(_RANGE_MESSAGES, _RANGE_POLL_S):
                heard_s = time.monotonic()
                place = message.topic() or "", message.partition() or 0
                offset = message.offset() or 0
                if is_end(message):
                    ends.pop(place, None)
                    continue
                if (problem := message.error()) is not None:
                    raise ServerError(f"Kafka: {place[0]}: {problem.str()}")
                if offset < ranges[place][1]:
                    yield message
                # One beyond the range: what stood at its end was of an aborted transaction.
                if offset + 1 >= ranges[place][1]:
                    ends.pop(place, None)
            now_s = time.monotonic()
            if ends and (now_s - heard_s > answer_s or now_s - began_s > longest_s):
                names = ", ".join(sorted({topic for topic, _ in ends}))
                raise ServerError(f"Kafka: {names}: not read in {now_s - began_s:.0f} s")


def write_message(
    settings: BrokerSettings, topic: str, key: str, value: bytes | None, headers: Headers = ()
) -> int:
    """Write one message, and wait until Kafka has it; its offset.

    Args:
        value: None removes what the key stood for.

    Raises:
        ServerError: Kafka does not take it.
    """
    reports: list[tuple[KafkaError | None, Message]] = []
    producer = confluent_kafka.Producer(
        client_config(settings) | {"enable.idempotence": "true", "log_level": "0"}
    )
    producer.produce(
        topic,
        value,
        key,
        headers=list(headers),
        on_delivery=lambda *report: reports.append(report),
    )
    if producer.flush(TIMEOUT_S) or not reports:
        raise ServerError(f"Kafka: topic {topic}: no answer in {TIMEOUT_S:.0f} s")
    ((error, message),) = reports
    if error is not None:
        raise ServerError(f"Kafka: topic {topic}: {error.str()}")
    return message.offset() or 0
