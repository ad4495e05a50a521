"""A small search for better settings: Optuna proposes, a training on the log answers.

Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019.

A training's curves go to TensorBoard; MLflow and Weights & Biases fit behind `Tracker` too: what
they log is a configuration, and named numbers at a step.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import numpy as np
import optuna
from headwater_client.errors import DataError, SettingsError
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from features.schema import FeatureSchema, Float32Array
from trainer.datasets import Log
from trainer.progress import EpochMetrics, ProgressReporter, Report, TrainingProgress
from trainer.settings import TrainerSettings
from trainer.text import TextEncoder
from trainer.training.from_scratch import TrainingSetup, train_first_model


class Tracker(Protocol):
    """One run, as it goes."""

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Say with which settings the run is made."""

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Say what was measured after a step."""

    def close(self) -> None:
        """End the run."""


class TensorBoard:
    """Event files in a folder of their own within `folder`, named for the time of the start.

    Raises:
        SettingsError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        # A second of imports, for those who want curves.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        try:
            self.run = _new_folder(folder)
        except OSError as error:
            raise SettingsError(
                f"trainer.tensorboard_dir = {str(folder)!r}: {error.strerror}: name a folder that "
                "can be written, or leave it empty"
            ) from error
        self._writer: Any = SummaryWriter(str(self.run))

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        text = msgspec.json.format(msgspec.json.encode(settings)).decode()
        self._writer.add_text("settings", f"```\n{text}\n```")

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


@contextmanager
def track(
    settings: TrainerSettings, report: Report | None = None, tracker: Tracker | None = None
) -> Iterator[Report | None]:
    """The report of a run that `tracker` follows too.

    Args:
        tracker: the one that the settings ask for, if none is given.
    """
    if tracker is None and settings.tensorboard_dir:
        tracker = TensorBoard(Path(settings.tensorboard_dir).expanduser())
    if tracker is None:
        yield report
        return
    tracker.log_settings(settings.model_dump(mode="json"))
    try:
        yield _with(tracker, report)
    finally:
        tracker.close()


def _with(tracker: Tracker, report: Report | None) -> Report:
    def both(progress: TrainingProgress) -> None:
        if metrics := progress.metrics:
            tracker.log_metrics(metrics.step, _values(metrics))
        if report:
            report(progress)

    return both


def _values(metrics: EpochMetrics) -> dict[str, float]:
    if metrics.epoch_ends and metrics.held_out is not None:
        return {"held_out/ndcg_at_10": metrics.held_out, "epoch": float(metrics.epoch)}
    return {
        "train/loss": metrics.loss,
        "train/learning_rate": metrics.learning_rate,
        "train/gradient_norm": metrics.gradient_norm,
    }


def _new_folder(folder: Path) -> Path:
    """A new folder within another, though several runs start in the same second."""
    name, number = f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}", 1
    while True:
        run = folder / (name if number == 1 else f"{name}_{number}")
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1


STUDY = "headwater"
# Trials that are never cut short, and epochs that each has before it may be.
FULL_TRIALS = 4
FULL_EPOCHS = 1
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_LOG = "log"
_EPOCH = "epoch"
_DIGITS = 3

Distribution = FloatDistribution | IntDistribution


