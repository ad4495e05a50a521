"""Training of `temporal_llm`: full softmax over the items that a person could still take.

B segments, P requests, M requests in all, K targets, N items, T trends, D width.

The parts of a score brought into balance on events that were held out.

K parts, k requests of a batch, N items, t targets.

In training, taste is judged on what it has learned by heart, while counts are those of other people
(`trainer.examples.cooccurrence`). So taste seems surer than it is, and the rest weighs too little.
What each part is worth where nothing was learned is a number a part: stacking (D. Wolpert, "Stacked
generalization", Neural Networks 1992), here softmax regression on the parts' scores. Each target
weighs its probability to the power q, which makes the loss (1 - p^q) / q (Z. Zhang, M. Sabuncu,
"Generalized cross entropy loss", NeurIPS 2018): what is far out of reach decides less, as it does
in a top 10. The numbers go into the weights of the model: the graph stays as it is.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer import network
from trainer.examples.batches import Augmentation, Batch, Batches
from trainer.examples.cooccurrence import CooccurrenceCounter
from trainer.metrics import ndcg
from trainer.network.devices import autocast
from trainer.network.scoring import rank_targets
from trainer.progress import EpochMetrics, ProgressReporter, TrainingPhase
from trainer.schedule import learning_rate_factor
from trainer.settings import TrainerSettings

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

    def __add__(self, other: "_Derivatives") -> "_Derivatives":
        return _Derivatives(self.gradient + other.gradient, self.curvature + other.curvature)


@torch.no_grad()
def calibrate(
    model: network.TemporalModel,
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
    prior = torch.ones(len(network.PARTS)) if expected is None else expected
    prior = scales = prior.double().cpu()
    progress = progress or ProgressReporter()
    progress.start(TrainingPhase.CALIBRATION)
    for iteration in range(ITERATIONS):
        batches = _track_batches(held_out, size, iteration, progress)
        slope = _derivatives(model, batches, scales, prior)
        step = torch.linalg.solve(slope.curvature, slope.gradient)
        scales = (scales - step).clamp(min=LEAST)
    found = dict(zip(network.PARTS, scales.tolist(), strict=True))
    model.rescale(found)
    return found


def remove_calibration(model: network.TemporalModel) -> Tensor:
    """Take the balance out of a model that is to learn on, in place; what it was, float[K].

    A balanced model is surer than training would have it: learning on from there would first undo
    that, and more.
    """
    found = model.scales.clone()
    model.rescale(
        {name: 1 / scale for name, scale in zip(network.PARTS, found.tolist(), strict=True)}
    )
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
    model: network.TemporalModel, batches: Iterable[Batch], scales: Tensor, prior: Tensor
) -> _Derivatives:
    """At these scales, with what is expected of them."""
    total = _Derivatives(
        PRIOR_TARGETS * (scales - prior),
        PRIOR_TARGETS * torch.eye(len(scales), dtype=torch.float64),
    )
    device = next(model.parameters()).device
    for batch in batches:
        total = total + _batch_derivatives(model, network.to_device(batch, device), scales)
    return total


def _batch_derivatives(model: network.TemporalModel, batch: Batch, scales: Tensor) -> _Derivatives:
    count = len(scales)
    total = _Derivatives(torch.zeros(count).double(), torch.zeros(count, count).double())
    at_once = max(1, _AT_ONCE // (count * batch.excluded.shape[1]))
    found = network.score_parts(model, batch.scored_requests)
    nothing = torch.zeros_like(found["taste"])
    for at in range(0, len(batch.positions), at_once):
        rows = torch.arange(at, min(at + at_once, len(batch.positions)), device=batch.rows.device)
        parts = torch.stack([found.get(name, nothing)[rows] for name in network.PARTS], 1)
        total = total + _request_derivatives(model, batch, rows, parts, scales)
    return total


def _request_derivatives(
    model: network.TemporalModel, batch: Batch, rows: Tensor, parts: Tensor, scales: Tensor
) -> _Derivatives:
    """Args: rows: int64[k], requests of the batch; parts: float[k, K, N], their scores."""
    closed = batch.excluded[rows] | ~model.recommendable
    parts = parts.masked_fill(closed[:, None], 0.0)
    scores = torch.einsum("kpn,p->kn", parts, scales.to(parts))
    # Where nothing is left to be wrong, nothing is missed.
    wrong = scores.masked_fill(closed | batch.tied[rows], network.LOWEST)
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


@dataclass(frozen=True)
class TrainingInputs:
    """What a model, or each member of an ensemble, learns from, and how.

    Attributes:
        held_out: targets that `learned` does not have.
        cooccurrence: of what is learned from; None for a model without.
        live_fraction: of the weights that a model which goes on learning has, in those that it ends
            with.
        teacher: a model of the same items, whose answers are learned, too.
    """

    learned: Batches
    held_out: Batches
    settings: TrainerSettings
    cooccurrence: CooccurrenceCounter | None = None
    live_fraction: float = 0.0
    teacher: network.Model | None = None


def fit(
    model: network.TemporalModel, inputs: TrainingInputs, progress: ProgressReporter | None = None
) -> network.TrainingOutcome:
    """Train in place; the weights of the best epoch on the held-out targets are kept.

    What of the model needs no gradient stays as it is.
    """
    return _Training(model, inputs, progress or ProgressReporter()).run()


@dataclass(frozen=True)
class MicroBatch:
    """A batch and what its people are shown of the counts; None: what the model has."""

    batch: Batch
    shown: network.VisibleCooccurrence | None


class _Training:
    def __init__(
        self, model: network.TemporalModel, inputs: TrainingInputs, progress: ProgressReporter
    ) -> None:
        self.model = model
        self.calibrated = remove_calibration(model)
        self.average = copy.deepcopy(model)
        self.inputs = inputs
        self.settings = settings = inputs.settings
        kept = model.parameters() if inputs.live_fraction else ()
        self.live = [weight.detach().clone() for weight in kept]
        self.progress = progress
        self.generator = np.random.default_rng(settings.seed)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True
        )
        self.device = next(model.parameters()).device
        self.teacher = inputs.teacher.to(self.device).eval() if inputs.teacher else None
        self.precision = autocast(settings, self.device)
        a_step = settings.batch_size * settings.gradient_accumulation_steps
        per_epoch = max(1, -(-inputs.learned.segment_count() // a_step))
        self.planned_steps = self.total_steps = per_epoch * settings.epochs
        self.step = self.gradients = 0
        self.now_s = progress.now_s
        self.loss = self.learning_rate = self.gradient_norm = 0.0
        self.score: float | None = None

    def run(self) -> network.TrainingOutcome:
        self.started = self.now_s()
        self.progress.start(TrainingPhase.EPOCHS, self.settings.max_seconds)
        best, best_epoch, kept = -1.0, 0, copy.deepcopy(self.average.state_dict())
        curve: list[network.EpochOutcome] = []
        for epoch in range(1, self.settings.epochs + 1):
            self._epoch(epoch)
            self.score = held_out_ndcg(self.average, self.inputs.held_out, self.settings.batch_size)
            curve.append(network.EpochOutcome(epoch, self.loss, self.score))
            # Where nothing is held out, the last one is kept.
            if self.score > best or not self.inputs.held_out.targets.any():
                best, best_epoch = self.score, epoch
                kept = copy.deepcopy(self.average.state_dict())
            self._plan_steps()
            self._tell(epoch, self._fraction_done(), epoch_ends=True)
            if self._fraction_done() >= 1 or epoch - best_epoch >= self.settings.patience:
                break
        self.model.load_state_dict(kept)
        self._blend_with_live()
        size = self.settings.batch_size
        calibrate(self.model, self.inputs.held_out, size, self.calibrated, self.progress)
        score = held_out_ndcg(self.model, self.inputs.held_out, self.settings.batch_size)
        seconds = self.now_s() - self.started
        return network.TrainingOutcome(best_epoch, score, seconds, self.gradients, tuple(curve))

    def _epoch(self, epoch: int) -> None:
        self.model.train()
        shown = self._draw_visible()
        batches = self.inputs.learned.epoch(
            self.settings.batch_size,
            self.generator,
            Augmentation(
                self.settings.immediate_request_fraction,
                self.settings.unknown_item_fraction,
                self.settings.split_tie_fraction,
            ),
        )
        for group in group_batches(batches, self.settings.gradient_accumulation_steps):
            self._step(
                [network.to_device(MicroBatch(batch, shown(batch)), self.device) for batch in group]
            )
            done = self._fraction_done()
            self._tell(epoch, done)
            if done >= 1:
                break

    def _draw_visible(self) -> Callable[[Batch], network.VisibleCooccurrence | None]:
        """What each batch is shown in this epoch."""
        if self.inputs.cooccurrence is None:
            return lambda _: None
        dealt, found = self.inputs.cooccurrence.draw_folds(self.generator)
        known = network.to_device(found, self.device)
        numbers = self.inputs.cooccurrence.numbers
        return lambda batch: network.VisibleCooccurrence(
            known, torch.from_numpy(dealt[np.searchsorted(numbers, batch.users.numpy())])
        )

    def _tell(self, epoch: int, done: float, *, epoch_ends: bool = False) -> None:
        metrics = EpochMetrics(
            epoch,
            self.settings.epochs,
            done,
            self.loss,
            self.score,
            self.step,
            self.learning_rate,
            self.gradient_norm,
            epoch_ends,
        )
        self.progress.update(done, metrics)

    def _step(self, batches: Sequence[MicroBatch]) -> None:
        self.learning_rate = self.settings.learning_rate * learning_rate_factor(
            self._fraction_done(), self.settings.warmup_ratio
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = accumulate_gradients(
            self.model, batches, self.settings, self.precision, self.teacher
        )
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.gradient_norm = norm.item()
        self.optimizer.step()
        self.step += 1
        self.gradients += sum(len(one.batch.targets) for one in batches)
        self._update_average()
        self.loss = 0.98 * (self.loss or loss) + 0.02 * loss

    @torch.no_grad()
    def _blend_with_live(self) -> None:
        """Average with the weights before: what single steps got wrong is halved, window by window.

        M. Zhang, J. Lucas, G. Hinton, J. Ba: "Lookahead optimizer: k steps forward, 1 step back",
        NeurIPS 2019. A weight of 0 has learned nothing before, such as those of a new item.
        """
        if self.inputs.live_fraction:
            for weight, live in zip(self.model.parameters(), self.live, strict=True):
                blended = weight.lerp(live, self.inputs.live_fraction)
                weight.copy_(torch.where(live == 0, weight, blended))

    @torch.no_grad()
    def _update_average(self) -> None:
        """The average is of fewer steps at first: else it would remember the untrained weights."""
        decay = min(self.settings.ema_decay, self.step / (self.step + 9))
        for averaged, weight in zip(
            self.average.parameters(), self.model.parameters(), strict=True
        ):
            averaged.lerp_(weight, 1 - decay)

    def _plan_steps(self) -> None:
        """Fewer steps where the time will not do for all, so that the learning rate still falls."""
        elapsed = self.now_s() - self.started
        affordable = int(self.step * self.settings.max_seconds / max(elapsed, 1e-9))
        self.total_steps = min(self.planned_steps, affordable)

    def _fraction_done(self) -> float:
        """How much of the steps is done; all of them when the time is over."""
        over = self.now_s() - self.started > self.settings.max_seconds
        return 1.0 if over else min(1.0, self.step / self.total_steps)


def accumulate_gradients(
    model: network.TemporalModel,
    batches: Sequence[MicroBatch],
    settings: TrainerSettings,
    precision: AbstractContextManager[Any],
    teacher: network.Model | None = None,
) -> float:
    """Add the gradient of the weighted mean loss over the targets of all batches; that loss."""
    weights = [
        torch.where(one.batch.purchased, settings.purchase_loss_weight, 1.0) for one in batches
    ]
    whole = sum(weight.sum() for weight in weights)
    total = 0.0
    for one, weight in zip(batches, weights, strict=True):
        with precision:
            scores = network.batch_scores(model, one.batch, one.shown, settings.identity_dropout)
        # An item without events is no negative: nobody has turned it down.
        scores = scores.float().masked_fill(~model.learned, network.LOWEST)
        losses = softmax_loss(scores, one.batch)
        if teacher is not None:
            with torch.no_grad():
                answers = network.batch_scores(teacher, one.batch, one.shown).float()
            taught = distillation_loss(scores, answers)[one.batch.rows]
            losses = losses.lerp(taught, settings.distillation_weight)
        loss = (losses * weight).sum() / whole
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def group_batches(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """So many batches at a time; the last group may be smaller."""
    left = iter(batches)
    while group := list(islice(left, size)):
        yield group


@torch.no_grad()
def held_out_ndcg(model: network.Model, batches: Batches, size: int) -> float:
    """NDCG@10 of the held-out targets, each asked for at its own time; 0 where there are none."""
    model.eval()
    gains, count = 0.0, 0
    device = next(model.parameters()).device
    for batch in (
        network.to_device(one, device) for one in batches.epoch(size, np.random.default_rng(0))
    ):
        scores = network.batch_scores(model, batch)
        ranks = rank_targets(scores, batch.rows, batch.targets, batch.tied)
        gains += float(ndcg(ranks.double().cpu().numpy()).sum())
        count += len(ranks)
    return gains / count if count else 0.0


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay, biases and norms do not; what needs no gradient is neither."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in learning if weight.dim() > 1]
    others = [weight for weight in learning if weight.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def softmax_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each target over all items but the others of its instant: float[K].

    Args:
        scores: float[M, N].
    """
    wrong = torch.logsumexp(scores.masked_fill(batch.tied, network.LOWEST), 1)[batch.rows]
    return nn.functional.softplus(wrong - scores[batch.rows, batch.targets])


def distillation_loss(scores: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the scores of each request with a teacher's answers, float[M].

    G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, at
    temperature 1: as likely as the teacher finds an item, its pupil is to find it.

    Args:
        scores: float[M, N]; what is hidden in them is hidden from the teacher.
        answers: float[M, N].
    """
    likely = torch.softmax(answers.masked_fill(scores <= network.LOWEST / 2, network.LOWEST), 1)
    return -(likely * torch.log_softmax(scores, 1)).sum(1)
