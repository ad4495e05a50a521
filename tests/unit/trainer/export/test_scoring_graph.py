"""Serving equals training: what is exported scores a history as a batch of training does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from headwater_client.events import Click, Interaction

from features import inputs
from features.inputs import SCORE_PARTS
from features.rows import UserRow, apply_event, empty_user
from features.schema import FIRST_ITEM, FeatureSchema, Vocabulary
from features.settings import HOUR_MS, FeatureSettings
from tests.harness.models import every_part, requests_of
from trainer.datasets import Log
from trainer.examples import build_examples, compute_trends, observe_log, replay_log
from trainer.examples.batches import Batches, ScoredRequests
from trainer.examples.replay import SOURCE
from trainer.export import ScoringGraph, sample_inputs
from trainer.export.onnx import torch_answers
from trainer.export.scoring_graph import DenseCooccurrence, SparseCooccurrence
from trainer.network import (
    LOWEST,
    NEWEST,
    Architecture,
    TemporalModel,
    join_models,
    score_parts,
    score_requests,
    trend_scores,
)

ITEMS = 130


def served(
    model: TemporalModel, schema: FeatureSchema, feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Scores of all items, by asking for them as candidates."""
    batch = len(feeds["item_indices"])
    every = np.tile(np.arange(ITEMS), (batch, 1))
    return torch_answers(ScoringGraph(model), schema, {**feeds, "candidate_items": every})


def trained_scores(
    model: TemporalModel, feeds: Mapping[str, np.ndarray], live: torch.Tensor
) -> torch.Tensor:
    """The same requests as training asks them."""
    asked = requests_of(feeds)
    with torch.no_grad():
        return score_requests(model, ScoredRequests(asked, torch.arange(len(asked.items)), live))


@pytest.mark.parametrize("history", [8, NEWEST + 5])
def test_a_version_scores_as_its_training_does(shape: Architecture, history: int) -> None:
    schema = FeatureSchema(FeatureSettings(history_length=history))
    model = every_part(replace(shape, history=history))
    feeds = sample_inputs(ITEMS, schema, 9)
    live = torch.rand(9, shape.trends, ITEMS, generator=torch.Generator().manual_seed(0))
    expected = trained_scores(model, feeds, live)
    found = served(model, schema, feeds)
    weights = torch.from_numpy(found["trend_weights"])
    scores = torch.from_numpy(found["candidate_scores"])
    scores = scores + trend_scores(weights, live, model.learned)
    assert expected[:, FIRST_ITEM:].std() > 0.5
    torch.testing.assert_close(
        scores[:, FIRST_ITEM:], expected[:, FIRST_ITEM:], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("part", ["alike", "related", "neighbours", "text", "decay", "time"])
def test_so_does_a_model_without_a_part(
    shape: Architecture, schema: FeatureSchema, part: str
) -> None:
    model = every_part(Architecture(**{**vars(shape), part: 0}))
    feeds = sample_inputs(ITEMS, schema, 9)
    live = torch.zeros(9, shape.trends, ITEMS)
    expected = trained_scores(model, feeds, live)[:, FIRST_ITEM:]
    found = served(model, schema, feeds)
    scores = torch.from_numpy(found["candidate_scores"])[:, FIRST_ITEM:]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert found["trend_weights"].any() == (part != "decay")


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("followers", [DenseCooccurrence, SparseCooccurrence])
def test_the_parts_of_a_score_are_those_of_training_and_sum_up_to_it(
    shape: Architecture,
    schema: FeatureSchema,
    followers: type[DenseCooccurrence | SparseCooccurrence],
    members: int,
) -> None:
    model = join_models([every_part(shape, seed) for seed in range(members)])
    for member in model.members[1:]:
        # As training makes them: what was counted is the same for all.
        for name in ("neighbours", "neighbour_weights", "factors", "described"):
            getattr(member, name).copy_(getattr(model.members[0], name))
    feeds = sample_inputs(ITEMS, schema, 9)
    feeds["candidate_items"] = np.tile(np.arange(ITEMS), (9, 1))
    found = torch_answers(ScoringGraph(model, followers), schema, feeds)
    asked = requests_of(feeds)
    scored = ScoredRequests(asked, torch.arange(9), torch.zeros(9, shape.trends, ITEMS))
    with torch.no_grad():
        expected = [score_parts(member, scored) for member in model.members]
    for place, name in enumerate(SCORE_PARTS):
        part = torch.stack([parts[name] for parts in expected]).mean(0)[:, FIRST_ITEM:]
        assert part.std() > 0.01, name
        told = torch.from_numpy(found["candidate_parts"][:, FIRST_ITEM:, place])
        torch.testing.assert_close(told, part, rtol=1e-4, atol=1e-4)
    there = found["top_scores"] > LOWEST / 2
    for kind, shown in (("candidate", np.s_[:, FIRST_ITEM:]), ("top", there)):
        sums = found[f"{kind}_parts"].sum(2)[shown]
        np.testing.assert_allclose(sums, found[f"{kind}_scores"][shown], rtol=0, atol=1e-4)


def test_a_stream_s_row_scores_as_the_training_batch_before_that_event(
    model: TemporalModel, vocabulary: Vocabulary, small_log: Log, schema: FeatureSchema
) -> None:
    """From the log both ways: the row that the stream keeps, and the batch that learns from it."""
    # Without instants of several events, whose order training draws at random.
    spread: list[Interaction] = [
        Click(
            event_id=event.event_id,
            user_id=event.user_id,
            item_id=event.item_id,
            timestamp=event.timestamp + at * HOUR_MS // 9,
        )
        for at, event in enumerate(small_log.events[:120])
    ]
    log = observe_log(spread, small_log.items)
    columns = build_examples(replay_log(log, schema), vocabulary, schema)
    trended = compute_trends(log, vocabulary, schema, HOUR_MS)
    batches = Batches(columns, trended, np.ones(len(columns), bool), 8, 2)
    expected: dict[tuple[int, int], torch.Tensor] = {}
    for batch in batches.epoch(4, np.random.default_rng(0)):
        with torch.no_grad():
            scores = score_requests(model, replace(batch.scored_requests, trends=0 * batch.trends))
        for row, event in zip(batch.rows.tolist(), batch.events.tolist(), strict=True):
            expected[int(columns.times_ms[event]), int(columns.items[event])] = scores[row]
    rows: dict[str, UserRow] = {}
    compared = 0
    for event in log:
        row = rows.setdefault(event.user_id, empty_user(schema))
        (item,) = vocabulary.indices_of([event.item_id])
        if (event.time_ms, int(item)) in expected and len(row.events) <= 3 * 7:
            feeds = inputs.model_tensors([row], [event.time_ms], vocabulary, schema)
            found = torch.from_numpy(served(model, schema, feeds)["candidate_scores"])[0]
            known = expected[event.time_ms, int(item)]
            torch.testing.assert_close(found[FIRST_ITEM:], known[FIRST_ITEM:], rtol=1e-3, atol=1e-3)
            compared += 1
        apply_event(row, event, schema)
    assert event.source == SOURCE
    assert compared > 40


def test_what_is_not_recommendable_is_never_in_the_top(
    shape: Architecture, schema: FeatureSchema
) -> None:
    model = every_part(shape)
    model.recommendable[50:] = False
    feeds = sample_inputs(ITEMS, schema, 4, excluded=0)
    found = torch_answers(ScoringGraph(model), schema, feeds)
    assert set(found["top_items"].flatten().tolist()) == {0, *range(FIRST_ITEM, 50)}
    never = found["top_scores"] <= LOWEST / 2
    assert (found["top_items"][never] == 0).all()
