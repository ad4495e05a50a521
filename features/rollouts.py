"""What the compacted topic `rollouts` says: which versions of a model take traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from features.errors import ServerError
from features.events import Rollout
from features.kafka import client_config
from features.settings import KafkaSettings
from features.topics import ROLLOUTS

ANSWER_S = 10.0
_decoder = msgspec.json.Decoder(Rollout)
log = structlog.get_logger()


def newest_rollout(settings: KafkaSettings, model: str) -> Rollout | None:
    """The rollout of a model that counts, None where there was none.

    Raises:
        ServerError: the topic cannot be read.
    """
    newest = None
    consumer = Consumer(
        client_config(settings)
        | {"group.id": f"rollouts-{uuid4()}", "enable.auto.commit": "false", "log_level": "0"}
    )
    with closing(consumer):
        for message in read_all(consumer):
            try:
                newest = rollout_in(message, model) or newest
            except msgspec.DecodeError as error:
                log.warning("rollout_ignored", offset=message.offset(), error=str(error))
    return newest


def read_all(consumer: Consumer) -> Iterator[Message]:
    """Every message that the topic has now; the consumer is left assigned, behind the last.

    Raises:
        ServerError: the topic cannot be read.
    """
    partition = TopicPartition(ROLLOUTS, 0, OFFSET_BEGINNING)
    try:
        # Asked before it reads: between fetches a broker answers half a second later.
        read, end = consumer.get_watermark_offsets(partition, timeout=ANSWER_S)
        consumer.assign([partition])
        while read < end:
            message = consumer.poll(ANSWER_S)
            if message is None:
                raise ServerError(f"topic {ROLLOUTS} cannot be read: no answer in {ANSWER_S:.0f} s")
            yield message
            # The position, not the offset: compaction leaves gaps at the end too.
            (position,) = consumer.position([partition])
            read = position.offset
    except KafkaException as error:
        raise ServerError(f"Kafka: topic {ROLLOUTS}: {error.args[0].str()}") from error


def rollout_in(message: Message, model: str) -> Rollout | None:
    """What a message says of a model; None if it is of another one, or a tombstone.

    Raises:
        DecodeError: msgspec's, the value is not a rollout.
    """
    value = message.value()
    if message.error() is not None or message.key() != model.encode() or value is None:
        return None
    return _decoder.decode(value)
