"""Training of `temporal_llm`: full softmax over the items that a person could still take.

B segments, P requests, M requests in all, K targets, N items, T trends, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.examples.batches import Augmentation, Batch, Batches
from trainer.examples.cooccurrence import CooccurrenceCounter
from trainer.metrics import ndcg
from trainer.network import (
    LOWEST,
    Model,
    TemporalModel,
    TrainingOutcome,
    VisibleCooccurrence,
    batch_scores,
    to_device,
)
from trainer.network.devices import autocast
from trainer.network.scoring import rank_targets
from trainer.progress import EpochMetrics, ProgressReporter, TrainingPhase
from trainer.schedule import learning_rate_factor
from trainer.settings import TrainerSettings
from trainer.training.calibration import calibrate, remove_calibration


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
    teacher: Model | None = None


def fit(
    model: TemporalModel, inputs: TrainingInputs, progress: ProgressReporter | None = None
) -> TrainingOutcome:
    """Train in place; the weights of the best epoch on the held-out targets are kept.

    What of the model needs no gradient stays as it is.
    """
    return _Training(model, inputs, progress or ProgressReporter()).run()


@dataclass(frozen=True)
class MicroBatch:
    """A batch and what its people are shown of the counts; None: what the model has."""

    batch: Batch
    shown: VisibleCooccurrence | None


class _Training:
    def __init__(
        self, model: TemporalModel, inputs: TrainingInputs, progress: ProgressReporter
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

    def run(self) -> TrainingOutcome:
        self.started = self.now_s()
        self.progress.start(TrainingPhase.EPOCHS, self.settings.max_seconds)
        best, best_epoch, kept = -1.0, 0, copy.deepcopy(self.average.state_dict())
        for epoch in range(1, self.settings.epochs + 1):
            self._epoch(epoch)
            self.score = held_out_ndcg(self.average, self.inputs.held_out, self.settings.batch_size)
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
        return TrainingOutcome(best_epoch, score, self.now_s() - self.started, self.gradients)

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
            self._step([to_device(MicroBatch(batch, shown(batch)), self.device) for batch in group])
            done = self._fraction_done()
            self._tell(epoch, done)
            if done >= 1:
                break

    def _draw_visible(self) -> Callable[[Batch], VisibleCooccurrence | None]:
        """What each batch is shown in this epoch."""
        if self.inputs.cooccurrence is None:
            return lambda _: None
        dealt, found = self.inputs.cooccurrence.draw_folds(self.generator)
        known = to_device(found, self.device)
        numbers = self.inputs.cooccurrence.numbers
        return lambda batch: VisibleCooccurrence(
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
    model: TemporalModel,
    batches: Sequence[MicroBatch],
    settings: TrainerSettings,
    precision: AbstractContextManager[Any],
    teacher: Model | None = None,
) -> float:
    """Add the gradient of the weighted mean loss over the targets of all batches; that loss."""
    weights = [
        torch.where(one.batch.purchased, settings.purchase_loss_weight, 1.0) for one in batches
    ]
    whole = sum(weight.sum() for weight in weights)
    total = 0.0
    for one, weight in zip(batches, weights, strict=True):
        with precision:
            scores = batch_scores(model, one.batch, one.shown, settings.identity_dropout)
        # An item without events is no negative: nobody has turned it down.
        scores = scores.float().masked_fill(~model.learned, LOWEST)
        losses = softmax_loss(scores, one.batch)
        if teacher is not None:
            with torch.no_grad():
                answers = batch_scores(teacher, one.batch, one.shown).float()
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
def held_out_ndcg(model: Model, batches: Batches, size: int) -> float:
    """NDCG@10 of the held-out targets, each asked for at its own time; 0 where there are none."""
    model.eval()
    gains, count = 0.0, 0
    device = next(model.parameters()).device
    for batch in (to_device(one, device) for one in batches.epoch(size, np.random.default_rng(0))):
        scores = batch_scores(model, batch)
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
    wrong = torch.logsumexp(scores.masked_fill(batch.tied, LOWEST), 1)[batch.rows]
    return nn.functional.softplus(wrong - scores[batch.rows, batch.targets])


def distillation_loss(scores: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the scores of each request with a teacher's answers, float[M].

    G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, at
    temperature 1: as likely as the teacher finds an item, its pupil is to find it.

    Args:
        scores: float[M, N]; what is hidden in them is hidden from the teacher.
        answers: float[M, N].
    """
    likely = torch.softmax(answers.masked_fill(scores <= LOWEST / 2, LOWEST), 1)
    return -(likely * torch.log_softmax(scores, 1)).sum(1)
