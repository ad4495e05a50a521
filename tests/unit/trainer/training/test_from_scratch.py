"""Training learns, keeps what it learned, and evaluation counts as it says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
import torch
from headwater_client.errors import DataError
from headwater_client.events import Click
from safetensors.torch import save

from features.rows import Observation
from features.schema import FILE_NAME, FeatureSchema, Float32Array, Vocabulary
from features.settings import HOUR_MS
from tests.harness.columns import columns_of
from tests.harness.progress import keep_metrics
from trainer.datasets import Log
from trainer.evaluation import evaluate
from trainer.examples import compute_trends, observe_log
from trainer.examples.batches import Batches
from trainer.export import Arrays, ScoringGraph, answers, export, open_session, sample_inputs
from trainer.export.onnx import torch_answers
from trainer.network import TrainedModel, batch_scores
from trainer.progress import EpochMetrics, ProgressReporter, TrainingPhase, TrainingProgress
from trainer.registry import checkpoint
from trainer.settings import ModelPart, TrainerSettings
from trainer.text import TextEncoder
from trainer.training import TrainingSetup, train_first_model
from trainer.training.fit import distillation_loss

SETTINGS = TrainerSettings(
    width=16,
    epochs=40,
    batch_size=4,
    learning_rate=0.01,
    dropout=0.0,
    threads=1,
    patience=40,
    # A busy machine must not end it early.
    max_seconds=1000,
)
STEP_MS = 60_000


class LengthReader:
    """A language model that only counts letters."""

    width = 1

    def embeddings(self, texts: Sequence[str], on_progress: object = None) -> Float32Array:
        return np.asarray([[float(len(text))] for text in texts], np.float32)


TEXT_ENCODER = cast("TextEncoder", LengthReader())


def in_a_row(people: int, length: int = 8) -> Log:
    """Everyone takes the 30 items in one order, from a random place on."""
    random = np.random.default_rng(2)
    events = []
    for person in range(people):
        first = int(random.integers(30))
        for step in range(length):
            at = f"{person}-{step}"
            item = f"i{(first + step) % 30}"
            time_ms = 1_700_000_000_000 + (person * length + step) * STEP_MS
            events.append(Click(event_id=at, user_id=f"u{person}", item_id=item, timestamp=time_ms))
    return Log(events, [])


@pytest.fixture(scope="module")
def log() -> Log:
    return in_a_row(80)


@pytest.fixture(scope="module")
def steps() -> list[EpochMetrics]:
    return []


@pytest.fixture(scope="module")
def trained(log: Log, schema: FeatureSchema, steps: list[EpochMetrics]) -> TrainedModel:
    return train_first_model(
        log.split(0.8)[0], schema, TrainingSetup(SETTINGS), ProgressReporter(keep_metrics(steps))
    )


def test_what_follows_what_is_learned_where_popularity_cannot(
    trained: TrainedModel, log: Log, schema: FeatureSchema
) -> None:
    for right_after in (False, True):
        found = evaluate(trained, *log.split(0.8), schema, right_after)
        # Two of eight requests are hard: before the first event there is nothing to go by.
        model, popularity = found.model.overall, found.popularity.overall
        assert model.hr_at_10 > 0.8
        assert popularity.hr_at_10 < 0.6
        assert model.events == popularity.events == (112 if right_after else 128)
        assert 0 < model.ndcg_at_10 <= model.hr_at_10


def test_what_was_counted_is_told_and_is_that_of_what_was_learned(
    trained: TrainedModel, log: Log, schema: FeatureSchema
) -> None:
    """In this log an item is taken with those next to it, and with no others."""
    model, vocabulary = trained.model, trained.vocabulary
    (item,) = vocabulary.indices_of(["i7"])
    found = model.neighbours[item][model.neighbour_weights[item] > 0].tolist()
    names = {vocabulary.item_ids[at] for at in found}
    assert names <= {f"i{(7 + step) % 30}" for step in range(-7, 8) if step}
    assert names >= {f"i{(7 + step) % 30}" for step in range(-4, 5) if step}
    cosines = model.factors @ model.factors[item]
    next_one, far = vocabulary.indices_of(["i8", "i22"])
    assert cosines[next_one] > 2 * cosines[far].abs()


@pytest.mark.parametrize("held", [0.25, 0.5])
def test_what_is_held_out_is_chosen_by_the_event(
    log: Log, schema: FeatureSchema, held: float
) -> None:
    """Here by person: what only they took is not learned, and is all that is judged."""
    one = SETTINGS.model_copy(update={"epochs": 1})
    people = {f"u{at}" for at in range(round(80 * held))}
    renamed = [
        msgspec.structs.replace(event, item_id=f"{event.item_id} of u0")
        if event.user_id == "u0"
        else event
        for event in log.events
    ]
    asked: list[str] = []

    def of_them(event: Observation) -> bool:
        asked.append(event.user_id)
        return event.user_id in people

    own = dataclasses.replace(log, events=renamed)
    trained = train_first_model(own, schema, TrainingSetup(one), is_held_out=of_them)
    learned = trained.vocabulary.learned
    names = np.array(trained.vocabulary.item_ids)
    assert set(names[~learned]) == {event.item_id for event in renamed[:8]}
    assert len(asked) == len(log.events)
    assert trained.outcome.held_out > 0


def test_all_held_out_is_nothing_held_out(log: Log, schema: FeatureSchema) -> None:
    one = SETTINGS.model_copy(update={"epochs": 1})
    assert train_first_model(
        log, schema, TrainingSetup(one), is_held_out=lambda _: True
    ).vocabulary.learned.all()
    nothing = train_first_model(log, schema, TrainingSetup(one), is_held_out=lambda _: False)
    assert nothing.outcome.held_out == 0


@pytest.fixture(scope="module")
def whole(small_log: Log, schema: FeatureSchema) -> TrainedModel:
    few = SETTINGS.model_copy(update={"epochs": 1})
    return train_first_model(small_log, schema, TrainingSetup(few, text_encoder=TEXT_ENCODER))


@pytest.mark.parametrize("part", ModelPart)
def test_a_model_without_a_part_trains_and_the_part_has_no_effect(
    whole: TrainedModel, small_log: Log, schema: FeatureSchema, tmp_path: Path, part: ModelPart
) -> None:
    without = SETTINGS.model_copy(update={"epochs": 1, "ablate": frozenset({part})})
    trained = train_first_model(
        small_log, schema, TrainingSetup(without, text_encoder=TEXT_ENCODER)
    )
    feeds = sample_inputs(len(trained.vocabulary), schema, 6, excluded=0)
    export(trained.model, schema, tmp_path / "without.onnx")
    session = open_session(tmp_path / "without.onnx")
    found = answers(session, feeds)
    assert np.isfinite(found["top_scores"]).all()
    other = answers(session, feeds | unseen_by_a_model_without(part, feeds))
    np.testing.assert_array_equal(found["candidate_scores"], other["candidate_scores"])
    shape, size = whole.model.architecture, trained.model.architecture
    changed = {name for name in vars(shape) if getattr(shape, name) != getattr(size, name)}
    assert changed == MISSING[part]
    if part is ModelPart.DECAY:
        assert not found["trend_weights"].any()
    if part is ModelPart.IDENTITY:
        with torch.no_grad():
            trained.model.items.weight.add_(1)
            trained.model.item_bias.add_(1)
        again = torch_answers(ScoringGraph(trained.model), schema, feeds)
        np.testing.assert_allclose(again["top_scores"], found["top_scores"], atol=1e-4)


MISSING = {
    ModelPart.TIME: {"time"},
    ModelPart.TEXT: {"text", "alike"},
    ModelPart.IDENTITY: {"identity"},
    ModelPart.COOCCURRENCE: {"neighbours", "related"},
    ModelPart.DECAY: {"decay"},
}


def unseen_by_a_model_without(part: ModelPart, feeds: Arrays) -> Arrays:
    """Inputs that such a model cannot tell from these."""
    if part is ModelPart.TIME:
        return {
            "event_times_ms": feeds["event_times_ms"] // 2,
            "request_time_ms": feeds["request_time_ms"] + 10**9,
        }
    if part is ModelPart.DECAY:
        return {"user_features": feeds["user_features"] + 1}
    return {}


def test_progress_is_reported_after_every_step(
    trained: TrainedModel, steps: list[EpochMetrics]
) -> None:
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[-1] <= 1
    assert steps[0].held_out is None
    assert steps[-1].loss < steps[0].loss
    assert 1 <= trained.outcome.epoch <= 40


def test_the_same_seed_gives_the_same_model(log: Log, schema: FeatureSchema) -> None:
    few = SETTINGS.model_copy(update={"epochs": 1, "dropout": 0.2, "max_seconds": 1000})
    one, same = (train_first_model(log, schema, TrainingSetup(few)) for _ in range(2))
    other = train_first_model(log, schema, TrainingSetup(few.model_copy(update={"seed": 8})))
    weights = [trained.model.items.weight for trained in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_ends_in_time(log: Log, schema: FeatureSchema) -> None:
    """By a clock that goes on by a second whenever it is looked at."""
    hurried = SETTINGS.model_copy(update={"epochs": 10_000, "max_seconds": 300.0})
    clock, seen = itertools.count(), list[TrainingProgress]()
    progress = ProgressReporter(seen.append, lambda: float(next(clock)))
    trained = train_first_model(log, schema, TrainingSetup(hurried), progress)
    epochs = [one for one in seen if one.phase is TrainingPhase.EPOCHS]
    assert epochs[-1].done == 1
    assert epochs[-1].metrics
    assert epochs[-1].metrics.epoch < 10_000
    assert 300 < trained.outcome.seconds < 600


def test_how_far_a_phase_is_and_how_long_it_takes_fit_each_other() -> None:
    """A slow machine reaches the time limit before the last epoch."""
    now, seen = [0.0], list[TrainingProgress]()
    progress = ProgressReporter(seen.append, lambda: now[0])
    progress.start(TrainingPhase.EPOCHS, limit_s=300.0)
    now[0] = 120.0
    progress.update(0.03)
    progress.update(0.6)
    assert [(one.done, one.seconds_left) for one in seen] == [
        (0.0, 300.0),
        (0.4, pytest.approx(180.0)),
        (0.6, pytest.approx(80.0)),
    ]


def test_each_phase_says_how_far_it_is_and_how_long_it_takes(
    small_log: Log, schema: FeatureSchema
) -> None:
    few = SETTINGS.model_copy(update={"epochs": 2, "max_seconds": 1000.0})
    clock, seen = itertools.count(), list[TrainingProgress]()
    progress = ProgressReporter(seen.append, lambda: float(next(clock)))
    setup = TrainingSetup(few, text_encoder=TEXT_ENCODER)
    train_first_model(small_log, schema, setup, progress)
    phases = [phase for phase, _ in itertools.groupby(one.phase for one in seen)]
    assert phases == [
        TrainingPhase.EXAMPLES,
        TrainingPhase.TEXT,
        TrainingPhase.COOCCURRENCE,
        TrainingPhase.EPOCHS,
        TrainingPhase.CALIBRATION,
    ]
    for phase in phases:
        done = [one.done for one in seen if one.phase is phase]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] <= 1
    epochs = [one.seconds_left for one in seen if one.phase is TrainingPhase.EPOCHS]
    assert all(left is not None and 0 <= left <= 1000 for left in epochs)
    calibration = [one for one in seen if one.phase is TrainingPhase.CALIBRATION]
    assert len(calibration) > 2
    assert calibration[-1].done == 1


def test_training_ends_when_nothing_gets_better(log: Log, schema: FeatureSchema) -> None:
    patient = SETTINGS.model_copy(update={"patience": 1, "learning_rate": 1e-12})
    seen: list[EpochMetrics] = []
    train_first_model(log, schema, TrainingSetup(patient), ProgressReporter(keep_metrics(seen)))
    assert seen[-1].epoch == 2


def test_what_a_teacher_answers_is_learned(
    trained: TrainedModel, log: Log, schema: FeatureSchema
) -> None:
    """A pupil that reads less is nearer to its teacher than one that nobody taught."""
    earlier = log.split(0.8)[0]
    short = SETTINGS.model_copy(update={"width": 8, "history": 4, "distillation_weight": 0.9})
    columns = columns_of(earlier, trained.vocabulary, schema)
    observed = observe_log(earlier.events, earlier.items)
    trended = compute_trends(observed, trained.vocabulary, schema, HOUR_MS)
    asked = Batches(columns, trended, np.ones(len(columns), bool), 8, 16)
    batch = next(asked.epoch(64, np.random.default_rng(0)))
    lost = []
    for teacher in (trained, None):
        pupil = train_first_model(earlier, schema, TrainingSetup(short, teacher=teacher)).model
        assert pupil.architecture.history == 4
        with torch.no_grad():
            scores, answers = batch_scores(pupil, batch), batch_scores(trained.model, batch)
        lost.append(float(distillation_loss(scores, answers).mean()))
    assert lost[0] < 0.95 * lost[1]


def test_a_teacher_of_other_items_is_refused(trained: TrainedModel, schema: FeatureSchema) -> None:
    with pytest.raises(DataError, match=r"trainer\.teacher: knows 32 items, here are "):
        train_first_model(in_a_row(2), schema, TrainingSetup(SETTINGS, teacher=trained))


def test_a_log_without_anything_to_learn_is_refused(log: Log, schema: FeatureSchema) -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        train_first_model(dataclasses.replace(log, events=[]), schema, TrainingSetup(SETTINGS))
    demanding = SETTINGS.model_copy(update={"min_item_events": 1000})
    with pytest.raises(DataError, match="nothing to learn"):
        train_first_model(log, schema, TrainingSetup(demanding))


def test_a_log_of_one_event_is_enough(log: Log, schema: FeatureSchema) -> None:
    trained = train_first_model(
        dataclasses.replace(log, events=log.events[:1]), schema, TrainingSetup(SETTINGS)
    )
    assert len(trained.vocabulary) == 3


def test_rare_items_stay_unknown(log: Log, schema: FeatureSchema) -> None:
    rare = Click(event_id="rare", user_id="u1", item_id="rare", timestamp=1_700_000_000_000)
    more = dataclasses.replace(log, events=[rare, *log.events])
    few = SETTINGS.model_copy(update={"epochs": 1, "min_item_events": 2})
    vocabulary = train_first_model(more, schema, TrainingSetup(few)).vocabulary
    assert len(vocabulary) == 32
    assert vocabulary.indices_of(["rare"]).tolist() == [1]


def test_a_checkpoint_is_the_model_again(trained: TrainedModel, tmp_path: Path, log: Log) -> None:
    checkpoint.save(trained, tmp_path, {"trainer": {"seed": 7}})
    again = checkpoint.load(tmp_path)
    assert again.vocabulary.item_ids == trained.vocabulary.item_ids
    assert again.vocabulary.learned.tolist() == trained.vocabulary.learned.tolist()
    assert again.outcome == trained.outcome
    assert again.outcome.curve[0].epoch == 1
    assert max(each.held_out for each in again.outcome.curve) > 0
    assert again.until_ms == log.split(0.8)[0].events[-1].timestamp
    assert again.model.architecture == trained.model.architecture
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a trained model"):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="not a trained model"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (checkpoint.WEIGHTS, None),
        (checkpoint.WEIGHTS, b"garbage" * 9),
        (checkpoint.WEIGHTS, save({"other": torch.zeros(1)})),
        (checkpoint.MANIFEST, b"{"),
        (FILE_NAME, b"garbage"),
        (FILE_NAME, None),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    trained: TrainedModel, tmp_path: Path, file: str, content: bytes | None
) -> None:
    checkpoint.save(trained, tmp_path, {})
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=r": (damaged|not a trained model)") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"garbage" * 9, save({"other": torch.zeros(1)})])
def test_other_weights_are_refused_whatever_their_checksum(
    trained: TrainedModel, tmp_path: Path, content: bytes
) -> None:
    checkpoint.save(trained, tmp_path, {})
    (tmp_path / checkpoint.WEIGHTS).write_bytes(content)
    checkpoint.seal(tmp_path, {})
    with pytest.raises(DataError, match="not a trained model: ") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_another_model_s_vocabulary_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    checkpoint.save(trained, tmp_path, {})
    Vocabulary(["i1"]).write(str(tmp_path / FILE_NAME))
    checkpoint.seal(tmp_path, {})
    with pytest.raises(DataError, match=r"vocabulary\.parquet is that of another"):
        checkpoint.load(tmp_path)
