"""What operators and trainers ask of the controller, and what they see of a rollout."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from headwater_client.errors import ServerError

from deploy.rollout.commands import OLDEST_S
from deploy.rollout.decision import RefusedError
from features.rollout_messages import (
    Rollout,
    RolloutAnswer,
    RolloutCommand,
    RolloutStep,
    command_key,
)
from features.rollouts import (
    read_all,
    rollout_message_in,
    rollouts_consumer,
    write_rollout_message,
)
from features.settings import KafkaSettings

POLL_S = 0.2


def ask(kafka: KafkaSettings, asked: RolloutCommand) -> RolloutAnswer:
    """Send a command (`deploy.rollout.commands`), and wait for what becomes of it.

    Raises:
        RefusedError: it is refused.
        ServerError: Kafka does not answer, or no controller does.
    """
    with closing(rollouts_consumer(kafka)) as consumer:
        for _ in read_all(consumer):
            pass
        key = command_key(asked.model, asked.command_id)
        write_rollout_message(kafka, key, asked, asked.action)
        deadline = time.monotonic() + OLDEST_S
        while time.monotonic() < deadline:
            message = consumer.poll(POLL_S)
            answer = rollout_message_in(message, asked.model) if message is not None else None
            if isinstance(answer, RolloutAnswer) and answer.command_id == asked.command_id:
                if not answer.accepted:
                    raise RefusedError(answer.reason)
                return answer
    raise ServerError(
        f"{asked.action}: no controller has answered in {OLDEST_S:.0f} s: run one: "
        "headwater controller"
    )


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
