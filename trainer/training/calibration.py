"""The parts of a score brought into balance on events that were held out.

K parts, k requests of a batch, N items, t targets.

In training, taste is judged on what it has learned by heart, while counts are those of other people
(`trainer.examples.cooccurrence`). So taste seems surer than it is, and the rest weighs too little.
What each part is worth where nothing was learned is a number a part: stacking (D. Wolpert, "Stacked
generalization", Neural Networks 1992), here softmax regression on the parts' scores. Each target
weighs its probability to the power q, which makes the loss (1 - p^q) / q (Z. Zhang, M. Sabuncu,
"Generalized cross entropy loss", NeurIPS 2018): what is far out of reach decides less, as it does
in a top 10. The numbers go into the weights of the model: the graph stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.examples.batches import Batch, Batches
from trainer.network import LOWEST, PARTS, TemporalModel, score_parts, to_device
from trainer.progress import ProgressReporter, TrainingPhase

ITERATIONS = 8
# q: 0 would be the softmax's own loss, 1 the share of targets that are hit.
REACH = 0.5
# A part is worth what was expected until so many targets say otherwise, and never next to nothing.
PRIOR_TARGETS = 20.0
LEAST = 0.05
# Numbers of all parts and items that are worked on at once.
_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class _Derivatives:
    """Of the loss summed over targets: its gradient float64[K] and Hessian float64[K, K]."""

    gradient: Tensor
    curvature: Tensor

    def __add__(self, other: _Derivatives) -> _Derivatives:
        return _Derivatives(self.gradient + other.gradient, self.curvature + other.curvature)


@torch.no_grad()
def calibrate(
    model: TemporalModel,
    held_out: Batches,
    size: int,
    expected: Tensor | None = None,
    progress: ProgressReporter | None = None,
) -> dict[str, float]:
    """Bring a trained model into balance, in place; what each part was multiplied by.

    Args:
        held_out: events that were not learned from; where there are none, all is as expected.
        size: segments of a batch.
        expected: float[K], what the parts are likely to be worth; default: 1.
    """
    model.eval()
    prior = torch.ones(len(PARTS)) if expected is None else expected
    prior = scales = prior.double().cpu()
    progress = progress or ProgressReporter()
    progress.start(TrainingPhase.CALIBRATION)
    for iteration in range(ITERATIONS):
        batches = _track_batches(held_out, size, iteration, progress)
        slope = _derivatives(model, batches, scales, prior)
        step = torch.linalg.solve(slope.curvature, slope.gradient)
        scales = (scales - step).clamp(min=LEAST)
    found = dict(zip(PARTS, scales.tolist(), strict=True))
    model.rescale(found)
    return found


def remove_calibration(model: TemporalModel) -> Tensor:
    """Take the balance out of a model that is to learn on, in place; what it was, float[K].

    A balanced model is surer than training would have it: learning on from there would first undo
    that, and more.
    """
    found = model.scales.clone()
    model.rescale({name: 1 / scale for name, scale in zip(PARTS, found.tolist(), strict=True)})
    return found


def _track_batches(
    held_out: Batches, size: int, iteration: int, progress: ProgressReporter
) -> Iterator[Batch]:
    """The batches of held-out events, the same in each iteration."""
    count = max(1, -(-held_out.segment_count() // size))
    for number, batch in enumerate(held_out.epoch(size, np.random.default_rng(0)), 1):
        yield batch
        progress.update((iteration + min(1.0, number / count)) / ITERATIONS)


def _derivatives(
    model: TemporalModel, batches: Iterable[Batch], scales: Tensor, prior: Tensor
) -> _Derivatives:
    """At these scales, with what is expected of them."""
    total = _Derivatives(
        PRIOR_TARGETS * (scales - prior),
        PRIOR_TARGETS * torch.eye(len(scales), dtype=torch.float64),
    )
    device = next(model.parameters()).device
    for batch in batches:
        total = total + _batch_derivatives(model, to_device(batch, device), scales)
    return total


def _batch_derivatives(model: TemporalModel, batch: Batch, scales: Tensor) -> _Derivatives:
    count = len(scales)
    total = _Derivatives(torch.zeros(count).double(), torch.zeros(count, count).double())
    at_once = max(1, _AT_ONCE // (count * batch.excluded.shape[1]))
    found = score_parts(model, batch.scored_requests)
    nothing = torch.zeros_like(found["taste"])
    for at in range(0, len(batch.positions), at_once):
        rows = torch.arange(at, min(at + at_once, len(batch.positions)), device=batch.rows.device)
        parts = torch.stack([found.get(name, nothing)[rows] for name in PARTS], 1)
        total = total + _request_derivatives(model, batch, rows, parts, scales)
    return total


def _request_derivatives(
    model: TemporalModel, batch: Batch, rows: Tensor, parts: Tensor, scales: Tensor
) -> _Derivatives:
    """Args: rows: int64[k], requests of the batch; parts: float[k, K, N], their scores."""
    closed = batch.excluded[rows] | ~model.recommendable
    parts = parts.masked_fill(closed[:, None], 0.0)
    scores = torch.einsum("kpn,p->kn", parts, scales.to(parts))
    # Where nothing is left to be wrong, nothing is missed.
    wrong = scores.masked_fill(closed | batch.tied[rows], LOWEST)
    of_wrong = torch.logsumexp(wrong, 1)
    shares = torch.softmax(wrong, 1)
    mean = torch.einsum("kpn,kn->kp", parts, shares)
    spread = torch.einsum("kpn,kqn->kpq", parts * shares[:, None], parts)
    spread = spread - mean[:, :, None] * mean[:, None, :]

    mine = (batch.rows >= rows[0]) & (batch.rows <= rows[-1])
    place, item = batch.rows[mine] - rows[0], batch.targets[mine]
    known = ~closed[place, item]
    place, item = place[known], item[known]
    own = parts[place, :, item]
    missed = torch.sigmoid(of_wrong[place] - scores[place, item])
    ahead = mean[place] - own
    found = 1 - missed
    heeded = found**REACH * missed
    # As if a target's weight did not change with the scales: so it is never below 0.
    curvature = torch.einsum("t,tpq->pq", heeded, spread[place])
    curvature = curvature + torch.einsum("t,tp,tq->pq", heeded * found, ahead, ahead)
    return _Derivatives((heeded[:, None] * ahead).sum(0).double().cpu(), curvature.double().cpu())
