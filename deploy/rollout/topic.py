"""The topic `rollouts`: as the leading controller reads and writes it, and as operators do.

Controllers are a consumer group over the topic's only partition: Kafka assigns it to one of them,
and to another once that one is gone. Decisions are written in transactions of one transactional id,
so Kafka fences a controller that was taken for dead and is not: two never decide at once.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from headwater_client.errors import HeadwaterError, ServerError
from headwater_client.events import encode
from headwater_client.topics import ROLLOUTS

from deploy.rollout.commands import MAX_AGE_S, CommandRejectedError, FencedError
from features import rollout_messages, rollouts
from features.kafka import client_config
from features.settings import BrokerSettings

POLL_S = 0.2
GROUP = "headwater-controller"
# The least that brokers allow. Another controller takes over so long after a death.
SESSION_TIMEOUT_MS = 6000
ANSWER_S = 15.0
log = structlog.get_logger()


class RolloutLog:
    """Reads the whole topic once it leads, and writes steps and answers, whole or not at all.

    Attributes:
        leads: whether the partition is this controller's.
        caught_up: whether all of what was there has been read.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self._settings = settings
        self._model = model
        self._producer: Producer | None = None
        self.leads = self.caught_up = False
        self._consumer = rollouts.rollouts_consumer(
            settings,
            {
                "group.id": f"{GROUP}-{model}",
                "session.timeout.ms": str(SESSION_TIMEOUT_MS),
                "heartbeat.interval.ms": str(SESSION_TIMEOUT_MS // 6),
            },
        )
        self._consumer.subscribe(
            [ROLLOUTS], on_assign=self._take_over, on_revoke=self._give_up, on_lost=self._give_up
        )

    def poll(self, timeout_s: float) -> rollout_messages.RolloutMessage | None:
        """The next message of the model; None where there is none, or one that cannot be read.

        Raises:
            FencedError, ServerError: this controller cannot take over the lead.
        """
        try:
            message = self._consumer.poll(timeout_s)
        except KafkaException as error:
            raise self._resign_after(error) from error
        if message is None:
            return None
        if rollouts.is_end(message):
            self.caught_up = True
            return None
        if (problem := message.error()) is not None:
            log.warning("rollouts_unreadable", error=problem.str())
            return None
        return rollouts.rollout_message_in(message, self._model)

    @property
    def problem(self) -> str:
        """Why it neither leads nor waits to; "" where it does."""
        if self.leads:
            return "" if self.caught_up else f"reads topic {ROLLOUTS} from its beginning"
        return "" if self._consumer.memberid() else f"has not joined group {GROUP}-{self._model}"

    def write(
        self,
        messages: Sequence[
            rollout_messages.Rollout | rollout_messages.RolloutStep | rollout_messages.RolloutAnswer
        ],
    ) -> None:
        """Write messages in one transaction.

        Raises:
            FencedError: another controller leads now; nothing was written.
            ServerError: Kafka does not answer; nothing was written.
        """
        if self._producer is None:
            raise FencedError("another controller leads")
        try:
            self._producer.begin_transaction()
            for message in messages:
                self._producer.produce(ROLLOUTS, encode(message), self._key(message))
            self._producer.commit_transaction(ANSWER_S)
        except KafkaException as error:
            raise self._resign_after(error) from error

    def _key(
        self,
        message: rollout_messages.Rollout
        | rollout_messages.RolloutStep
        | rollout_messages.RolloutAnswer,
    ) -> str:
        match message:
            case rollout_messages.Rollout():
                return self._model
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
        consumer.assign([rollouts.PARTITION])
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

    def close(self) -> None:
        """Leave the group, so that another controller takes over at once."""
        self._resign()
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def send_command(
    kafka: BrokerSettings, command: rollout_messages.RolloutCommand
) -> rollout_messages.RolloutAnswer:
    """Send a signed command (`deploy.rollout.commands`), and wait for its answer.

    Raises:
        CommandRejectedError: the controller rejects it.
        ServerError: Kafka does not answer, or no controller does.
    """
    with closing(rollouts.rollouts_consumer(kafka)) as consumer:
        for _ in rollouts.read_all(consumer):
            pass
        key = rollout_messages.command_key(command.model, command.command_id)
        rollouts.write_rollout_message(kafka, key, command, command.action)
        deadline = time.monotonic() + MAX_AGE_S
        while time.monotonic() < deadline:
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            answer = rollouts.rollout_message_in(message, command.model)
            if (
                isinstance(answer, rollout_messages.RolloutAnswer)
                and answer.command_id == command.command_id
            ):
                if not answer.accepted:
                    raise CommandRejectedError(answer.reason)
                return answer
    raise ServerError(
        f"{command.action}: no controller has answered in {MAX_AGE_S:.0f} s: run one: "
        "headwater controller"
    )


@dataclass(frozen=True)
class RolloutHistory:
    """What the topic says of a model.

    Attributes:
        current: what workers follow; None where no version was announced.
        steps: of all rollouts, oldest first.
        rejected: answers to commands that were rejected, oldest first.
    """

    current: rollout_messages.Rollout | None
    steps: list[rollout_messages.RolloutStep]
    rejected: list[rollout_messages.RolloutAnswer]


def read_history(kafka: BrokerSettings, model: str) -> RolloutHistory:
    """All that the topic says of a model.

    Raises:
        ServerError: it cannot be read.
    """
    steps, rejected = [], []
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.read():
            match message:
                case rollout_messages.RolloutStep():
                    steps.append(message)
                case rollout_messages.RolloutAnswer(accepted=False):
                    rejected.append(message)
        return RolloutHistory(view.newest, steps, rejected)
