"""What operators and trainers ask of the controller, and what they see of a rollout."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import Producer

from deploy.rollout.commands import OLDEST_S, command
from deploy.rollout.decision import RefusedError
from deploy.rollout.settings import RolloutSettings
from features.errors import ServerError
from features.events import encode
from features.kafka import client_config
from features.rollout_messages import (
    Action,
    Rollout,
    RolloutAnswer,
    RolloutCommand,
    RolloutStep,
    command_key,
)
from features.rollouts import read_all, rollout_message_in, rollouts_consumer
from features.settings import KafkaSettings
from features.topics import ROLLOUTS

ANSWER_S = 15.0
POLL_S = 0.2


def ask(
    kafka: KafkaSettings,
    rules: RolloutSettings,
    model: str,
    action: Action,
    actor: str,
    reason: str,
    version: int | None = None,
    address: str | None = None,
) -> RolloutAnswer:
    """Send a signed command, and wait for what becomes of it.

    Raises:
        RefusedError: it is refused, or there is no admin token, name or reason.
        ServerError: Kafka does not answer, or no controller does.
    """
    asked = command(rules, model, action, actor, reason, version, address)
    with closing(rollouts_consumer(kafka)) as consumer:
        for _ in read_all(consumer):
            pass
        _send(kafka, asked)
        deadline = time.monotonic() + OLDEST_S
        while time.monotonic() < deadline:
            message = consumer.poll(POLL_S)
            answer = rollout_message_in(message, model) if message is not None else None
            if isinstance(answer, RolloutAnswer) and answer.command_id == asked.command_id:
                if not answer.accepted:
                    raise RefusedError(answer.reason)
                return answer
    raise ServerError(
        f"{action}: no controller has answered in {OLDEST_S:.0f} s: run one: headwater controller"
    )


def _send(kafka: KafkaSettings, asked: RolloutCommand) -> None:
    producer = Producer({**client_config(kafka), "enable.idempotence": "true", "log_level": "0"})
    producer.produce(ROLLOUTS, encode(asked), command_key(asked.model, asked.command_id))
    if producer.flush(ANSWER_S):
        raise ServerError(f"Kafka: topic {ROLLOUTS}: no answer in {ANSWER_S:.0f} s")


@dataclass(frozen=True)
class History:
    """What the topic says of a model.

    Attributes:
        current: what workers follow; None where no version was announced.
        steps: of all rollouts, oldest first.
        refused: commands that were, oldest first.
    """

    current: Rollout | None
    steps: list[RolloutStep]
    refused: list[RolloutAnswer]


def history(kafka: KafkaSettings, model: str) -> History:
    """All that the topic says of a model.

    Raises:
        ServerError: it cannot be read.
    """
    current, steps, refused = None, [], []
    with closing(rollouts_consumer(kafka)) as consumer:
        for message in read_all(consumer):
            match rollout_message_in(message, model):
                case Rollout() as found:
                    current = found
                case RolloutStep() as found:
                    steps.append(found)
                case RolloutAnswer(accepted=False) as found:
                    refused.append(found)
    return History(current, steps, refused)
