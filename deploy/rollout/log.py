"""The topic `rollouts` as the leading controller reads and writes it.

Controllers are a consumer group over the only partition of `rollouts`: Kafka assigns it to one of
them, and to another once that one is gone. Decisions are written in transactions of one
transactional id, so Kafka fences a controller that was taken for dead and is not: two never decide
at once. Who leads reads the commands, too.
"""

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import confluent_kafka
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from headwater_client.contract import PlacementRules
from headwater_client.errors import HeadwaterError, ServerError
from headwater_client.events import encode
from headwater_client.topics import PLACEMENTS, ROLLOUT_COMMANDS, ROLLOUTS
from msgspec.structs import replace

from deploy.rollout.commands import FencedError, ReceivedCommand
from features import rollout_messages, rollouts
from features.kafka import client_config, is_end, topic_consumer, watch_brokers
from features.kafka.access import CONTROLLER_NAME
from features.settings import BrokerSettings
from features.signing import signature_headers

# The least that brokers allow. Another controller takes over so long after a death.
SESSION_TIMEOUT_MS = 6000
ANSWER_S = 15.0
_WHOLE = TopicPartition(ROLLOUTS, 0, confluent_kafka.OFFSET_BEGINNING)
COMMANDS = TopicPartition(ROLLOUT_COMMANDS, 0, confluent_kafka.OFFSET_BEGINNING)
log = structlog.get_logger()

ControllerMessage = (
    rollout_messages.Rollout
    | rollout_messages.RolloutLease
    | rollout_messages.RolloutStep
    | rollout_messages.RolloutCourse
    | rollout_messages.RolloutAnswer
)
SubjectMessage = rollout_messages.RolloutMessage | ReceivedCommand


class LogMessage(NamedTuple):
    """What is to be written; without a value, a tombstone. `follows`: `features.signing`."""

    topic: str
    key: str
    value: bytes | None
    follows: int | None = None


class PromotedRules(NamedTuple):
    """What a placement's rules are from now on, in place of those of a revision."""

    rules: PlacementRules
    revision: int


