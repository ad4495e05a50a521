"""A version before it is one: written in staging, judged, and then committed or not."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from headwater_client.errors import DataError, SettingsError

from features.model_server import CONFIG
from features.schema import FeatureSchema
from features.together import FILE_NAME as TOGETHER
from features.together import make_together
from trainer.disk import write_synced
from trainer.export.onnx import export_unchecked
from trainer.export.triton_config import render_config, tensor_refusals
from trainer.gate import EVALUATION
from trainer.network import TrainedModel
from trainer.registry import checkpoint
from trainer.registry.checkpoint import Lineage
from trainer.registry.repository import ModelRepository, ModelVersion
from trainer.retrying import retrying
from trainer.settings import TrainerSettings

# What Triton serves; and the graph as it was exported, where another form of it is served.
GRAPH = "model.onnx"
EXACT = "float32.onnx"
STAGED = "draft-"
NO_METRICS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class StagedVersion:
    """What becomes version `number` once committed; `folder` holds the checkpoint and the graph."""

    number: int
    folder: Path
    writer: "VersionWriter"

    def commit(
        self, evaluation: bytes | None = None, metrics: Mapping[str, float] = NO_METRICS
    ) -> ModelVersion:
        """Make it a version, whole: to be called once, within the block of `ModelRegistry.stage`.

        Args:
            evaluation: content of `evaluation.json`, the verdict on it.
            metrics: what was measured, for the manifest.

        Raises:
            RepositoryLockedError: another process has written this version meanwhile.
            DataError: the disk stays full; nothing of it is to be seen.
        """
        with _as_data_error(self.folder):
            return self.writer.retry_writes(self._commit, evaluation, metrics)

    def write_extras(self, extras: "WriteExtras") -> None:
        """Let something else be written into it.

        Raises:
            DataError: the disk stays full.
        """
        with _as_data_error(self.folder):
            self.writer.retry_writes(extras, self)

    def _commit(self, evaluation: bytes | None, metrics: Mapping[str, float]) -> ModelVersion:
        if evaluation is not None:
            write_synced(self.folder / EVALUATION, evaluation)
        checkpoint.seal(self.folder, metrics)
        repository = self.writer.repository
        version = repository.version(self.number)
        repository.commit(self.folder, version)
        return version


# Writes into a staged folder what a version has besides; called again if a disk was full.
WriteExtras = Callable[[StagedVersion], None]


class VersionWriter:
    """Writes versions into the staging folder of a repository, whose lock the caller holds."""

    def __init__(
        self, repository: ModelRepository, schema: FeatureSchema, settings: TrainerSettings
    ) -> None:
        self.repository = repository
        self.retry_writes = retrying(settings.publish_retry_s, OSError)
        self._schema = schema
        self._described = {
            "trainer": settings.model_dump(mode="json"),
            "features": schema.settings.model_dump(mode="json"),
        }

    @contextmanager
    def stage(
        self, trained: TrainedModel, lineage: Lineage, number: int
    ) -> Iterator[StagedVersion]:
        """The version of this number in staging; what is not committed in the block is removed.

        Raises:
            DataError: it cannot be written; nothing of it is to be seen.
            ExportError: weights are no numbers.
        """
        folder = self.repository.staging / f"{STAGED}{number}"
        with _as_data_error(folder):
            folder.mkdir()
        try:
            with _as_data_error(folder):
                self.retry_writes(self._ensure_config)
                self.retry_writes(self._fill, folder, trained, lineage)
            yield StagedVersion(number, folder, self)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def check_config(self) -> None:
        """Refuse a `config.pbtxt` that is there and fits other features: Triton would, later.

        Raises:
            SettingsError: it does not fit; it names what differs.
        """
        config = self.repository.model / CONFIG
        if not config.exists():
            return
        if different := list(tensor_refusals(config.read_text(), self._schema)):
            raise SettingsError(
                f"features: {config} is for other features, {different[0]}: set features as they "
                "were, or train into an empty model_repository"
            )

    def _ensure_config(self) -> None:
        """Write `config.pbtxt` where there is none: a change of it reloads every version."""
        self.check_config()
        config = self.repository.model / CONFIG
        if config.exists():
            return
        staged = self.repository.staging / CONFIG
        write_synced(staged, render_config(self._schema).encode())
        staged.rename(config)

    def _fill(self, folder: Path, trained: TrainedModel, lineage: Lineage) -> None:
        for part in folder.iterdir():
            # Of an attempt before, when the disk was full: it takes room.
            part.unlink()
        checkpoint.save(trained, folder, self._described, lineage, self._schema.contract)
        # Of several members all have counted the same.
        counted = trained.model.members[0]
        together = make_together(counted.neighbours.numpy(), counted.neighbour_weights.numpy())
        together.write(folder / TOGETHER)
        export_unchecked(trained.model, self._schema, folder / GRAPH)


def exact_graph(folder: Path) -> Path:
    """A version's graph that answers as its model does, whatever form of it is served."""
    exact = folder / EXACT
    return exact if exact.exists() else folder / GRAPH


@contextmanager
def _as_data_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error}: make room, and train again"
        ) from error
