"""A trained model in a folder: weights (safetensors), vocabulary, and a manifest in JSON.

The manifest has the checksum of every other file, and is written last.
"""

import shutil
import subprocess
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from headwater_client.documents import read_json
from headwater_client.errors import DataError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from features.schema import FILE_NAME, Contract, FeatureSchema, read_vocabulary
from features.settings import FeatureSettings
from trainer.disk import hidden_path, replace_synced, sha256
from trainer.network import Architecture, TemporalModel, TrainedModel, TrainingOutcome, join_models
from trainer.text import TextEncoder, load_tuned_encoder, save_weights

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Lineage:
    """What a model was made from: by default nothing, as a first model is.

    Attributes:
        parent: the number of the version that it goes on from.
        windows: the numbers of the windows that it learned from, beside what its parent had.
    """

    parent: int | None = None
    windows: tuple[int, ...] = ()


FIRST = Lineage()


class FileDigest(msgspec.Struct, frozen=True):
    """What a file was when it was written."""

    sha256: str
    size_bytes: int


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a version is: its shape, what it comes from, how training went, and its files.

    Attributes:
        members: so many models of this shape are averaged (`trainer.network.model`).
        settings: those of `trainer` and of `features`.
        contract: the features that it reads; a version of release 0.1.0 does not say.
        trained_until_ms: the time of the newest event that it was trained on.
        parent, windows: see `Lineage`.
        metrics: what was measured before it was published, by name.
        code_revision: see `provenance.code_revision`.
        files: every other file, by its name in the folder.
    """

    architecture: Architecture
    members: int = 1
    outcome: TrainingOutcome
    settings: dict[str, dict[str, Any]] = {}
    contract: Contract | None = None
    created_ms: int
    trained_until_ms: int | None = None
    parent: int | None = None
    windows: tuple[int, ...] = ()
    metrics: dict[str, float] = {}
    code_revision: str
    files: dict[str, FileDigest]


def save(
    trained: TrainedModel,
    folder: Path,
    settings: dict[str, dict[str, Any]],
    lineage: Lineage = FIRST,
    contract: Contract | None = None,
) -> None:
    """Write a model to an existing folder.

    Args:
        settings: for the manifest, by section.
        lineage: what it was made from.
        contract: the features that it reads.

    Raises:
        OSError: a file cannot be written.
    """
    with _as_os_error():
        save_file(trained.model.state_dict(), folder / WEIGHTS)
        if tuned := trained.language:
            save_weights(tuned.weights, tuned.tuning, tuned.rank, folder)
    trained.vocabulary.write(str(folder / FILE_NAME))
    manifest = ModelManifest(
        architecture=trained.model.architecture,
        members=len(trained.model.members),
        outcome=trained.outcome,
        settings=settings,
        contract=contract,
        created_ms=int(time.time() * 1000),
        trained_until_ms=trained.until_ms,
        parent=lineage.parent,
        windows=lineage.windows,
        code_revision=code_revision(),
        files=_digests(folder),
    )
    _write(manifest, folder)


def seal(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write the manifest again, with the checksums of what is there now, and what was measured.

    Raises:
        DataError: the folder holds no model.
        OSError: the manifest cannot be written.
    """
    manifest = read_manifest(folder)
    _write(msgspec.structs.replace(manifest, metrics=dict(metrics), files=_digests(folder)), folder)


def verify(folder: Path) -> ModelManifest:
    """The manifest of a folder whose every file is as it was written.

    Raises:
        DataError: naming the file that is gone or damaged.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        path = folder / name
        with _named_in_errors(path):
            found = _digest(path)
        if found != digest:
            raise DataError(f"{path}: damaged, its checksum differs: put it back from a copy")
    return manifest


def load(folder: Path) -> TrainedModel:
    """The model that `save` wrote; `load_parent` also gives its text encoder.

    Raises:
        DataError: the folder does not hold one, or a file of it is damaged.
    """
    manifest = verify(folder)
    with _named_in_errors(folder):
        shape = manifest.architecture
        model = join_models([TemporalModel(shape) for _ in range(manifest.members)])
        model.load_state_dict(load_file(folder / WEIGHTS))
        vocabulary = read_vocabulary(str(folder / FILE_NAME))
        if len(vocabulary) != manifest.architecture.items:
            raise ValueError(f"{FILE_NAME} is that of another model")
    return TrainedModel(model.eval(), vocabulary, manifest.outcome, manifest.trained_until_ms)


def load_parent(folder: Path, text_encoder: TextEncoder | None) -> TrainedModel:
    """The version in a folder, to learn on from: with what read its items, if that was tuned.

    Args:
        text_encoder: the untuned language model of its settings; None for a version without texts.

    Raises:
        DataError: the folder holds no version, or one of another language model.
    """
    live = load(folder)
    return (
        replace(live, language=load_tuned_encoder(text_encoder, folder)) if text_encoder else live
    )


def read_manifest(folder: Path) -> ModelManifest:
    """What the model of a folder is.

    Raises:
        DataError: the folder does not hold one.
    """
    with _named_in_errors(folder):
        return read_json((folder / MANIFEST).read_bytes(), ModelManifest)


def trained_schema(folder: Path, settings: FeatureSettings) -> FeatureSchema:
    """The schema of the rows that a version was trained on, whatever the settings say today.

    Args:
        settings: of a version whose manifest does not say.

    Raises:
        DataError: the folder holds no version.
    """
    described = read_manifest(folder).settings.get("features")
    return FeatureSchema(FeatureSettings(**described) if described else settings)


def _write(manifest: ModelManifest, folder: Path) -> None:
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    replace_synced(folder / MANIFEST, text)


def _digests(folder: Path) -> dict[str, FileDigest]:
    manifest = folder / MANIFEST
    others = set(folder.iterdir()) - {manifest, hidden_path(manifest)}
    return {path.name: _digest(path) for path in sorted(others)}


def _digest(path: Path) -> FileDigest:
    return FileDigest(sha256(path), path.stat().st_size)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """A full disk is one error, whichever library meets it."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        # Torch writes a page where weights do not fit.
        why = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise DataError(f"{path}: not a trained model: {why}") from error


ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 10


def code_revision(root: Path = ROOT) -> str:
    """The package's version, with the git revision of a checkout: `0.1.0+5c1e7a52...-dirty`.

    Args:
        root: the folder that the packages lie in.
    """
    try:
        released = version("headwater")
    except PackageNotFoundError:
        released = "unknown"
    return "+".join(part for part in (released, _git_revision(root)) if part)


def _git_revision(root: Path) -> str:
    """The revision, with `-dirty` after it where files were changed; empty without git."""
    git = shutil.which("git")
    # An installed package may lie within a checkout of something else: that is not its revision.
    if not git or not (root / ".git").exists():
        return ""
    describe = ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(
            [git, "-C", str(root), *describe],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        # Not a checkout that git reads here, such as another user's.
        return ""
    return done.stdout.strip()
