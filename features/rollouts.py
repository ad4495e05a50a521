"""What the compacted topic `rollouts` says: which versions of a model take traffic."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import confluent_kafka
import msgspec
import structlog
from headwater_client.errors import ServerError
from headwater_client.events import encode
from headwater_client.topics import ROLLOUTS

from features.kafka import client_config
from features.rollout_messages import Rollout, RolloutMessage, decode_rollout_message
from features.settings import BrokerSettings

ANSWER_S = 10.0
WRITE_TIMEOUT_S = 15.0
FETCH_WAIT_MS = 50
PARTITION = confluent_kafka.TopicPartition(ROLLOUTS, 0, confluent_kafka.OFFSET_BEGINNING)
log = structlog.get_logger()


def rollouts_consumer(
    settings: BrokerSettings, options: Mapping[str, Any] | None = None
) -> confluent_kafka.Consumer:
    """A consumer for the whole topic; it commits nothing, and tells where the topic ends.

    What a controller wrote in one transaction is seen whole, or not at all.

    Args:
        options: more of librdkafka's configuration; by default the consumer is alone in its group,
            to be assigned and never subscribed.
    """
    return confluent_kafka.Consumer(
        client_config(settings)
        | {
            "group.id": f"rollouts-{uuid4()}",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "isolation.level": "read_committed",
            # The end is told once a fetch comes back empty: by default after half a second.
            "fetch.wait.max.ms": str(FETCH_WAIT_MS),
            "log_level": "0",
        }
        | dict(options or {})
    )


class RolloutView:
    """What the topic says of one model: read from its beginning once, and on from there each time.

    Connects when it first reads, and takes nothing from Kafka between two reads. For one thread.

    Attributes:
        newest: the rollout that counts, as of the last `refresh`; None where there was none.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self.model = model
        self.newest: Rollout | None = None
        self._settings = settings
        self._consumer: confluent_kafka.Consumer | None = None
        self._next = confluent_kafka.OFFSET_BEGINNING

    def refresh(self) -> Rollout | None:
        """Take in all that was written since the last time; the newest rollout.

        Raises:
            ServerError: the topic cannot be read.
        """
        for _ in self.read():
            pass
        return self.newest

    def read(self) -> Iterator[RolloutMessage]:
        """The messages of the model that were written since the last time, oldest first.

        What is unreadable is logged and passed over. A reader that stops early goes on from there.

        Raises:
            ServerError: the topic cannot be read.
        """
        if self._consumer is None:
            self._consumer = rollouts_consumer(self._settings)
        try:
            for message in read_all(self._consumer, self._next):
                self._next = (message.offset() or 0) + 1
                said = rollout_message_in(message, self.model)
                if isinstance(said, Rollout):
                    self.newest = said
                if said is not None:
                    yield said
        finally:
            self._consumer.unassign()

    def close(self) -> None:
        """Disconnect; a later read connects anew, and goes on."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def read_all(
    consumer: confluent_kafka.Consumer, start: int = confluent_kafka.OFFSET_BEGINNING
) -> Iterator[confluent_kafka.Message]:
    """Every message that the topic has now; the consumer is left assigned, behind the last.

    Args:
        start: the offset to begin at. Of a topic that was made anew since, and is shorter than
            that, all is read.

    Raises:
        ServerError: the topic cannot be read.
    """
    try:
        # Asked before it reads: between fetches a broker answers half a second later.
        _, end = consumer.get_watermark_offsets(PARTITION, timeout=ANSWER_S)
        begin = start if start <= end else confluent_kafka.OFFSET_BEGINNING
        # Anew each time, so that the end is told also where nothing has come since.
        consumer.assign([confluent_kafka.TopicPartition(ROLLOUTS, 0, begin)])
    except confluent_kafka.KafkaException as error:
        raise ServerError(f"Kafka: topic {ROLLOUTS}: {error.args[0].str()}") from error
    while True:
        message = consumer.poll(ANSWER_S)
        if message is None:
            raise ServerError(f"topic {ROLLOUTS} cannot be read: no answer in {ANSWER_S:.0f} s")
        if is_end(message):
            return
        if (problem := message.error()) is not None:
            raise ServerError(f"Kafka: topic {ROLLOUTS}: {problem.str()}")
        yield message


def is_end(message: confluent_kafka.Message) -> bool:
    """Whether this says that there is no more for now."""
    error = message.error()
    return error is not None and error.code() == confluent_kafka.KafkaError._PARTITION_EOF  # noqa: SLF001


def write_rollout_message(
    settings: BrokerSettings, key: str, message: RolloutMessage, what: str
) -> None:
    """Write one message, and wait until Kafka has it.

    Args:
        what: it is, for the error.

    Raises:
        ServerError: Kafka does not take it.
    """
    failures: list[str] = []
    producer = confluent_kafka.Producer(
        {**client_config(settings), "enable.idempotence": "true", "log_level": "0"}
    )
    producer.produce(
        ROLLOUTS,
        key=key,
        value=encode(message),
        on_delivery=lambda error, _: failures.append(str(error)) if error else None,
    )
    if producer.flush(WRITE_TIMEOUT_S) or failures:
        reason = failures[0] if failures else f"no answer in {WRITE_TIMEOUT_S:.0f} s"
        raise ServerError(f"Kafka: topic {ROLLOUTS}: {what}: {reason}")


def rollout_message_in(message: confluent_kafka.Message, model: str) -> RolloutMessage | None:
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
