"""A trained model in a folder: weights (safetensors), vocabulary, and a manifest in JSON."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from features.errors import DataError
from features.vocabulary import FILE_NAME, read_vocabulary
from trainer.ensemble import joined
from trainer.first_model import Trained
from trainer.language_weights import save_weights
from trainer.model import Architecture, TemporalModel
from trainer.train import Outcome

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a version is: its shape, how training went, and the settings behind it.

    `members` models of this shape are averaged (`trainer.ensemble`). `trained_until_ms` is the time
    of the newest event that it was trained on.
    """

    architecture: Architecture
    members: int = 1
    outcome: Outcome
    settings: dict[str, dict[str, Any]] = {}
    created_ms: int
    trained_until_ms: int | None = None


def save(trained: Trained, folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Write a model to an existing folder."""
    save_file(trained.model.state_dict(), folder / WEIGHTS)
    if tuned := trained.language:
        save_weights(tuned.weights, tuned.tuning, tuned.rank, folder)
    trained.vocabulary.write(str(folder / FILE_NAME))
    manifest = Manifest(
        architecture=trained.model.architecture,
        members=len(trained.model.members),
        outcome=trained.outcome,
        settings=settings,
        created_ms=int(time.time() * 1000),
        trained_until_ms=trained.until_ms,
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(text)


def load(folder: Path) -> Trained:
    """The model that `save` wrote; `language_weights.with_weights` gives the reader of its items.

    Raises:
        DataError: the folder does not hold one.
    """
    manifest = read_manifest(folder)
    with _named_in_errors(folder):
        shape = manifest.architecture
        model = joined([TemporalModel(shape) for _ in range(manifest.members)])
        model.load_state_dict(load_file(folder / WEIGHTS))
        vocabulary = read_vocabulary(str(folder / FILE_NAME))
        if len(vocabulary) != manifest.architecture.items:
            raise ValueError(f"{FILE_NAME} is that of another model")
    return Trained(model.eval(), vocabulary, manifest.outcome, manifest.trained_until_ms)


def read_manifest(folder: Path) -> Manifest:
    """What the model of a folder is.

    Raises:
        DataError: the folder does not hold one.
    """
    with _named_in_errors(folder):
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)


@contextmanager
def _named_in_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        # Torch writes a page where weights do not fit.
        why = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise DataError(f"{folder}: not a trained model: {why}") from error
