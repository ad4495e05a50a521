"""A trained model in a folder: weights (safetensors), vocabulary, and a manifest in JSON."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from features.errors import DataError
from features.vocabulary import FILE_NAME, read_vocabulary
from trainer.first_model import Trained
from trainer.language_weights import save_weights
from trainer.model import Architecture, TemporalModel
from trainer.train import Outcome

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a version is: its shape, how training went, and the settings behind it."""

    architecture: Architecture
    outcome: Outcome
    settings: dict[str, object] = {}
    created_ms: int


def save(trained: Trained, folder: Path, settings: dict[str, object]) -> None:
    """Write a model to an existing folder."""
    save_file(trained.model.state_dict(), folder / WEIGHTS)
    if tuned := trained.language:
        save_weights(tuned.weights, tuned.tuning, tuned.rank, folder)
    trained.vocabulary.write(str(folder / FILE_NAME))
    manifest = Manifest(
        architecture=trained.model.architecture,
        outcome=trained.outcome,
        settings=settings,
        created_ms=int(time.time() * 1000),
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(text)


def load(folder: Path) -> Trained:
    """The model that `save` wrote; `language_weights.with_weights` gives the reader of its items.

    Raises:
        DataError: the folder does not hold one.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        model = TemporalModel(manifest.architecture)
        model.load_state_dict(load_file(folder / WEIGHTS))
        vocabulary = read_vocabulary(str(folder / FILE_NAME))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a trained model: {error}") from error
    return Trained(model.eval(), vocabulary, manifest.outcome)
