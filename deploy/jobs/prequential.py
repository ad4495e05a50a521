"""Test, then train, over a log: for `headwater evaluate --prequential`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploy.settings import Settings
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.evaluation.prequential import (
    LearningSetup,
    PrequentialRun,
    PrequentialStep,
    WindowedLog,
    course,
    forgotten,
    frozen,
    incremental,
    late,
    trained_on,
)
from trainer.text import load_text_encoder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Window:
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
    (`trainer.evaluation.prequential.forgotten`).
    """

    windows: list[Window]
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
    learning = LearningSetup(settings.trainer, settings.fine_tune, text_encoder)
    stream = WindowedLog(log, FeatureSchema(settings.features), size)
    first = trained_on(stream, 0, learning)
    say(f"first model: {first.seconds:.0f} s of CPU")

    def told(step: PrequentialStep, score: float) -> None:
        say(f"window {step.window + 1} of {len(stream.windows)}: NDCG@10 {score:.4f}")

    stays = course(frozen(first.trained, stream), stream, lambda *_: None)
    learns = course(incremental(first.trained, stream, learning), stream, told)
    return _found(stays, learns, stream)


def _found(stays: PrequentialRun, learns: PrequentialRun, stream: WindowedLog) -> Prequential:
    def window(number: int) -> Window:
        mine = stream.is_target & (stream.window_of == number)
        before, now = (
            float(one.gains[mine].mean()) if mine.any() else 0.0 for one in (stays, learns)
        )
        return Window(int(mine.sum()), before, now, learns.seconds[number])

    count = len(stream.windows)
    newest = stream.is_target & (stream.window_of >= late(count))
    below = stays.gains[newest].sum()
    return Prequential(
        [window(number) for number in range(count)],
        float(learns.gains[newest].sum() / below) if below else 0.0,
        forgotten(learns, stream, late(count)),
    )
