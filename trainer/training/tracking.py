"""The curves of a training run, for whatever draws them: TensorBoard here.

MLflow and Weights & Biases fit behind `Tracker` too: what they log is a configuration, and named
numbers at a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from headwater_client.errors import SettingsError

from trainer.progress import EpochMetrics, Report, TrainingProgress
from trainer.settings import TrainerSettings


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
