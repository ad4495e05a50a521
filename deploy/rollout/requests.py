"""The client's side of a rollout, for operators and trainers: send a command, read the history."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from headwater_client.errors import ServerError

from deploy.rollout.commands import MAX_AGE_S
from deploy.rollout.errors import CommandRejectedError
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


def send_command(kafka: KafkaSettings, command: RolloutCommand) -> RolloutAnswer:
    """Send a signed command (`deploy.rollout.commands`), and wait for its answer.

    Raises:
        CommandRejectedError: the controller rejects it.
        ServerError: Kafka does not answer, or no controller does.
    """
    with closing(rollouts_consumer(kafka)) as consumer:
        for _ in read_all(consumer):
            pass
        key = command_key(command.model, command.command_id)
        write_rollout_message(kafka, key, command, command.action)
        deadline = time.monotonic() + MAX_AGE_S
        while time.monotonic() < deadline:
            message = consumer.poll(POLL_S)
            answer = rollout_message_in(message, command.model) if message is not None else None
            if isinstance(answer, RolloutAnswer) and answer.command_id == command.command_id:
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

    current: Rollout | None
    steps: list[RolloutStep]
    rejected: list[RolloutAnswer]


def read_history(kafka: KafkaSettings, model: str) -> RolloutHistory:
    """All that the topic says of a model.

    Raises:
        ServerError: it cannot be read.
    """
    current, steps, rejected = None, [], []
    with closing(rollouts_consumer(kafka)) as consumer:
        for message in read_all(consumer):
            match rollout_message_in(message, model):
                case Rollout() as rollout:
                    current = rollout
                case RolloutStep() as step:
                    steps.append(step)
                case RolloutAnswer(accepted=False) as answer:
                    rejected.append(answer)
    return RolloutHistory(current, steps, rejected)
