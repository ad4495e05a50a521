"""A window that is not what it should be makes no version that goes live."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.schema import FeatureSchema
from tests.harness.walks import Events, swap_items, walks
from tests.unit.trainer.training.test_fine_tune import BEFORE, FILMS, SETTINGS, TEXT_ENCODER, TUNING
from trainer.datasets import Log
from trainer.evaluation import hold_out
from trainer.examples import EventHistory, split_by_time
from trainer.export import ExportError, export
from trainer.gate import Verdict, verdict
from trainer.gate.measure import JudgedVersion, measure
from trainer.network import TrainedModel
from trainer.settings import FineTuneSettings, GateSettings
from trainer.training import TrainingSetup, fine_tune, train_first_model

# Whoever else works on the machine: a test fails by no time.
LIMITS = GateSettings(max_latency_ms=60_000, max_slowdown=1000)
LEARNING = TUNING.model_copy(update={"gate_fraction": 0.3})
WINDOW = walks(range(50, 90), 1)


@pytest.fixture(scope="module")
def live(schema: FeatureSchema, tmp_path_factory: pytest.TempPathFactory) -> JudgedVersion:
    trained = train_first_model(
        Log(BEFORE, FILMS), schema, TrainingSetup(SETTINGS, text_encoder=TEXT_ENCODER)
    )
    return export_version(7, trained, schema, tmp_path_factory.mktemp("live"))


def export_version(
    version: int, trained: TrainedModel, schema: FeatureSchema, folder: Path
) -> JudgedVersion:
    graph = folder / "model.onnx"
    try:
        export(trained.model, schema, graph)
    except ExportError:
        return JudgedVersion(version, trained, None)
    return JudgedVersion(version, trained, graph)


def judge(
    live: JudgedVersion,
    window: Events,
    tuning: FineTuneSettings,
    schema: FeatureSchema,
    folder: Path,
) -> Verdict:
    """The verdict on what the live version becomes by a window."""
    history = EventHistory(schema, FILMS)
    history.extend(BEFORE)
    history.extend(window)
    slices = split_by_time(history.times_ms, live.trained.until_ms, tuning)
    found = fine_tune(live.trained, history, slices, TrainingSetup(SETTINGS, tuning, TEXT_ENCODER))
    versions = [live.trained.vocabulary, found.vocabulary]
    held = hold_out(history, slices.judge_ms, versions)
    new = hold_out(history, slices.since_ms + 1, versions)
    candidate = export_version(8, found, schema, folder)
    return verdict(measure(candidate, live, held, schema, new), LIMITS)


def test_a_window_like_those_before_passes(
    live: JudgedVersion, schema: FeatureSchema, tmp_path: Path
) -> None:
    found = judge(live, WINDOW, LEARNING, schema, tmp_path)
    assert found.refusals == []
    assert found.events > LIMITS.min_events


def test_a_learning_rate_far_too_high_is_stopped(
    live: JudgedVersion, schema: FeatureSchema, tmp_path: Path
) -> None:
    wild = LEARNING.model_copy(update={"learning_rate": 1000 * LEARNING.learning_rate})
    found = judge(live, WINDOW, wild, schema, tmp_path)
    whys = dict(line.split(": ", 1) for line in found.refusals)
    assert "times the live version's norm" in whys["norms"]
    assert "live version 7" in whys["quality"]


def test_a_window_of_shuffled_items_is_stopped(
    live: JudgedVersion, schema: FeatureSchema, tmp_path: Path
) -> None:
    found = judge(live, swap_items(WINDOW), LEARNING, schema, tmp_path)
    (why,) = found.refusals
    assert why.startswith("window: live version 7 foresaw it with NDCG@10 ")


def test_a_window_of_one_event_is_stopped(
    live: JudgedVersion, schema: FeatureSchema, tmp_path: Path
) -> None:
    found = judge(live, WINDOW[:1], LEARNING, schema, tmp_path)
    assert found.refusals == ["quality: 0 held-out events, fewer than 50: nothing is concluded"]
