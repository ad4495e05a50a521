"""Which version is live: what `rollouts` says, and saying it there."""

from __future__ import annotations

import time

from confluent_kafka import Producer

from features.errors import HeadwaterError, ServerError
from features.events import encode
from features.inputs import MODEL_NAME
from features.kafka import client_config
from features.rollout_messages import Rollout, RolloutState, RoutedVersion
from features.rollouts import newest_rollout
from features.settings import KafkaSettings
from features.topics import ROLLOUTS
from trainer.repository import Version, announced

STABLE = "stable"
ANNOUNCE_TIMEOUT_S = 15.0
_UNDECIDED = (
    RolloutState.SHADOW,
    RolloutState.RUNNING,
    RolloutState.HOLDING,
    RolloutState.PAUSED,
)


class NotTakenError(HeadwaterError):
    """Nobody gets a version to see: it is refused."""


def live_version(kafka: KafkaSettings) -> int | None:
    """The number of the version that people get, None where none was announced.

    Raises:
        ServerError: Kafka does not answer.
    """
    rollout = newest_rollout(kafka, MODEL_NAME)
    return stable_of(rollout) if rollout else None


def stable_of(rollout: Rollout) -> int:
    """The version that a rollout relies on; others have a share to be tried."""
    chosen = max(rollout.versions, key=lambda each: (each.variant == STABLE, each.share))
    return chosen.version


def undecided(kafka: KafkaSettings) -> str:
    """The rollout that has no verdict yet; "" where none is under way.

    Raises:
        ServerError: Kafka does not answer.
    """
    rollout = newest_rollout(kafka, MODEL_NAME)
    return rollout.rollout_id if rollout and rollout.state in _UNDECIDED else ""


def announce(version: Version, kafka: KafkaSettings) -> None:
    """Say on `rollouts` that everyone gets this version.

    Raises:
        ServerError: Kafka does not take it.
    """
    routed = RoutedVersion(
        version=version.number, variant=STABLE, share=1.0, address=version.address
    )
    rollout = Rollout(model=MODEL_NAME, versions=[routed], time=int(time.time() * 1000))
    failures: list[str] = []
    producer = Producer({**client_config(kafka), "enable.idempotence": "true", "log_level": "0"})
    producer.produce(
        ROLLOUTS,
        key=MODEL_NAME,
        value=encode(rollout),
        on_delivery=lambda error, _: failures.append(str(error)) if error else None,
    )
    if producer.flush(ANNOUNCE_TIMEOUT_S) or failures:
        reason = failures[0] if failures else f"no answer in {ANNOUNCE_TIMEOUT_S:.0f} s"
        raise ServerError(f"Kafka: topic {ROLLOUTS}: version {version.number}: {reason}")
    announced(version)
