"""Several models as one: the mean of their scores, in training, in the graph, in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from features.schema import FIRST_ITEM, FeatureSchema
from tests.harness.models import every_part, requests_of
from tests.harness.progress import keep_metrics
from trainer.datasets import Log
from trainer.examples.batches import ScoredRequests
from trainer.export import ScoringGraph, export, sample_inputs
from trainer.export.onnx import check_graph, torch_answers
from trainer.gate.measure import growth
from trainer.network import (
    Architecture,
    Ensemble,
    TemporalModel,
    TrainedModel,
    join_models,
    score_requests,
)
from trainer.progress import EpochMetrics, ProgressReporter
from trainer.registry import checkpoint
from trainer.settings import TrainerSettings
from trainer.training import TrainingSetup, train_first_model

SETTINGS = TrainerSettings(width=8, epochs=2, batch_size=4, threads=1, patience=9, ensemble_size=2)


@pytest.fixture(scope="module")
def members(shape: Architecture) -> list[TemporalModel]:
    """Each has weights of its own; what was counted is the same for both."""
    first, second = (every_part(shape, seed) for seed in (3, 4))
    for name, buffer in first.named_buffers():
        second.get_buffer(name).copy_(buffer)
    return [first, second]


@pytest.fixture(scope="module")
def trained(small_log: Log, schema: FeatureSchema) -> tuple[TrainedModel, list[EpochMetrics]]:
    seen: list[EpochMetrics] = []
    return train_first_model(
        small_log, schema, TrainingSetup(SETTINGS), ProgressReporter(keep_metrics(seen))
    ), seen


def test_a_score_is_the_mean_of_the_members_and_the_graph_gives_the_same(
    members: list[TemporalModel], schema: FeatureSchema, tmp_path: Path
) -> None:
    together, items = Ensemble(members), members[0].architecture.items
    feeds = sample_inputs(items, schema, 9)
    every = np.tile(np.arange(items), (9, 1))
    live = torch.zeros(9, members[0].architecture.trends, items)
    asked, places = requests_of(feeds), torch.arange(9)
    with torch.no_grad():
        found = score_requests(together, ScoredRequests(asked, places, live))
        each = [score_requests(member, ScoredRequests(asked, places, live)) for member in members]
    assert (each[0] - each[1])[:, FIRST_ITEM:].abs().max() > 0.5
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)
    answers = torch_answers(ScoringGraph(together), schema, {**feeds, "candidate_items": every})
    torch.testing.assert_close(
        torch.from_numpy(answers["candidate_scores"])[:, FIRST_ITEM:],
        found[:, FIRST_ITEM:],
        rtol=1e-4,
        atol=1e-4,
    )
    alone = [torch_answers(ScoringGraph(member), schema, feeds) for member in members]
    mean = (alone[0]["trend_weights"] + alone[1]["trend_weights"]) / 2
    np.testing.assert_allclose(answers["trend_weights"], mean, rtol=1e-4, atol=1e-5)
    export(together, schema, tmp_path / "model.onnx")
    check_graph(ScoringGraph(together), schema, tmp_path / "model.onnx")


def test_the_same_model_twice_is_that_model(
    members: list[TemporalModel], schema: FeatureSchema
) -> None:
    """Its explanations, too."""
    feeds = sample_inputs(members[0].architecture.items, schema, 9)
    alone, twice = (
        torch_answers(ScoringGraph(one), schema, feeds)
        for one in (members[0], Ensemble([members[0], members[0]]))
    )
    np.testing.assert_array_equal(twice["top_items"], alone["top_items"])
    np.testing.assert_allclose(twice["top_scores"], alone["top_scores"], atol=1e-4)
    same = twice["top_explained_by"] == alone["top_explained_by"]
    assert same.mean() > 0.98


def test_members_are_trained_from_other_beginnings(
    trained: tuple[TrainedModel, list[EpochMetrics]], small_log: Log, schema: FeatureSchema
) -> None:
    model, seen = trained[0].model, trained[1]
    first, second = model.members
    assert not torch.equal(first.state.weight, second.state.weight)
    # All but what balances each.
    for name, buffer in [*first.named_buffers()][1:]:
        assert torch.equal(buffer, second.get_buffer(name))
    alone = train_first_model(
        small_log, schema, TrainingSetup(SETTINGS.model_copy(update={"ensemble_size": 1}))
    )
    assert isinstance(alone.model, TemporalModel)
    assert torch.equal(alone.model.state.weight, first.state.weight)
    # One bar, one curve.
    assert [one.epoch for one in seen if one.epoch_ends] == [1, 2, 3, 4]
    assert {one.epochs for one in seen} == {4}
    steps, done = [one.step for one in seen], [one.done for one in seen]
    assert steps == sorted(steps)
    assert done == sorted(done)
    assert done[-1] == 1


def test_a_folder_holds_them_all(
    trained: tuple[TrainedModel, list[EpochMetrics]], tmp_path: Path
) -> None:
    checkpoint.save(trained[0], tmp_path, {})
    again = checkpoint.load(tmp_path)
    assert checkpoint.read_manifest(tmp_path).members == len(again.model.members) == 2
    for name, weight in trained[0].model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_growth_is_told_beside_a_version_of_as_many_members(members: list[TemporalModel]) -> None:
    found = growth(join_models(members), join_models(members))
    assert found
    assert found.factor == pytest.approx(1)
    assert growth(join_models(members), join_models(members[:1])) is None