@dataclass(frozen=True)
class SearchTrial:
    """One trial: its settings, its best held-out NDCG@10 and the epoch that had it.

    A trial that was `pruned` was below the median of those before it, and ended early.
    """

    number: int
    settings: dict[str, float]
    ndcg_at_10: float
    epoch: int
    pruned: bool
    seconds: float


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands: trials ended, the best so far, and the training that runs."""

    ended: int
    trials: int
    best: float | None
    training: TrainingProgress


@dataclass(frozen=True)
class SearchOptions:
    """How long to search, and where to keep what was found.

    Attributes:
        trials: those of earlier runs with the same file included.
        timeout_s: no trial begins after that.
        study: a journal, from which a search goes on.
    """

    trials: int
    timeout_s: float | None = None
    study: Path | None = None


def search(
    log: Log,
    schema: FeatureSchema,
    setup: TrainingSetup,
    options: SearchOptions,
    report: Callable[[SearchProgress], None] = lambda _: None,
) -> list[SearchTrial]:
    """Try settings, the present ones first; all trials that ended, best first.

    Each is judged by the held-out NDCG@10 of its best epoch, the log's newest part. It ends when
    its epochs bring nothing more, or as soon as it is below the median of the trials before it.

    Raises:
        DataError: nothing can be learned from the log, or the study cannot be read or is another
            log's.
        SettingsError: nothing is held out.
    """
    settings = setup.settings
    if not settings.validation_fraction:
        raise SettingsError("trainer.validation_fraction = 0: a search needs held-out events")
    study = _study(settings, options, log)
    if setup.text_encoder:
        caching = cast("TextEncoder", _CachingTextEncoder(setup.text_encoder))
        setup = replace(setup, text_encoder=caching)
    until = math.inf if options.timeout_s is None else time.monotonic() + options.timeout_s
    while len(ended := _finished_trials(study)) < options.trials and time.monotonic() < until:
        trial = study.ask(dict(search_space(settings)))
        tried = settings.model_copy(update=_round_floats(trial.params) | {"ensemble_size": 1})
        watch = _pruning_report(trial, report, options.trials, ended)
        try:
            with track(tried, watch) as followed:
                trying = replace(setup, settings=tried)
                progress = ProgressReporter(followed)
                outcome = train_first_model(log, schema, trying, progress).outcome
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr(_EPOCH, outcome.epoch)
            study.tell(trial, outcome.held_out)
    return ended


def search_space(settings: TrainerSettings) -> Mapping[str, Distribution]:
    """The settings that are searched, and between what."""
    step = math.lcm(32, settings.heads)
    return {
        "learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "width": IntDistribution(step, max(128 // step, 1) * step, step=step),
        "weight_decay": FloatDistribution(1e-4, 0.3, log=True),
        "identity_dropout": FloatDistribution(0.0, 0.5),
    }


def _pruning_report(
    trial: optuna.Trial,
    report: Callable[[SearchProgress], None],
    trials: int,
    ended: Sequence[SearchTrial],
) -> Report:
    """The report of a trial's training, which ends one that is behind the others."""
    best = ended[0].ndcg_at_10 if ended else None

    def watch(progress: TrainingProgress) -> None:
        report(SearchProgress(len(ended), trials, best, progress))
        metrics = progress.metrics
        if metrics and metrics.epoch_ends and metrics.held_out is not None:
            trial.report(metrics.held_out, metrics.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    return watch


def _study(settings: TrainerSettings, options: SearchOptions, log: Log) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    described = [len(log.events), log.events[0].timestamp, log.events[-1].timestamp]
    try:
        study = optuna.create_study(
            storage=_storage(options.study),
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(FULL_TRIALS, FULL_EPOCHS + 1),
        )
        known = study.user_attrs.get(_LOG)
    except (OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{options.study}: not a study that can be gone on with: {why}") from error
    if known not in (None, described):
        raise DataError(
            f"{options.study}: is the study of another log, of {known[0]} events: name another file"
        )
    # Another seed for what is gone on with: the same one would propose the same again.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
    if known is None:
        study.set_user_attr(_LOG, described)
        study.enqueue_trial(_present_parameters(settings))
    return study


def _storage(file: Path | None) -> JournalStorage | None:
    if file is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(file)))


def _present_parameters(settings: TrainerSettings) -> dict[str, float]:
    """The present settings, as far as they lie in what is searched."""
    present = settings.model_dump(include=set(search_space(settings)))
    return {
        name: present[name]
        for name, space in search_space(settings).items()
        if _has(space, present[name])
    }


def _has(space: Distribution, value: float) -> bool:
    on_step = not space.step or (value - space.low) % space.step == 0
    return space.low <= value <= space.high and on_step


def _finished_trials(study: optuna.Study) -> list[SearchTrial]:
    """Trials that ended, best first."""
    trials = study.get_trials(deepcopy=False, states=ENDED)
    return sorted(map(_to_search_trial, trials), key=lambda one: -one.ndcg_at_10)


def _to_search_trial(trial: FrozenTrial) -> SearchTrial:
    pruned = trial.state is TrialState.PRUNED
    epochs = trial.intermediate_values
    best = max(epochs, key=lambda epoch: epochs[epoch], default=0)
    duration = trial.duration
    return SearchTrial(
        number=trial.number,
        settings=_round_floats(trial.params),
        ndcg_at_10=epochs[best] if pruned else float(trial.value or 0.0),
        epoch=best if pruned else trial.user_attrs[_EPOCH],
        pruned=pruned,
        seconds=duration.total_seconds() if duration else 0.0,
    )


def _round_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """Floats with a few digits, so that what is printed is what was tried."""
    return {
        name: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


class _CachingTextEncoder:
    """A language model that is asked once for the same texts: every trial has the same items."""

    def __init__(self, text_encoder: TextEncoder) -> None:
        self._text_encoder = text_encoder
        self._texts: list[str] | None = None
        self._vectors: Float32Array = np.zeros((0, 0), np.float32)
        self.width = text_encoder.width

    def embeddings(
        self, texts: Sequence[str], on_progress: Callable[[float], None] | None = None
    ) -> Float32Array:
        """See `TextEncoder`."""
        if self._texts != list(texts):
            self._vectors = self._text_encoder.embeddings(texts, on_progress)
            self._texts = list(texts)
        return self._vectors
