"""A loss over what could have been taken, ranks that count ties as half, and what adds up."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from features.schema import FIRST_ITEM
from trainer.examples import Examples, ItemTrends
from trainer.examples.batches import Batch, Batches, Requests, ScoredRequests
from trainer.examples.cooccurrence import CooccurrenceTables
from trainer.metrics import ndcg
from trainer.network import (
    LOWEST,
    TemporalModel,
    VisibleCooccurrence,
    batch_scores,
    score_requests,
    trend_scores,
)
from trainer.network.scoring import model_cooccurrence, rank_targets
from trainer.training.fit import distillation_loss, softmax_loss


@pytest.fixture
def batch(columns: Examples, trended: ItemTrends) -> Batch:
    batches = Batches(columns, trended, np.ones(len(columns), bool), 8, 16)
    return next(batches.epoch(4, np.random.default_rng(0)))


def batch_of(rows: list[int], targets: list[int], together: list[list[int]], items: int) -> Batch:
    """Only what ranks and losses read; item lists of what each request's instant has."""
    nothing = torch.zeros(1, 1, dtype=torch.long)
    same = torch.zeros(len(together), items, dtype=torch.bool)
    for row, mine in enumerate(together):
        same[row, mine] = True
    return Batch(
        requests=Requests(nothing, nothing, nothing, nothing, nothing, nothing),
        users=nothing[0],
        positions=nothing[0],
        rows=torch.tensor(rows),
        targets=torch.tensor(targets),
        events=torch.arange(len(rows)),
        purchased=torch.zeros(len(rows), dtype=torch.bool),
        excluded=torch.zeros(len(together), items, dtype=torch.bool),
        tied=same,
        trends=torch.zeros(len(together), 1, items),
    )


def test_the_loss_is_cross_entropy_without_the_other_right_ones() -> None:
    scores = torch.tensor([[LOWEST, 0.5, 2.0, -1.0, 3.0], [0.0, 1.0, LOWEST, 4.0, -2.0]])
    asked = batch_of([0, 0, 1], [2, 4, 3], [[2, 4], [3]], 5)
    open_to = [[1, 2, 3], [1, 3, 4], [0, 1, 3, 4]]
    expected = [
        -float(torch.log_softmax(scores[row, items], 0)[items.index(target)])
        for row, target, items in zip([0, 0, 1], [2, 4, 3], open_to, strict=True)
    ]
    assert softmax_loss(scores, asked).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_pupil_loses_least_where_it_answers_as_its_teacher_does() -> None:
    answers = torch.tensor([[5.0, 0.5, 2.0, -1.0, 3.0], [0.0, 1.0, 7.0, 4.0, -2.0]])
    hidden = torch.tensor([[True, False, False, False, False], [False, False, True, False, False]])
    alike = (answers + 3).masked_fill(hidden, LOWEST).requires_grad_()
    loss = distillation_loss(alike, answers)
    for row, found in enumerate(loss.tolist()):
        likely = torch.softmax(answers[row][~hidden[row]], 0)
        assert found == pytest.approx(-float((likely * likely.log()).sum()), rel=1e-5)
    loss.sum().backward()
    assert alike.grad is not None
    assert alike.grad.abs().max() < 1e-6
    assert (distillation_loss((answers * 0.5).masked_fill(hidden, LOWEST), answers) > loss).all()


def test_the_loss_of_a_model_is_cross_entropy_over_the_allowed_items(
    model: TemporalModel, batch: Batch
) -> None:
    with torch.no_grad():
        scores = batch_scores(model, batch)
        plain = score_requests(model, batch.scored_requests)
    found = softmax_loss(scores, batch)
    assert found.shape == batch.targets.shape
    for at, (row, target) in enumerate(zip(batch.rows, batch.targets, strict=True)):
        out = batch.excluded[row] | batch.tied[row]
        out[target] = False
        allowed = plain[row].masked_fill(out, -torch.inf)
        expected = allowed.logsumexp(0) - plain[row, target]
        torch.testing.assert_close(found[at], expected, rtol=1e-4, atol=1e-4)


def test_no_gradient_pushes_the_other_right_ones_down() -> None:
    scores = torch.tensor([[0.5, 2.0, -1.0, 3.0]], requires_grad=True)
    asked = batch_of([0], [1], [[1, 3]], 4)
    softmax_loss(scores, asked).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0, 3] == 0
    assert scores.grad[0, 1] < 0
    assert (scores.grad[0, [0, 2]] > 0).all()


def ranks_of(scores: Tensor, batch: Batch) -> Tensor:
    return rank_targets(scores, batch.rows, batch.targets, batch.tied)


def test_ranks_count_ties_as_half() -> None:
    scores = torch.tensor([[5.0, 1.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    asked = batch_of([0, 1], [2, 1], [[2], [1]], 4)
    assert ranks_of(scores, asked).tolist() == [1.0, 2.0]
    never = torch.full((2, 4), torch.nan)
    assert ranks_of(never, asked).tolist() == [torch.inf, torch.inf]
    assert ndcg(np.array([0.0, 1.0, 9.0, 10.0])).tolist() == pytest.approx(
        [1, 1 / np.log2(3), 1 / np.log2(11), 0]
    )


def test_what_was_taken_at_the_same_instant_does_not_stand_before() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 3.0]])
    apart = batch_of([0, 0, 0], [0, 1, 2], [[0, 1, 2]], 4)
    assert ranks_of(scores, apart).tolist() == [0, 0, 0.5]


