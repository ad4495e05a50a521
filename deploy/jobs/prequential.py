"""Test, then train, over a log: for `headwater evaluate --prequential`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploy.settings import Settings
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.evaluation.prequential import (
    PrequentialRun,
    PrequentialStep,
    WindowedLog,
    fine_tune_versions,
    first_late_window,
    forgetting,
    keep_first_version,
    run_prequential,
    train_before,
)
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup

Say = Callable[[str], None]


@dataclass(frozen=True)
class WindowScores:
    """NDCG@10 on one window: of the first version, and of the one that learned from those before.

    `seconds` of CPU that making the latter took; `events` that were asked about.
    """

    events: int
    frozen: float
    incremental: float
    seconds: float


@dataclass(frozen=True)
class Prequential:
    """How learning from windows did.

    `over_frozen` is of the last third of the windows, `forgetting` of those before
    (`trainer.evaluation.prequential.forgetting`).
    """

    windows: list[WindowScores]
    over_frozen: float
    forgetting: float


def evaluate_prequential(settings: Settings, log: Log, size: int, say: Say) -> Prequential:
    """Train on the first part of a log, then learn from each window after it is judged.

    Args:
        size: events of a window.
        say: called with a line after each window.

    Raises:
        DataError: the log is too short, or nothing can be learned from its first part.
    """
    text_encoder = load_text_encoder(settings.trainer.language_model, settings.local.cache_dir)
    learning = TrainingSetup(settings.trainer, settings.fine_tune, text_encoder)
    stream = WindowedLog(log, FeatureSchema(settings.features), size)
    first = train_before(stream, 0, learning)
    say(f"first model: {first.seconds:.0f} s of CPU")

    def report(step: PrequentialStep, score: float) -> None:
        say(f"window {step.window + 1} of {len(stream.windows)}: NDCG@10 {score:.4f}")

    stays = run_prequential(keep_first_version(first.trained, stream), stream, lambda *_: None)
    learns = run_prequential(fine_tune_versions(first.trained, stream, learning), stream, report)
    return _summarize(stays, learns, stream)


def _summarize(stays: PrequentialRun, learns: PrequentialRun, stream: WindowedLog) -> Prequential:
    def score(number: int) -> WindowScores:
        mine = stream.is_target & (stream.window_of == number)
        frozen, incremental = (
            float(run.gains[mine].mean()) if mine.any() else 0.0 for run in (stays, learns)
        )
        return WindowScores(int(mine.sum()), frozen, incremental, learns.seconds[number])

    count = len(stream.windows)
    first_late = first_late_window(count)
    newest = stream.is_target & (stream.window_of >= first_late)
    below = stays.gains[newest].sum()
    return Prequential(
        list(map(score, range(count))),
        float(learns.gains[newest].sum() / below) if below else 0.0,
        forgetting(learns, stream, first_late),
    )
