"""Full trainings of the prequential benchmark, kept in a folder: each is minutes of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from trainer.evaluation.prequential import LearningSetup, PrequentialStep, WindowedLog, trained_on
from trainer.registry.checkpoint import load, save

_COST = "cost.json"


def kept_first(stream: WindowedLog, learning: LearningSetup, work: Path) -> PrequentialStep:
    """The version that all ways begin with."""
    return _train_or_take_up(stream, 0, learning, work)


def retrain(
    stream: WindowedLog, learning: LearningSetup, every: int, work: Path
) -> Iterator[PrequentialStep]:
    """A version trained from nothing before each so many windows, asked about that window only."""
    for window in range(0, len(stream.windows), every):
        yield _train_or_take_up(stream, window, learning, work)


def _train_or_take_up(
    stream: WindowedLog, window: int, learning: LearningSetup, work: Path
) -> PrequentialStep:
    folder = work / _name(stream, window, learning)
    if not (folder / _COST).exists():
        made = trained_on(stream, window, learning)
        folder.mkdir(parents=True, exist_ok=True)
        save(made.trained, folder, {})
        cost = {"seconds": made.seconds, "gradients": made.gradients}
        # Last: a folder that has it is whole.
        (folder / _COST).write_text(json.dumps(cost))
    cost = json.loads((folder / _COST).read_text())
    return PrequentialStep(window, load(folder), cost["seconds"], cost["gradients"])


def _name(stream: WindowedLog, window: int, learning: LearningSetup) -> str:
    """The same only for the same events and settings; threads change no result worth a training."""
    log = stream.learned_log(window)
    chosen = learning.settings.model_dump_json(exclude={"threads"})
    digest = hashlib.sha256(f"{chosen} {log.fingerprint}".encode())
    return f"{len(log.events)}-{digest.hexdigest()[:16]}"
