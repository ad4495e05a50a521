"""A run's curves can be read back: the loss of every step, the held-out score of every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from headwater_client.errors import SettingsError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from features.schema import FeatureSchema
from tests.harness.progress import keep_metrics
from trainer.datasets import Log
from trainer.progress import EpochMetrics, ProgressReporter, TrainingPhase, TrainingProgress
from trainer.schedule import learning_rate_factor
from trainer.settings import TrainerSettings
from trainer.training import TrainingSetup, track, train_first_model

SETTINGS = TrainerSettings(width=8, epochs=2, batch_size=4, threads=1, patience=9)


class Notes:
    """A tracker of somebody else's."""

    def __init__(self) -> None:
        self.settings: Mapping[str, Any] = {}
        self.steps: list[int] = []
        self.closed = False

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)

    def close(self) -> None:
        self.closed = True


def test_event_files_hold_the_curves(small_log: Log, schema: FeatureSchema, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"tensorboard_dir": str(tmp_path / "curves")})
    seen: list[EpochMetrics] = []
    with track(settings, keep_metrics(seen)) as report:
        train_first_model(small_log, schema, TrainingSetup(settings), ProgressReporter(report))
    (run,) = (tmp_path / "curves").iterdir()
    events = EventAccumulator(str(run)).Reload()
    steps = [one for one in seen if not one.epoch_ends]
    for name, values in {
        "train/loss": [one.loss for one in steps],
        "train/learning_rate": [one.learning_rate for one in steps],
        "train/gradient_norm": [one.gradient_norm for one in steps],
        "held_out/ndcg_at_10": [one.held_out for one in seen if one.epoch_ends],
    }.items():
        curve = events.Scalars(name)
        assert [point.value for point in curve] == pytest.approx(values, rel=1e-6)
    assert [point.step for point in events.Scalars("train/loss")] == list(range(1, len(steps) + 1))
    assert steps[0].learning_rate == SETTINGS.learning_rate * learning_rate_factor(
        0.0, SETTINGS.warmup_ratio
    )
    assert all(one.gradient_norm > 0 for one in steps)
    assert [one.epoch for one in seen if one.epoch_ends] == [1, 2]
    (text,) = events.Tensors("settings/text_summary")
    assert '"width": 8' in text.tensor_proto.string_val[0].decode()


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"tensorboard_dir": str(tmp_path)})
    for _ in range(3):
        with track(settings):
            pass
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_written_where_nothing_is_asked_for() -> None:
    seen: list[EpochMetrics] = []
    with track(SETTINGS, seen.append) as report:
        assert report == seen.append


def test_any_tracker_can_follow_and_is_closed_when_training_fails() -> None:
    notes = Notes()

    def fail() -> None:
        with track(SETTINGS, None, notes) as report:
            assert report is not None
            metrics = EpochMetrics(1, 2, 0.5, 1.0, None, step=3)
            report(TrainingProgress(TrainingPhase.EPOCHS, 0.5, metrics=metrics))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (notes.settings["width"], notes.steps, notes.closed) == (8, [3], True)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = SETTINGS.model_copy(update={"tensorboard_dir": str(tmp_path / "file")})
    with pytest.raises(SettingsError, match=r"trainer.tensorboard_dir = '.*file': Not a dir"):
        track(settings).__enter__()
