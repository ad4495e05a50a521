"""From a trained model to one that answers: version folder, Triton, announcement.

A version appears whole or not at all: it is written and checked aside, renamed, loaded, asked once,
and only then announced. What a dead trainer left is finished or removed: docs/decisions/0013.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog
from headwater_client.errors import DataError, ServerError

from features.inputs import MODEL_NAME
from features.rollout_messages import Rollout
from features.rollouts import newest_rollout
from features.schema import FeatureSchema
from features.settings import KafkaSettings
from trainer.network.trained import Trained
from trainer.registry import checkpoint
from trainer.registry.drafts import CONFIG, GRAPH, WriteExtras, drafted, write_version
from trainer.registry.live import RolloutRejectedError, announce, live_version, stable_of
from trainer.registry.repository import (
    ModelVersion,
    announced,
    publishing,
    remove,
    unannounced,
    version_numbers,
    version_of,
)
from trainer.registry.triton import ModelServer, ModelServerClient, ServerUnavailableError
from trainer.retrying import retrying
from trainer.settings import TrainerSettings

__all__ = [
    "ModelVersion",
    "announce",
    "bring_up",
    "drafted",
    "go_live",
    "live_version",
    "publish",
    "publishing",
    "recover",
    "retire",
    "version_numbers",
    "version_of",
    "write_version",
]
log = structlog.get_logger()

# Brings a version that is up to people.
ReleaseVersion = Callable[[ModelVersion, KafkaSettings], None]


def publish(
    trained: Trained,
    repository: Path,
    server: ModelServer,
    kafka: KafkaSettings,
    schema: FeatureSchema,
    settings: TrainerSettings,
    finish: WriteExtras | None = None,
) -> ModelVersion:
    """Bring a model live for everyone; the version before it stays loaded.

    Args:
        finish: see `write_version`.

    Raises:
        RepositoryLockedError: another process publishes to the repository.
        DataError: the version cannot be written.
        ExportError: the graph does not answer as the model does.
        ServerError: Triton or Kafka does not answer, or Triton answers otherwise.
    """
    with publishing(repository):
        version = write_version(trained, repository, schema, settings, finish)
        go_live(version, server, kafka, schema, settings)
    return version


def go_live(
    version: ModelVersion,
    server: ModelServer,
    kafka: KafkaSettings,
    schema: FeatureSchema,
    settings: TrainerSettings,
    release: ReleaseVersion = announce,
) -> None:
    """Load a version, announce it to everyone, and remove what is no longer needed.

    Args:
        release: what brings it to people, if not to everyone.

    Raises:
        RolloutRejectedError: nobody is to get it; it is removed.
        ServerUnavailableError: Triton does not answer for so long; `recover` goes on from there.
        ServerError: Kafka does not, likewise; or Triton cannot load the version, or answers
            otherwise than the graph: then it is removed.
    """
    with publishing(version.repository):
        load = retrying(settings.publish_retry_s, ServerUnavailableError)
        try:
            load(bring_up, version, server, schema)
        except ServerUnavailableError:
            raise
        except ServerError:
            _discard(version, server, settings)
            raise
        try:
            retrying(settings.publish_retry_s, ServerError)(release, version, kafka)
        except RolloutRejectedError:
            _discard(version, server, settings)
            raise
        log.info("version_released", version=version.number)
        try:
            retire(version.repository, server, kafka, settings)
        except (ServerError, DataError, OSError) as error:
            # It is live; the next one that goes live tidies up.
            log.warning("versions_not_retired", reason=str(error))


def bring_up(version: ModelVersion, server: ModelServer, schema: FeatureSchema) -> None:
    """Load a version beside those that are up, and ask it once.

    Raises:
        ServerUnavailableError: Triton does not answer.
        ServerError: Triton cannot load it, or it answers otherwise than ONNX Runtime does here.
    """
    model = version.folder.parent
    items = checkpoint.read_manifest(version.folder).architecture.items
    with publishing(version.repository), server.connected() as triton:
        up = triton.ready(version_numbers(model))
        _load(triton, model, {*up, version.number})
        triton.check_answer(version.number, version.folder / GRAPH, items, schema)


def recover(
    repository: Path,
    server: ModelServer,
    kafka: KafkaSettings,
    schema: FeatureSchema,
    settings: TrainerSettings,
    release: ReleaseVersion = announce,
) -> ModelVersion | None:
    """Go on from wherever the last trainer ended, and give the version that is live then.

    The newest version that was kept, but neither announced nor overtaken by another rollout, goes
    live if it is whole. Others that were not announced are removed. The live version is up.

    Raises:
        RepositoryLockedError: another process publishes to the repository.
        ServerError: Triton or Kafka does not answer.
    """
    with publishing(repository):
        rollout = retrying(settings.publish_retry_s, ServerError)(newest_rollout, kafka, MODEL_NAME)
        left = [version_of(repository, number) for number in unannounced(repository)]
        due = next((each for each in reversed(left) if _is_due(each, rollout)), None)
        for version in left:
            if version != due:
                _settle(version, rollout, server, settings)
        if due:
            log.info("publishing_goes_on", version=due.number)
            try:
                go_live(due, server, kafka, schema, settings, release)
            except RolloutRejectedError as error:
                log.warning("version_not_taken", version=due.number, reason=str(error))
            rollout = newest_rollout(kafka, MODEL_NAME)
        live = version_of(repository, stable_of(rollout)) if rollout else None
        if live is None or not live.folder.is_dir():
            return None
        _ensure_up(live, server, schema, settings)
        return live


def retire(
    repository: Path, server: ModelServer, kafka: KafkaSettings, settings: TrainerSettings
) -> None:
    """Leave up the live version, the one before it, and what else takes traffic; remove old ones.

    Never removed: what takes traffic, what is up, and what the live version was trained from.

    Raises:
        ServerError: Triton or Kafka does not answer.
        DataError: the live version cannot be read.
    """
    with publishing(repository):
        rollout = newest_rollout(kafka, MODEL_NAME)
        if rollout is None:
            return
        model, live = repository / MODEL_NAME, stable_of(rollout)
        routed = {each.version for each in rollout.versions}
        numbers = version_numbers(model)
        parent = checkpoint.read_manifest(model / str(live)).parent
        with server.connected() as triton:
            up = triton.ready(numbers)
            served = _served(up, live, routed)
            if served != up:
                _load(triton, model, served)
        kept = {*served, *routed, parent, *unannounced(repository)}
        old = [number for number in numbers if number not in kept]
        for number in old[: max(0, len(numbers) - settings.keep_versions)]:
            remove(version_of(repository, number))
            log.info("version_removed", version=number)


def _served(up: Sequence[int], live: int, routed: Collection[int]) -> list[int]:
    """Of the versions that are up those that stay so.

    >>> _served([1, 2, 3, 4], live=3, routed={3})
    [2, 3, 4]
    """
    before = max((number for number in up if number < live), default=live)
    return [number for number in up if number >= before or number in routed]


def _is_due(version: ModelVersion, rollout: Rollout | None) -> bool:
    """Whether a version that was kept still is to go live."""
    try:
        manifest = checkpoint.verify(version.folder)
    except DataError as error:
        log.warning("version_damaged", version=version.number, reason=str(error))
        return False
    # A rollout of after it was made, be it a return to an older one, is not to be undone.
    return rollout is None or rollout.time < manifest.created_ms


def _settle(
    version: ModelVersion, rollout: Rollout | None, server: ModelServer, settings: TrainerSettings
) -> None:
    """See to a version that is not to go live: it already has, or is removed."""
    if rollout and version.number in {each.version for each in rollout.versions}:
        announced(version)
    else:
        _discard(version, server, settings)


def _ensure_up(
    version: ModelVersion, server: ModelServer, schema: FeatureSchema, settings: TrainerSettings
) -> None:
    """Load the live version where Triton has forgotten it."""

    def ensure() -> None:
        with server.connected() as triton:
            if triton.is_ready(version.number):
                return
        checkpoint.verify(version.folder)
        bring_up(version, server, schema)

    try:
        retrying(settings.publish_retry_s, ServerUnavailableError)(ensure)
    except DataError as error:
        # Who goes on from it is told then; a new version is a way out of this.
        log.warning("version_damaged", version=version.number, reason=str(error))


def _discard(version: ModelVersion, server: ModelServer, settings: TrainerSettings) -> None:
    """Remove a version that takes no traffic: first from Triton, then from the disk."""
    retrying(settings.publish_retry_s, ServerUnavailableError)(_take_down, version, server)
    remove(version)
    log.warning("version_removed", version=version.number)


def _take_down(version: ModelVersion, server: ModelServer) -> None:
    model = version.folder.parent
    with server.connected() as triton:
        up = triton.ready(version_numbers(model))
        if version.number in up:
            _load(triton, model, set(up) - {version.number})


def _load(triton: ModelServerClient, model: Path, versions: Collection[int]) -> None:
    triton.load((model / CONFIG).read_text(), sorted(versions))
