"""Parts of a score are brought into balance on held-out events; nothing else of the model moves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.examples import Examples, ItemTrends
from trainer.examples.batches import Batches
from trainer.network import LOWEST, PARTS, TemporalModel, batch_scores, score_parts
from trainer.training import fit as balancing
from trainer.training.fit import PRIOR_TARGETS, REACH, calibrate, remove_calibration, softmax_loss

SIZE = 16


@pytest.fixture
def held_out(columns: Examples, trended: ItemTrends) -> Batches:
    return Batches(columns, trended, np.ones(len(columns), bool), 8, 16)


def generalised_loss(lost: Tensor) -> Tensor:
    """(1 - p^q) / q of softmax losses, which are -log p."""
    return (1 - torch.exp(-REACH * lost)) / REACH


def weighed_loss(lost: Tensor) -> Tensor:
    """The softmax losses, each with a weight p^q that stays as it is."""
    return torch.exp(-REACH * lost).detach() * lost


def loss(
    model: TemporalModel,
    held_out: Batches,
    scales: Tensor | None = None,
    of: Callable[[Tensor], Tensor] = generalised_loss,
) -> Tensor:
    """Summed over the targets, with the prior of the scales."""
    scales = torch.ones(len(PARTS)).double() if scales is None else scales
    total = PRIOR_TARGETS / 2 * ((scales - 1) ** 2).sum()
    for batch in held_out.epoch(SIZE, np.random.default_rng(0)):
        parts = score_parts(model, batch.scored_requests)
        scores = sum(parts[name].double() * scales[at] for at, name in enumerate(PARTS))
        assert isinstance(scores, Tensor)
        closed = batch.excluded | ~model.recommendable
        total = total + of(softmax_loss(scores.masked_fill(closed, LOWEST), batch)).sum()
    return total


def test_each_part_is_multiplied_by_its_number(model: TemporalModel, held_out: Batches) -> None:
    batch = next(held_out.epoch(SIZE, np.random.default_rng(0)))
    other = copy.deepcopy(model)
    scales = {name: 0.5 + 0.3 * at for at, name in enumerate(PARTS)}
    other.rescale(scales)
    with torch.no_grad():
        before = score_parts(model.eval(), batch.scored_requests)
        after = score_parts(other.eval(), batch.scored_requests)
    assert set(before) == set(PARTS)
    for name in PARTS:
        open_to = before[name] > LOWEST / 2
        assert before[name][open_to].abs().max() > 0.01
        expected = before[name][open_to] * scales[name]
        torch.testing.assert_close(after[name][open_to], expected, rtol=1e-4, atol=1e-5)


def test_the_slope_is_that_of_the_loss(
    model: TemporalModel, held_out: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some requests at a time.
    monkeypatch.setattr(balancing, "_AT_ONCE", 3 * len(PARTS) * model.architecture.items)
    model = model.eval()
    scales = torch.tensor([1.2, 0.8, 0.7, 1.5, 0.9, 1.1]).double()

    with torch.no_grad():
        batches = held_out.epoch(SIZE, np.random.default_rng(0))
        found = balancing._derivatives(model, batches, scales, torch.ones(len(PARTS)))
    gradient = torch.autograd.functional.jacobian(partial(loss, model, held_out), scales)
    curvature = torch.autograd.functional.hessian(
        partial(loss, model, held_out, of=weighed_loss), scales
    )
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.curvature, curvature, rtol=1e-3, atol=1e-2)


def test_a_part_that_weighs_too_little_gets_its_weight_back(
    model: TemporalModel, held_out: Batches
) -> None:
    balanced = copy.deepcopy(model)
    calibrate(balanced, held_out, SIZE)
    spoiled = copy.deepcopy(balanced)
    spoiled.rescale(dict.fromkeys(PARTS, 1.0) | {"trends": 0.5, "prior": 2.0})
    mended = copy.deepcopy(spoiled)
    found = calibrate(mended, held_out, SIZE)
    assert found["trends"] > 1
    assert found["prior"] < 1
    with torch.no_grad():
        values = [loss(one.eval(), held_out) for one in (balanced, mended, spoiled)]
    assert values[1] < values[2]
    assert values[1] - values[0] < (values[2] - values[0]) / 2


def test_without_held_out_events_all_stays_as_it_is(
    model: TemporalModel, columns: Examples, trended: ItemTrends
) -> None:
    other = copy.deepcopy(model)
    nobody = Batches(columns, trended, np.zeros(len(columns), bool), 8, 16)
    found = calibrate(other, nobody, SIZE)
    assert found == dict.fromkeys(PARTS, 1.0)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight)


def test_what_was_balanced_can_learn_on_from_where_it_was(
    model: TemporalModel, held_out: Batches, columns: Examples, trended: ItemTrends
) -> None:
    other = copy.deepcopy(model)
    found = calibrate(other, held_out, SIZE)
    assert max(abs(scale - 1) for scale in found.values()) > 0.1
    torch.testing.assert_close(other.scales, torch.tensor([found[name] for name in PARTS]))
    before = copy.deepcopy(other.state_dict())
    expected = remove_calibration(other)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=1e-4, atol=1e-5)
    # Where nothing says otherwise it is balanced as it was.
    nobody = Batches(columns, trended, np.zeros(len(columns), bool), 8, 16)
    calibrate(other, nobody, SIZE, expected)
    for name, weight in before.items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_scores_are_the_sum_of_their_parts(model: TemporalModel, held_out: Batches) -> None:
    batch = next(held_out.epoch(SIZE, np.random.default_rng(0)))
    with torch.no_grad():
        parts = score_parts(model.eval(), batch.scored_requests)
        found = batch_scores(model, batch)
    open_to = ~batch.excluded
    expected = torch.stack(list(parts.values())).sum(0)
    torch.testing.assert_close(found[open_to], expected[open_to])
