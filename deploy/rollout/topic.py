"""The topics `rollouts` and `rollout-commands`: as the leading controller and operators use them.

Controllers are a consumer group over the only partition of `rollouts`: Kafka assigns it to one of
them, and to another once that one is gone. Decisions are written in transactions of one
transactional id, so Kafka fences a controller that was taken for dead and is not: two never decide
at once. Who leads reads the commands, too.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import confluent_kafka
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from headwater_client.errors import DataError, HeadwaterError, ServerError, SettingsError
from headwater_client.events import encode
from headwater_client.topics import ROLLOUT_COMMANDS, ROLLOUTS
from msgspec.structs import replace

from deploy.rollout.commands import MAX_AGE_S, CommandRejectedError, FencedError, ReceivedCommand
from deploy.rollout.history import find_breaks
from features import rollout_messages, rollouts
from features.kafka import client_config, is_end, topic_consumer
from features.settings import BrokerSettings

POLL_S = 0.2
GROUP = "headwater-controller"
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
    | rollout_messages.RolloutAnswer
)


class RolloutLog:
    """Reads the whole topic once it leads, and writes steps and answers, whole or not at all.

    What it writes is signed where a key is set, numbered, and a step names the one before it.

    Attributes:
        leads: whether the partition is this controller's.
        caught_up: whether all of what was there has been read.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self._settings = settings
        self._model = model
        self._producer: Producer | None = None
        self._reader = rollouts.RolloutReader(settings, model)
        self.leads = self.caught_up = False
        self._commands = topic_consumer(settings, ROLLOUTS)
        self._consumer = topic_consumer(
            settings,
            ROLLOUTS,
            {
                "group.id": f"{GROUP}-{model}",
                "session.timeout.ms": str(SESSION_TIMEOUT_MS),
                "heartbeat.interval.ms": str(SESSION_TIMEOUT_MS // 6),
            },
        )
        self._consumer.subscribe(
            [ROLLOUTS], on_assign=self._take_over, on_revoke=self._give_up, on_lost=self._give_up
        )

    @property
    def needs_restoring(self) -> bool:
        """Whether something that does not count stands behind what workers follow."""
        return self._reader.needs_restoring

    def poll(self, timeout_s: float) -> rollout_messages.RolloutMessage | ReceivedCommand | None:
        """The next message of the model that counts; None where there is none.

        Raises:
            FencedError, ServerError: this controller cannot take over the lead.
        """
        if self.leads and (command := self._next_command()) is not None:
            return command
        try:
            message = self._consumer.poll(timeout_s)
        except KafkaException as error:
            raise self._resign_after(error) from error
        if message is None:
            return None
        if is_end(message):
            self.caught_up = True
            return None
        if (problem := message.error()) is not None:
            log.warning("rollouts_unreadable", error=problem.str())
            return None
        return self._reader.read(message)

    @property
    def problem(self) -> str:
        """Why it neither leads nor waits to; "" where it does."""
        if self.leads:
            return "" if self.caught_up else f"reads topic {ROLLOUTS} from its beginning"
        return "" if self._consumer.memberid() else f"has not joined group {GROUP}-{self._model}"

    def _next_command(self) -> ReceivedCommand | None:
        message = self._commands.poll(0)
        if message is None or is_end(message):
            return None
        if (problem := message.error()) is not None:
            log.warning("commands_unreadable", error=problem.str())
            return None
        record = self._reader.record(message)
        if record is None or not isinstance(record.message, rollout_messages.RolloutCommand):
            return None
        kind, time_ms = message.timestamp()
        by_broker = kind == confluent_kafka.TIMESTAMP_LOG_APPEND_TIME
        return ReceivedCommand(record.message, time_ms if by_broker else None)

    def write(self, messages: Sequence[ControllerMessage]) -> list[ControllerMessage]:
        """Write messages in one transaction; as they were written, numbered.

        Raises:
            FencedError: another controller leads now; nothing was written.
            ServerError: Kafka does not answer; nothing was written.
        """
        written = [number_message(message, self._reader) for message in messages]
        self._commit([(self._key(message), encode(message)) for message in written])
        return written

    def forget(self, command_ids: Sequence[str]) -> None:
        """Let compaction remove the answers to these commands.

        Raises:
            FencedError, ServerError: as of `write`.
        """
        keys = (rollout_messages.answer_key, rollout_messages.command_key)
        self._commit([(key(self._model, each), None) for each in command_ids for key in keys])

    def _commit(self, pairs: Sequence[tuple[str, bytes | None]]) -> None:
        if self._producer is None:
            raise FencedError("another controller leads")
        try:
            self._producer.begin_transaction()
            for key, value in pairs:
                headers = rollouts.signature_headers(self._settings, ROLLOUTS, key, value or b"")
                self._producer.produce(ROLLOUTS, value, key, headers=headers)
            self._producer.commit_transaction(ANSWER_S)
        except KafkaException as error:
            raise self._resign_after(error) from error

    def _key(self, message: ControllerMessage) -> str:
        match message:
            case rollout_messages.Rollout():
                return self._model
            case rollout_messages.RolloutLease():
                return rollout_messages.lease_key(self._model)
            case rollout_messages.RolloutStep(rollout=rollout):
                return rollout_messages.history_key(rollout)
            case rollout_messages.RolloutAnswer(command_id=command_id):
                return rollout_messages.answer_key(self._model, command_id)

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
        self._reader = rollouts.RolloutReader(self._settings, self._model)
        self._commands.assign([COMMANDS])
        producer = Producer(
            client_config(self._settings)
            | {"transactional.id": f"{GROUP}-{self._model}", "log_level": "0"}
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


def send_command(
    kafka: BrokerSettings, command: rollout_messages.RolloutCommand
) -> rollout_messages.RolloutAnswer:
    """Send a signed command (`deploy.rollout.commands`), and wait for its answer.

    One that was answered before, under the same id, is not sent again: it has that answer.

    Raises:
        CommandRejectedError: the controller rejects it.
        ServerError: Kafka does not answer, or no controller does.
    """
    with closing(rollouts.RolloutView(kafka, command.model)) as view:
        answer = _find_answer(view, command)
        if answer is None:
            key = rollout_messages.command_key(command.model, command.command_id)
            rollouts.write_rollout_message(kafka, key, command, command.action, ROLLOUT_COMMANDS)
        deadline = time.monotonic() + MAX_AGE_S
        while answer is None:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{command.action}: no controller has answered in {MAX_AGE_S:.0f} s: "
                    "run one: headwater controller"
                )
            time.sleep(POLL_S)
            answer = _find_answer(view, command)
    if not answer.accepted:
        raise CommandRejectedError(answer.reason)
    return answer


def _find_answer(
    view: rollouts.RolloutView, command: rollout_messages.RolloutCommand
) -> rollout_messages.RolloutAnswer | None:
    """The answer to a command among what was written since the last time."""
    found = None
    for message in view.read():
        match message:
            case rollout_messages.RolloutAnswer(command_id=name) if name == command.command_id:
                found = message
    return found


@dataclass(frozen=True)
class RolloutHistory:
    """What the topic says of a model.

    Attributes:
        current: what workers follow; None where no version was announced.
        steps: of all rollouts, oldest first.
        rejected: answers to commands that were rejected, oldest first.
        breaks: where steps were changed, removed or added by others, a line each.
        refusal: why the newest routing message does not count; "" where it does.
    """

    current: rollout_messages.Rollout | None
    steps: list[rollout_messages.RolloutStep]
    rejected: list[rollout_messages.RolloutAnswer]
    breaks: list[str]
    refusal: str = ""


def read_history(kafka: BrokerSettings, model: str) -> RolloutHistory:
    """All that the topic says of a model, also steps that do not count.

    Raises:
        ServerError: it cannot be read.
    """
    current: rollout_messages.Rollout | None = None
    steps, records, rejected = [], [], []
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.messages():
            if (record := view.reader.record(message)) is None:
                continue
            if isinstance(record.message, rollout_messages.RolloutStep):
                steps.append(record.message)
                records.append(record)
            match view.reader.accept(record, message):
                case rollout_messages.Rollout() as current:
                    pass
                case rollout_messages.RolloutAnswer(accepted=False) as answer:
                    rejected.append(answer)
        breaks = list(find_breaks(records))
        return RolloutHistory(current, steps, rejected, breaks, view.reader.refusal)


def sign_current(kafka: BrokerSettings, model: str) -> rollout_messages.Rollout:
    """Write the newest rollout again, signed; for once, after a key was set.

    Whoever does this says that it is right: it may be anybody's.

    Raises:
        SettingsError: no key is set.
        DataError: no version was announced.
        CommandRejectedError: a version is being tried out.
        ServerError: Kafka does not answer.
    """
    if kafka.signing_key is None:
        raise SettingsError("kafka.signing_key: is not set: set it to what workers are to have")
    newest, revision = None, 0
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.messages():
            record = view.reader.record(message)
            if record and isinstance(record.message, rollout_messages.Rollout):
                newest = record.message
                revision = max(revision, newest.revision)
    if newest is None:
        raise DataError("no version is live: train a first one: headwater train")
    if newest.needs_lease:
        raise CommandRejectedError(
            f"sign: rollout {newest.rollout_id} is {newest.phase}: unset kafka.signing_key, "
            "promote it or roll it back, and sign then"
        )
    signed = replace(newest, revision=revision + 1)
    rollouts.write_rollout_message(kafka, model, signed, "the signed rollout")
    return signed
