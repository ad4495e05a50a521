"""A version before it is one: written aside, judged, and then kept or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headwater_client.errors import DataError

from features.inputs import MODEL_NAME
from features.schema import FeatureSchema
from trainer.disk import write_synced
from trainer.export.onnx import check, exported
from trainer.export.recommender import ScoringGraph
from trainer.export.triton_config import render_config
from trainer.gate.record import EVALUATION
from trainer.network.trained import Trained
from trainer.registry import checkpoint
from trainer.registry.checkpoint import Lineage
from trainer.registry.repository import (
    ASIDE,
    DRAFT,
    ModelVersion,
    place,
    publishing,
    version_numbers,
    version_of,
)
from trainer.retrying import retrying
from trainer.settings import TrainerSettings

CONFIG = "config.pbtxt"
# What Triton serves; and the graph as it was exported, where another form of it is served.
GRAPH = "model.onnx"
EXACT = "float32.onnx"
NOTHING_MEASURED: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class StagedVersion:
    """What becomes version `number` if it is kept; `folder` holds the checkpoint and the graph."""

    number: int
    folder: Path
    _repository: Path = field(repr=False)
    _retry_s: float = field(repr=False)

    def keep(
        self, evaluation: bytes | None = None, metrics: Mapping[str, float] = NOTHING_MEASURED
    ) -> ModelVersion:
        """Make it a version, whole: to be called once, within the block of `drafted`.

        Args:
            evaluation: content of `evaluation.json`, the verdict on it.
            metrics: what was measured, for the manifest.

        Raises:
            RepositoryLockedError: another process has written this version meanwhile.
            DataError: the disk stays full; nothing of it is to be seen.
        """
        with _written(self.folder):
            return retrying(self._retry_s, OSError)(self._keep, evaluation, metrics)

    def finish(self, finish: WriteExtras) -> None:
        """Let something else be written into it.

        Raises:
            DataError: the disk stays full.
        """
        with _written(self.folder):
            retrying(self._retry_s, OSError)(finish, self)

    def _keep(self, evaluation: bytes | None, metrics: Mapping[str, float]) -> ModelVersion:
        if evaluation is not None:
            write_synced(self.folder / EVALUATION, evaluation)
        checkpoint.seal(self.folder, metrics)
        version = version_of(self._repository, self.number)
        place(self.folder, version)
        return version


# Writes something else into a draft's folder before it is kept; called again if a disk was full.
WriteExtras = Callable[[StagedVersion], None]


def exact_graph(folder: Path) -> Path:
    """A version's graph that answers as its model does, whatever form of it is served."""
    exact = folder / EXACT
    return exact if exact.exists() else folder / GRAPH


@contextmanager
def drafted(
    trained: Trained,
    repository: Path,
    schema: FeatureSchema,
    settings: TrainerSettings,
    lineage: Lineage = checkpoint.FIRST,
) -> Iterator[StagedVersion]:
    """The next version, written aside; what is not kept in the block is removed.

    Whether its graph answers as the model does is for whoever keeps it to see (`trainer.gate`).

    Nobody else publishes to the repository meanwhile. One draft at a time.

    Raises:
        RepositoryLockedError: another process publishes to it.
        DataError: it cannot be written; nothing of it is to be seen.
        ExportError: weights are no numbers.
    """
    with publishing(repository):
        model = repository / MODEL_NAME
        number = max(version_numbers(model), default=0) + 1
        folder = repository / ASIDE / f"{DRAFT}{number}"
        described = {
            "trainer": settings.model_dump(mode="json"),
            "features": schema.settings.model_dump(mode="json"),
        }
        with _written(folder):
            folder.mkdir()
        try:
            with _written(folder):
                write = retrying(settings.publish_retry_s, OSError)
                write(_ensure_config, model, schema)
                write(_fill, folder, trained, schema, described, lineage)
            yield StagedVersion(number, folder, repository, settings.publish_retry_s)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_version(
    trained: Trained,
    repository: Path,
    schema: FeatureSchema,
    settings: TrainerSettings,
    finish: WriteExtras | None = None,
) -> ModelVersion:
    """The next version, its graph checked, without a verdict: see `drafted`.

    Args:
        finish: writes what the version has besides, once its graph was checked.

    Raises:
        ExportError: the graph does not answer as the model does, too.
    """
    with drafted(trained, repository, schema, settings) as draft:
        check(ScoringGraph(trained.model).eval(), schema, draft.folder / GRAPH)
        if finish:
            draft.finish(finish)
        return draft.keep()


def _ensure_config(model: Path, schema: FeatureSchema) -> None:
    """Write `config.pbtxt` where there is none: all versions share it, so a change reloads them."""
    if (model / CONFIG).exists():
        return
    aside = model.parent / ASIDE / CONFIG
    write_synced(aside, render_config(schema).encode())
    aside.rename(model / CONFIG)


def _fill(
    folder: Path,
    trained: Trained,
    schema: FeatureSchema,
    described: dict[str, dict[str, Any]],
    lineage: Lineage,
) -> None:
    for part in folder.iterdir():
        # Of an attempt before, when the disk was full: it takes room.
        part.unlink()
    checkpoint.save(trained, folder, described, lineage)
    exported(trained.model, schema, folder / GRAPH)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error}: make room, and train again"
        ) from error
