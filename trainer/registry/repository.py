"""The versions of the model in their folder, and who may change them.

    temporal_llm/7/               a version: whole, never changed
    .aside/lock                   held by the process that publishes
    .aside/draft-8/               a version that is being written
    .aside/unannounced-7          written before version 7 is seen, removed once it is announced
    .aside/removed-2/             a version that is being deleted

What is aside lies beside the model's folder, not in it: Triton takes a new file there for a change
of every version, and reloads them all.

A version before it is one: written in staging, judged, and then committed or not.
"""

import errno
import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from headwater_client.errors import DataError, HeadwaterError, SettingsError

from features.inputs import MODEL_NAME
from features.schema import FeatureSchema
from trainer.disk import sync, write_synced
from trainer.export.onnx import export_unchecked, render_config, tensor_refusals
from trainer.gate import EVALUATION
from trainer.network import TrainedModel
from trainer.registry import checkpoint
from trainer.registry.checkpoint import Lineage
from trainer.retrying import retrying
from trainer.settings import TrainerSettings

STAGING = ".aside"
LOCK = "lock"
STAGED = "draft-"
REMOVED = "removed-"
UNANNOUNCED = "unannounced-"


class RepositoryLockedError(HeadwaterError):
    """Another process publishes to the same repository."""


@dataclass(frozen=True)
class ModelVersion:
    """A version's number and folder; `address` names the folder for any fsspec file system."""

    number: int
    folder: Path

    @property
    def address(self) -> str:
        return self.folder.resolve().as_uri()


class ModelRepository:
    """The folder of versions that Triton reads; reading it needs no lock.

    Attributes:
        folder: where it is.
        model: the folder in it that has the versions, and their `config.pbtxt`.
        staging: the folder beside that for what is not a version yet, or no more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / MODEL_NAME
        self.staging = folder / STAGING
        self._lock_depth = 0

    def version(self, number: int) -> ModelVersion:
        """A version by its number, whether it is there or not."""
        return ModelVersion(number, self.model / str(number))

    def version_numbers(self) -> list[int]:
        """The versions that are there, ascending."""
        if not self.model.is_dir():
            return []
        return sorted(int(path.name) for path in self.model.iterdir() if path.name.isdecimal())

    def existing_version(self, number: int | None = None) -> ModelVersion:
        """A version that is there; the newest where no number is given.

        Raises:
            DataError: there is no such version; it names those that there are.
        """
        numbers = self.version_numbers()
        if not numbers:
            raise DataError(f"{self.model}: no version in it: `headwater train` makes one")
        if number is not None and number not in numbers:
            raise DataError(
                f"{self.model}: no version {number}: it has {', '.join(map(str, numbers))}"
            )
        return self.version(numbers[-1] if number is None else number)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that changes the repository, for the block; blocks may be nested.

        Threads that share this object are not kept apart.

        The lock is the kernel's, and ends with the process that holds it. So what lies in staging
        when it is taken is of dead processes, and is removed.

        Raises:
            RepositoryLockedError: another process holds it.
            SettingsError: the repository cannot be written.
        """
        if self._lock_depth:
            self._lock_depth += 1
            try:
                yield
            finally:
                self._lock_depth -= 1
            return
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RepositoryLockedError(
                    f"{self.folder}: another process publishes versions to it: wait until it has "
                    "ended, or stop it; one trainer for a model repository"
                ) from error
            self._lock_depth = 1
            try:
                self._sweep()
                yield
            finally:
                self._lock_depth = 0

    def commit(self, staged: Path, version: ModelVersion) -> None:
        """Give a staged folder its place, whole; until it is announced it counts as unannounced.

        Raises:
            RepositoryLockedError: there is such a version.
            OSError: it cannot be done; nothing of it is to be seen.
        """
        for path in (*staged.iterdir(), staged):
            sync(path)
        mark = self._mark(version)
        mark.touch()
        sync(mark.parent)
        try:
            staged.rename(version.folder)
        except OSError as error:
            mark.unlink()
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise RepositoryLockedError(
                    f"{version.folder}: written by another process meanwhile: run one trainer for "
                    "a model repository, and train again"
                ) from error
            raise
        sync(version.folder.parent)

    def list_unannounced(self) -> list[int]:
        """The versions that were committed and not announced yet, ascending."""
        marks = self.staging.glob(f"{UNANNOUNCED}*")
        return sorted(int(mark.name.removeprefix(UNANNOUNCED)) for mark in marks)

    def mark_announced(self, version: ModelVersion) -> None:
        """Remember that a version was announced, or is no more to be."""
        self._mark(version).unlink(missing_ok=True)

    def remove(self, version: ModelVersion) -> None:
        """Remove a version that nobody uses: it is gone in one step, whatever dies."""
        aside = self.staging / f"{REMOVED}{version.number}"
        version.folder.rename(aside)
        sync(version.folder.parent)
        self.mark_announced(version)
        shutil.rmtree(aside)

    def _lock_file(self) -> IO[str]:
        """The file that is locked, and never written."""
        try:
            self.model.mkdir(parents=True, exist_ok=True)
            self.staging.mkdir(exist_ok=True)
            return (self.staging / LOCK).open("a")
        except OSError as error:
            raise SettingsError(
                f"model_repository: {self.folder}: cannot be written: {error.strerror}: name a "
                "folder that can be"
            ) from error

    def _mark(self, version: ModelVersion) -> Path:
        return self.staging / f"{UNANNOUNCED}{version.number}"

    def _sweep(self) -> None:
        for path in self.staging.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK and not path.name.startswith(UNANNOUNCED):
                path.unlink()
        for number in self.list_unannounced():
            version = self.version(number)
            if not version.folder.is_dir():
                self.mark_announced(version)


CONFIG = "config.pbtxt"
# What Triton serves; and the graph as it was exported, where another form of it is served.
GRAPH = "model.onnx"
EXACT = "float32.onnx"
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
    def stage(self, trained: TrainedModel, lineage: Lineage) -> Iterator[StagedVersion]:
        """The next version in staging; what is not committed in the block is removed.

        Raises:
            DataError: it cannot be written; nothing of it is to be seen.
            ExportError: weights are no numbers.
        """
        number = max(self.repository.version_numbers(), default=0) + 1
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
