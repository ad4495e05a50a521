"""Judges a version on a log, without a server: for `headwater evaluate`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from headwater_client.errors import DataError

from deploy.settings import Settings
from features.schema import UNKNOWN, FeatureSchema, Vocabulary
from trainer.datasets import Log
from trainer.evaluation import Evaluation, evaluate, prequential
from trainer.registry.checkpoint import load, trained_schema
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup

# Of a log of which nobody knows how much the version was trained on.
DEFAULT_HISTORY = 0.8


@dataclass(frozen=True)
class Evaluated:
    """A version's evaluation on events from `since_ms` on.

    `trained_on` of the judged events were in the version's training; None where nobody knows.
    """

    version: Path
    history_events: int
    judged_events: int
    trained_on: int | None
    since_ms: int
    evaluation: Evaluation


def evaluate_version(
    settings: Settings, folder: Path, log: Log, share: float | None, right_after: bool = False
) -> Evaluated:
    """Predict each event of the newest part of a log from what lies before it.

    Args:
        share: the first part of the log, which is only history; without it, what the version was
            trained on.
        right_after: ask right after the person's event before, not at the time of the event.

    Raises:
        DataError: not a version's folder, none of its items in the log, or nothing to judge.
    """
    torch.set_num_threads(settings.trainer.threads)
    trained = load(folder)
    _check_items(folder, trained.vocabulary, log)
    history, judged = _split(folder, log, share, trained.until_ms)
    schema = trained_schema(folder, settings.features)
    found = evaluate(trained, history, judged, schema, right_after)
    seen = None
    if trained.until_ms is not None:
        seen = len(judged.split_after(trained.until_ms)[0].events)
    since_ms = judged.events[0].timestamp
    return Evaluated(folder, len(history.events), len(judged.events), seen, since_ms, found)


def _check_items(folder: Path, vocabulary: Vocabulary, log: Log) -> None:
    names = {event.item_id for event in log.events} | {item.item_id for item in log.items}
    if (vocabulary.indices_of(sorted(names)) == UNKNOWN).all():
        raise DataError(
            f"{folder}: knows none of the log's {len(names)} items: name a log of the items that "
            "it was trained on with --data"
        )


def _split(folder: Path, log: Log, share: float | None, until_ms: int | None) -> tuple[Log, Log]:
    if share is None and until_ms is not None:
        history, judged = log.split_after(until_ms)
        remedy = f"{folder} was trained on all of it: name a longer one with --data, or --share"
    else:
        history, judged = log.split(DEFAULT_HISTORY if share is None else share)
        remedy = "choose a smaller --share"
    if not judged.events:
        raise DataError(f"nothing of the log is left to judge: {remedy}")
    return history, judged


# Test, then train, over a log: for `headwater evaluate --prequential`.


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
    stream = prequential.WindowedLog(log, FeatureSchema(settings.features), size)
    first = prequential.train_before(stream, 0, learning)
    say(f"first model: {first.seconds:.0f} s of CPU")

    def report(step: prequential.PrequentialStep, score: float) -> None:
        say(f"window {step.window + 1} of {len(stream.windows)}: NDCG@10 {score:.4f}")

    stays = prequential.run_prequential(
        prequential.keep_first_version(first.trained, stream), stream, lambda *_: None
    )
    learns = prequential.run_prequential(
        prequential.fine_tune_versions(first.trained, stream, learning), stream, report
    )
    return _summarize(stays, learns, stream)


def _summarize(
    stays: prequential.PrequentialRun,
    learns: prequential.PrequentialRun,
    stream: prequential.WindowedLog,
) -> Prequential:
    def score(number: int) -> WindowScores:
        mine = stream.is_target & (stream.window_of == number)
        frozen, incremental = (
            float(run.gains[mine].mean()) if mine.any() else 0.0 for run in (stays, learns)
        )
        return WindowScores(int(mine.sum()), frozen, incremental, learns.seconds[number])

    count = len(stream.windows)
    first_late = prequential.first_late_window(count)
    newest = stream.is_target & (stream.window_of >= first_late)
    below = stays.gains[newest].sum()
    return Prequential(
        list(map(score, range(count))),
        float(learns.gains[newest].sum() / below) if below else 0.0,
        prequential.forgetting(learns, stream, first_late),
    )