def test_only_a_target_that_is_no_number_is_missed() -> None:
    scores = torch.tensor([[torch.nan, 4.0, 3.0]])
    assert ranks_of(scores, batch_of([0, 0], [0, 2], [[0, 2]], 3)).tolist() == [torch.inf, 1]


def test_forbidden_items_score_lowest_and_others_do_not(model: TemporalModel, batch: Batch) -> None:
    with torch.no_grad():
        scores = batch_scores(model, batch)
    assert torch.equal(scores <= LOWEST / 2, batch.excluded)


def test_an_item_has_the_trend_weights_of_its_half() -> None:
    weights = torch.tensor([[1.0, 2.0, 10.0, 20.0]])
    live = torch.tensor([[[1.0, 1.0, 0.5], [0.0, 1.0, 2.0]]])
    known = torch.tensor([True, False, False])
    assert trend_scores(weights, live, known).tolist() == [[1.0, 30.0, 45.0]]


def test_a_score_is_the_sum_of_its_parts(model: TemporalModel, batch: Batch) -> None:
    """By hand, one request at a time."""
    asked = batch.requests
    with torch.no_grad():
        found = score_requests(model, ScoredRequests(asked, batch.positions, batch.trends))
        items = model.all_items()
        read = model.encode(asked, model.biases(asked.items.shape[1], asked.newest), items.vectors)
    width = asked.newest.shape[1]
    for at in range(0, len(batch.positions), 7):
        row, column = divmod(int(batch.positions[at]), width)
        expected = items.vectors @ read.states[row, column] + items.bias
        learned = torch.zeros(len(expected))
        for place, item in enumerate(asked.items[row].tolist()):
            alike = model.described @ (model.described[item] * model.alike_scales)
            expected = expected + read.content_weights[row, column, place] * alike
            learned += read.collaborative_weights[row, column, place] * (
                model.factors @ model.factors[item]
            )
            companions = torch.zeros(len(expected))
            companions[model.neighbours[item].long()] = model.neighbour_weights[item]
            learned += read.session_weights[row, column, place] * companions
        of_learned, of_others = read.trend_weights[row, column].chunk(2)
        expected = expected + torch.where(
            model.learned,
            learned + of_learned @ batch.trends[at],
            of_others @ batch.trends[at],
        )
        torch.testing.assert_close(found[at], expected.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("part", ["neighbour_weights", "factors", "described"])
def test_every_part_has_a_say(model: TemporalModel, batch: Batch, part: str) -> None:
    silent = copy.deepcopy(model)
    getattr(silent, part).zero_()
    with torch.no_grad():
        found, other = batch_scores(model, batch), batch_scores(silent, batch)
    assert (found - other).abs().max() > 0.1


def test_an_item_that_must_do_with_its_text_gains_nothing_by_counts(
    model: TemporalModel, batch: Batch
) -> None:
    silent = copy.deepcopy(model)
    silent.neighbour_weights.zero_()
    silent.factors.zero_()
    for dropout in (0.0, 0.999_999):
        with torch.no_grad():
            found, other = (
                batch_scores(one, batch, identity_dropout=dropout) for one in (model, silent)
            )
        same = torch.isclose(found, other).all(0)
        assert bool(same.all()) is (dropout > 0)
        assert same[~model.learned].all()


def test_people_are_shown_the_counts_of_their_share(model: TemporalModel, batch: Batch) -> None:
    """As if the model had these alone, whatever the other shares know."""
    generator = torch.Generator().manual_seed(0)
    neighbours, weights = model.neighbours, model.neighbour_weights
    known = CooccurrenceTables(
        torch.stack([neighbours.roll(5 * share, 0) for share in range(3)]),
        torch.stack([weights * (1 + share) for share in range(3)]),
        torch.randn(3, *model.factors.shape, generator=generator) * 0.1,
    )
    shares = torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        found = batch_scores(model, batch, VisibleCooccurrence(known, shares))
    rows = batch.positions // batch.requests.newest.shape[1]
    for share in range(3):
        own = copy.deepcopy(model)
        mine = known.fold(share)
        own.neighbours.copy_(mine.neighbours)
        own.neighbour_weights.copy_(mine.weights)
        own.factors.copy_(mine.factors)
        with torch.no_grad():
            expected = batch_scores(own, batch)
        asked = shares[rows] == share
        assert asked.any()
        torch.testing.assert_close(found[asked], expected[asked], rtol=1e-4, atol=1e-4)


def test_without_shares_the_version_s_own_counts_are_shown(
    model: TemporalModel, batch: Batch
) -> None:
    with torch.no_grad():
        found = batch_scores(model, batch)
        same = batch_scores(model, batch, model_cooccurrence(model, batch.requests))
    assert torch.equal(found, same)


def test_no_target_is_in_its_own_request(model: TemporalModel, batch: Batch) -> None:
    """What is read up to the newest column alone gives the same scores: no later item leaks."""
    asked = batch.requests
    width = asked.newest.shape[1]
    with torch.no_grad():
        found = score_requests(model, ScoredRequests(asked, batch.positions, batch.trends))
    for at, place in enumerate(batch.positions.tolist()):
        row, column = divmod(place, width)
        items = asked.items.clone()
        later = torch.arange(items.shape[1]) > asked.newest[row, column]
        items[row, later] = FIRST_ITEM + (items[row, later] + 1) % 120
        with torch.no_grad():
            one = slice(at, at + 1)
            scored = ScoredRequests(
                replace(asked, items=items), batch.positions[one], batch.trends[one]
            )
            other = score_requests(model, scored)
        torch.testing.assert_close(other[0], found[at], rtol=1e-4, atol=1e-4)
