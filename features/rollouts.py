"""What the compacted topic `rollouts` says: which versions of a model take traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from features.errors import ServerError
from features.kafka import client_config
from features.rollout_messages import Rollout, RolloutMessage, decode_rollout_message
from features.settings import KafkaSettings
from features.topics import ROLLOUTS

ANSWER_S = 10.0
PARTITION = TopicPartition(ROLLOUTS, 0, OFFSET_BEGINNING)
log = structlog.get_logger()


def rollouts_consumer(settings: KafkaSettings) -> Consumer:
    """A consumer of its own for the whole topic; it commits nothing, and tells where it ends.

    What a controller wrote in one transaction is seen whole, or not at all.
    """
    return Consumer(
        client_config(settings)
        | {
            # Assigned, never subscribed: the group has one member, which reads everything.
            "group.id": f"rollouts-{uuid4()}",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "isolation.level": "read_committed",
            "log_level": "0",
        }
    )


def newest_rollout(settings: KafkaSettings, model: str) -> Rollout | None:
    """The rollout of a model that counts, None where there was none.

    Raises:
        ServerError: the topic cannot be read.
    """
    newest = None
    with closing(rollouts_consumer(settings)) as consumer:
        for message in read_all(consumer):
            found = rollout_message_in(message, model)
            newest = found if isinstance(found, Rollout) else newest
    return newest


def read_all(consumer: Consumer) -> Iterator[Message]:
    """Every message that the topic has now; the consumer is left assigned, behind the last.

    Raises:
        ServerError: the topic cannot be read.
    """
    consumer.assign([PARTITION])
    while True:
        message = consumer.poll(ANSWER_S)
        if message is None:
            raise ServerError(f"topic {ROLLOUTS} cannot be read: no answer in {ANSWER_S:.0f} s")
        if is_end(message):
            return
        if (error := message.error()) is not None:
            raise ServerError(f"Kafka: topic {ROLLOUTS}: {error.str()}")
        yield message


def is_end(message: Message) -> bool:
    """Whether this says that there is no more for now."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001


def rollout_message_in(message: Message, model: str) -> RolloutMessage | None:
    """What a message says of a model; None if it is of another one, a tombstone, or unreadable.

    What is unreadable is logged, and changes nothing.
    """
    key, value = message.key(), message.value()
    if message.error() is not None or key is None or value is None:
        return None
    try:
        return decode_rollout_message(key.decode(), value, model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("rollout_ignored", offset=message.offset(), error=str(error))
        return None