class RolloutLog:
    """Reads the whole topic once it leads, and writes steps and answers, whole or not at all.

    What it writes is signed where a key is set, numbered, and a step names the one before it.

    Args:
        model: whose versions take traffic; placements that are tried out are subjects besides it.

    Attributes:
        leads: whether the partition is this controller's.
        caught_up: whether all of what was there has been read.
        subjects: by name, those of which something stands on the topic, and what came of each.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self._settings = settings
        self._model = model
        self._producer: Producer | None = None
        self._readers = rollouts.SubjectReaders(settings, model)
        self.subjects: dict[str, SubjectLog] = {}
        self.leads = self.caught_up = False
        self._commands = topic_consumer(settings, ROLLOUTS, watch_brokers())
        self._consumer = topic_consumer(
            settings,
            ROLLOUTS,
            {
                "group.id": f"{CONTROLLER_NAME}-{model}",
                "session.timeout.ms": str(SESSION_TIMEOUT_MS),
                "heartbeat.interval.ms": str(SESSION_TIMEOUT_MS // 6),
                **watch_brokers(),
            },
        )
        self._consumer.subscribe(
            [ROLLOUTS], on_assign=self._take_over, on_revoke=self._give_up, on_lost=self._give_up
        )

    def pump(self, timeout_s: float) -> None:
        """Take what comes next to its subject.

        Raises:
            FencedError, ServerError: this controller cannot take over the lead.
        """
        if self.leads:
            self._take_commands()
        else:
            # It has no partition, and says how it is all the same.
            self._commands.poll(0)
        try:
            message = self._consumer.poll(timeout_s)
        except KafkaException as error:
            raise self._resign_after(error) from error
        if message is None:
            return
        if is_end(message):
            self.caught_up = True
        elif (problem := message.error()) is not None:
            log.warning("rollouts_unreadable", error=problem.str())
        elif (reader := self._readers.find(message)) and (said := reader.read(message)):
            self._subject(reader).put(said)

    def _subject(self, reader: rollouts.RolloutReader) -> "SubjectLog":
        if reader.model not in self.subjects:
            self.subjects[reader.model] = SubjectLog(self, reader)
        return self.subjects[reader.model]

    @property
    def problem(self) -> str:
        """Why it neither leads nor waits to; "" where it does."""
        if self.leads:
            return "" if self.caught_up else f"reads topic {ROLLOUTS} from its beginning"
        return (
            ""
            if self._consumer.memberid()
            else f"has not joined group {CONTROLLER_NAME}-{self._model}"
        )

    def _take_commands(self) -> None:
        message = self._commands.poll(0)
        if message is None or is_end(message):
            return
        if (problem := message.error()) is not None:
            log.warning("commands_unreadable", error=problem.str())
            return
        reader = self._readers.find(message)
        record = reader.record(message) if reader else None
        if not (reader and record and isinstance(record.message, rollout_messages.RolloutCommand)):
            return
        kind, time_ms = message.timestamp()
        by_broker = kind == confluent_kafka.TIMESTAMP_LOG_APPEND_TIME
        self._subject(reader).put(ReceivedCommand(record.message, time_ms if by_broker else None))

    def commit(self, messages: Sequence[LogMessage]) -> None:
        """Write messages in one transaction.

        Raises:
            FencedError: another controller leads now; nothing was written.
            ServerError: Kafka does not answer; nothing was written.
        """
        if self._producer is None:
            raise FencedError("another controller leads")
        try:
            self._producer.begin_transaction()
            for topic, key, value, follows in messages:
                headers = signature_headers(self._settings, topic, key, value or b"", follows)
                self._producer.produce(topic, value, key, headers=list(headers))
            self._producer.commit_transaction(ANSWER_S)
        except KafkaException as error:
            raise self._resign_after(error) from error

    def _resign_after(self, error: KafkaException) -> HeadwaterError:
        reason: KafkaError = error.args[0]
        fenced = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)  # noqa: SLF001
        self._resign()
        if reason.code() in fenced or reason.fatal():
            return FencedError("another controller leads")
        return ServerError(f"Kafka: topic {ROLLOUTS}: {reason.str()}")

    def _take_over(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        consumer.assign([_WHOLE])
        self._readers = rollouts.SubjectReaders(self._settings, self._model)
        self.subjects.clear()
        self._commands.assign([COMMANDS])
        producer = Producer(
            client_config(self._settings)
            | {"transactional.id": f"{CONTROLLER_NAME}-{self._model}", "log_level": "0"}
        )
        producer.init_transactions(ANSWER_S)
        self._producer = producer
        self.leads, self.caught_up = True, False

    def _give_up(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._resign()

    def _resign(self) -> None:
        self.leads = self.caught_up = False
        self._producer = None
        self._commands.unassign()

    def close(self) -> None:
        """Leave the group, so that another controller takes over at once."""
        self._resign()
        self._consumer.close()
        self._commands.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


class SubjectLog:
    """What stands on the topic of one subject, and what is written of it."""

    def __init__(self, log: RolloutLog, reader: rollouts.RolloutReader) -> None:
        self._log = log
        self._reader = reader
        self._waiting: deque[SubjectMessage] = deque()

    @property
    def leads(self) -> bool:
        """Whether the topic is this controller's."""
        return self._log.leads

    @property
    def needs_restoring(self) -> bool:
        """Whether something that does not count stands behind what workers follow."""
        return self._reader.needs_restoring

    def put(self, message: "SubjectMessage") -> None:
        """Keep a message that counts until it is taken."""
        self._waiting.append(message)

    def take(self) -> "SubjectMessage | None":
        """The next message that counts; None where none has come."""
        return self._waiting.popleft() if self._waiting else None

    def poll(self, timeout_s: float) -> "SubjectMessage | None":
        """The same, waited for.

        Raises:
            FencedError, ServerError: this controller cannot take over the lead.
        """
        if not self._waiting:
            self._log.pump(timeout_s)
        return self.take()

    def write(
        self, messages: Sequence[ControllerMessage], promoted: PromotedRules | None = None
    ) -> list[ControllerMessage]:
        """Write messages in one transaction; as they were written, numbered.

        Args:
            promoted: what the placement's rules are from now on; None: as they were.

        Raises:
            FencedError, ServerError: as of `RolloutLog.commit`.
        """
        written = [number_message(message, self._reader) for message in messages]
        sent = [LogMessage(ROLLOUTS, self._key(each), encode(each)) for each in written]
        placement = rollout_messages.placement_of(self._reader.model)
        if placement and promoted:
            rules = encode(promoted.rules)
            sent.append(LogMessage(PLACEMENTS, placement, rules, promoted.revision))
        self._log.commit(sent)
        return written

    def forget(self, command_ids: Sequence[str]) -> None:
        """Let compaction remove the answers to these commands.

        Raises:
            FencedError, ServerError: as of `RolloutLog.commit`.
        """
        keys = (rollout_messages.answer_key, rollout_messages.command_key)
        names = [key(self._reader.model, each) for each in command_ids for key in keys]
        self._log.commit([LogMessage(ROLLOUTS, name, None) for name in names])

    def _key(self, message: ControllerMessage) -> str:
        match message:
            case rollout_messages.Rollout():
                return self._reader.model
            case rollout_messages.RolloutLease():
                return rollout_messages.lease_key(self._reader.model)
            case rollout_messages.RolloutStep(rollout=rollout):
                return rollout_messages.history_key(rollout)
            case rollout_messages.RolloutCourse(rollout_id=rollout_id):
                return rollout_messages.course_key(self._reader.model, rollout_id)
            case rollout_messages.RolloutAnswer(command_id=command_id):
                return rollout_messages.answer_key(self._reader.model, command_id)


def number_message(message: ControllerMessage, reader: rollouts.RolloutReader) -> ControllerMessage:
    """A message as the next one behind all that was read."""
    revision = reader.revision + 1
    match message:
        case rollout_messages.Rollout():
            return replace(message, revision=revision)
        case rollout_messages.RolloutStep(rollout=rollout):
            numbered = replace(rollout, revision=revision)
            return replace(message, rollout=numbered, previous=reader.step_digest)
        case rollout_messages.RolloutLease():
            return replace(message, sequence=reader.lease_sequence + 1)
    return message
