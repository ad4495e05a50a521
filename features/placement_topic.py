"""Placements on their compacted topic: the newest message of a name counts, a tombstone removes it.

A placement's revision is the offset of its message: whoever changes one, and from where, revisions
grow, and nobody hands them out.
"""

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import confluent_kafka
import structlog
from confluent_kafka import KafkaError, Message, TopicPartition
from headwater_client import EventError, ServerError, decode, encode
from headwater_client.contract import PlacementRules
from headwater_client.topics import PLACEMENTS

from features.kafka import client_config, is_end
from features.placements import PlacementTable, check_placement
from features.rules.errors import RuleError
from features.settings import BrokerSettings

ANSWER_S = 15.0
_FETCH_WAIT_MS = 50
log = structlog.get_logger()


def take_message(table: PlacementTable, message: Message) -> None:
    """Take a message into a table; one that cannot be read is said, and changes nothing."""
    if message.error() is not None:
        return
    key, value = message.key() or b"", message.value()
    name = key if isinstance(key, str) else key.decode(errors="replace")
    raw = value.encode() if isinstance(value, str) else value
    try:
        placement = None if raw is None else decode(PlacementRules, raw)
        if placement is not None:
            check_placement(name, placement)
    except (EventError, RuleError) as error:
        log.warning("placement_ignored", placement=name[:64], reason=str(error))
        return
    table.take(name, placement, message.offset() or 0)


def placements_consumer(settings: BrokerSettings) -> confluent_kafka.Consumer:
    """A consumer of the whole topic, which commits nothing and tells where the topic ends."""
    consumer = confluent_kafka.Consumer(
        client_config(settings)
        | {
            "group.id": f"placements-{uuid4()}",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": str(_FETCH_WAIT_MS),
            "log_level": "0",
        }
    )
    consumer.assign([TopicPartition(PLACEMENTS, 0, confluent_kafka.OFFSET_BEGINNING)])
    return consumer


def read_to_end(consumer: confluent_kafka.Consumer) -> Iterator[Message]:
    """The messages that there are.

    Raises:
        ServerError: the topic cannot be read.
    """
    while True:
        message = consumer.poll(ANSWER_S)
        if message is None:
            raise ServerError(f"topic {PLACEMENTS} cannot be read: no answer in {ANSWER_S:.0f} s")
        if is_end(message):
            return
        if (error := message.error()) is not None:
            raise ServerError(f"Kafka: topic {PLACEMENTS}: {error.str()}")
        yield message


def read_placements(settings: BrokerSettings) -> PlacementTable:
    """All placements, as they are now.

    Raises:
        ServerError: the topic cannot be read.
    """
    table = PlacementTable()
    with closing(placements_consumer(settings)) as consumer:
        for message in read_to_end(consumer):
            take_message(table, message)
    return table


def write_placement(settings: BrokerSettings, name: str, placement: PlacementRules | None) -> int:
    """Write a placement, or that there is none any more; its revision.

    Raises:
        EventError, RuleError: it could not be used.
        ServerError: Kafka does not take it.
    """
    if placement is not None:
        check_placement(name, placement)
    told: list[tuple[KafkaError | None, Message]] = []
    producer = confluent_kafka.Producer(
        client_config(settings) | {"enable.idempotence": "true", "log_level": "0"}
    )
    value = None if placement is None else encode(placement)
    producer.produce(PLACEMENTS, value, name, on_delivery=lambda *each: told.append(each))
    if producer.flush(ANSWER_S) or not told:
        raise ServerError(f"Kafka: topic {PLACEMENTS}: no answer in {ANSWER_S:.0f} s")
    ((error, message),) = told
    if error is not None:
        raise ServerError(f"Kafka: topic {PLACEMENTS}: {error.str()}")
    return message.offset() or 0
