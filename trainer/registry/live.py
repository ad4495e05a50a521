"""Which version is live: what `rollouts` says, and saying it there."""

from __future__ import annotations

import time

from headwater_client.errors import HeadwaterError

from features.inputs import MODEL_NAME
from features.rollout_messages import Rollout, RoutedVersion, Variant
from features.rollouts import newest_rollout, write_rollout_message
from features.settings import KafkaSettings
from trainer.registry.repository import ModelVersion, announced


class RolloutRejectedError(HeadwaterError):
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
    chosen = max(rollout.versions, key=lambda each: (each.variant == Variant.STABLE, each.share))
    return chosen.version


def undecided(kafka: KafkaSettings) -> str:
    """The rollout that has no verdict yet; "" where none is under way.

    Raises:
        ServerError: Kafka does not answer.
    """
    rollout = newest_rollout(kafka, MODEL_NAME)
    return rollout.rollout_id if rollout and rollout.phase.is_active else ""


def announce(version: ModelVersion, kafka: KafkaSettings) -> None:
    """Say on `rollouts` that everyone gets this version.

    Raises:
        ServerError: Kafka does not take it.
    """
    routed = RoutedVersion(
        version=version.number, variant=Variant.STABLE, share=1.0, address=version.address
    )
    rollout = Rollout(model=MODEL_NAME, versions=[routed], time=int(time.time() * 1000))
    write_rollout_message(kafka, MODEL_NAME, rollout, f"version {version.number}")
    announced(version)
