"""A language model tuned to a log, so that items that people take together read alike.

A stage of its own before the recommender is trained: reading every item at each of its steps would
cost more than all the rest. The tuned vectors are then as frozen as untuned ones.

B pairs a step, D width of the language model, N texts, n texts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import torch
from headwater_client.errors import DataError
from torch import Tensor, nn
from torch.nn import functional

from features.arrays import Int64Array
from trainer.examples import BoolArray
from trainer.schedule import learning_rate_factor
from trainer.settings import TrainerSettings, TuningMode
from trainer.text.encoder import (
    TextEncoder,
    TunedTextEncoder,
    merge_adapters,
    trainable_weights,
    unfreeze,
)
from trainer.text.pairs import ItemPairs, draw_pairs, item_probabilities

RATES = {TuningMode.LORA: 5e-4, TuningMode.TOP: 1e-4, TuningMode.WHOLE: 2e-5}
# Of cosines.
TEMPERATURE = 0.1
PAIRS_A_STEP = 64
HELD_OUT_ITEMS = 0.1
HELD_OUT_PAIRS = 128
_LOOK_EVERY = 20
_PATIENCE = 3


@dataclass(frozen=True)
class TuningProgress:
    """Where tuning stands after a step; `held_out` is as in `TuningResult`, of this step."""

    step: int
    steps: int
    loss: float
    held_out: float


Report = Callable[[TuningProgress], None]


@dataclass(frozen=True)
class TuningResult(TunedTextEncoder):
    """A tuned language model and how that went.

    Attributes:
        trainable: how many numbers could change.
        step: the one that was kept; 0 if none read items that were left out of it any better.
        held_out: the `misranked_fraction` of pairs with such items, before and at the kept step.
    """

    trainable: int
    step: int
    seconds: float
    held_out: tuple[float, float]


def tune_language_model(
    text_encoder: TextEncoder,
    texts: Sequence[str],
    pairs: ItemPairs,
    settings: TrainerSettings,
    report: Report | None = None,
) -> TuningResult:
    """Tune a copy of the text_encoder; a tenth of the items is left out and tells when to stop.

    Args:
        texts: of all items; the pairs name them by number.

    Raises:
        DataError: there are no pairs to learn from.
    """
    copied, tuning, rank = (
        text_encoder.copy(),
        settings.language_tuning,
        settings.language_lora_rank,
    )
    if tuning is TuningMode.FROZEN:
        return TuningResult(copied, tuning, rank, {}, 0, 0, 0.0, (0.0, 0.0))
    torch.manual_seed(settings.seed)
    unfreeze(copied, settings)
    run = _TuningRun(copied, texts, pairs, settings, report or (lambda _: None))
    found = run.tune()
    weights = trainable_weights(copied)
    merge_adapters(copied, tuning)
    return TuningResult(copied, tuning, rank, weights, run.trainable, *found)


def contrastive_loss(
    one: Tensor, other: Tensor, log_share: Tensor, excluded: Tensor, temperature: float
) -> Tensor:
    """How badly each vector is told its partner among the partners of the batch, both ways.

    A. van den Oord et al.: "Representation Learning with Contrastive Predictive Coding", 2018
    (InfoNCE). What is drawn often is a wrong answer often, which its share takes back: X. Yi et al.
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.

    Args:
        one, other: float[B, D]; row i of each is a pair.
        log_share: float[2, B], the log of the chance to draw the item of `one` and of `other`.
        excluded: bool[B, B], no wrong answers: pairs themselves.
    """
    cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
    right = torch.arange(len(one))
    masked = excluded & ~torch.eye(len(one), dtype=torch.bool)

    def way(logits: Tensor, share: Tensor, mask: Tensor) -> Tensor:
        return functional.cross_entropy((logits - share).masked_fill(mask, -torch.inf), right)

    logits = cosines / temperature
    there, back = way(logits, log_share[1], masked), way(logits.T, log_share[0], masked.T)
    return (there + back) / 2


def misranked_fraction(one: Tensor, other: Tensor, excluded: Tensor) -> float:
    """The share of wrong answers that are nearer than the partner, equally near ones half.

    Chance is 0.5, whatever the scale of the vectors, and so is a collapse to a single one. Where
    vectors are no numbers everything is misplaced: a tuning that diverged is never the best.

    >>> misranked_fraction(torch.eye(2), torch.eye(2), torch.zeros(2, 2, dtype=torch.bool))
    0.0
    """
    cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
    wrong = ~excluded & ~torch.eye(len(one), dtype=torch.bool)
    behind = torch.zeros(())
    for way, counted in ((cosines, wrong), (cosines.T, wrong.T)):
        own = way.diagonal()[:, None]
        behind += ((way < own).float() + (way == own).float() / 2)[counted].sum()
    count = 2 * int(wrong.sum())
    return 1 - behind.item() / count if count else 0.0


@dataclass(frozen=True)
class _EncodedPairs:
    """Pairs as they were read; fields as in `contrastive_loss`, and how far vectors have gone."""

    one: Tensor
    other: Tensor
    log_share: Tensor
    excluded: Tensor
    drift: Tensor


class _TuningRun:
    def __init__(
        self,
        text_encoder: TextEncoder,
        texts: Sequence[str],
        pairs: ItemPairs,
        settings: TrainerSettings,
        report: Report,
    ) -> None:
        self.text_encoder, self.texts, self.pairs = text_encoder, texts, pairs
        self.settings, self.report = settings, report
        self.generator = np.random.default_rng(settings.seed)
        left_out = self.generator.random(len(texts)) < HELD_OUT_ITEMS
        self.learned = pairs.select(~pairs.with_any(left_out))
        if not len(self.learned):
            raise DataError("nothing to tune the language model on: no items were taken together")
        self.cumulated = np.cumsum(self.learned.weights())
        self.log_share = torch.from_numpy(
            np.log(item_probabilities(pairs, len(texts)) + 1e-9)
        ).float()
        self.held_out = self._held_out(left_out)
        self.opened = [
            weight for weight in text_encoder.network.parameters() if weight.requires_grad
        ]
        self.trainable = sum(weight.numel() for weight in self.opened)
        self.rate = settings.language_learning_rate or RATES[settings.language_tuning]
        self.optimizer = torch.optim.AdamW(self.opened, self.rate, weight_decay=0.01)
        # All texts lie in one narrow direction at first; what tells them apart is the rest.
        self.untuned = torch.from_numpy(text_encoder.embeddings(texts))
        self.centre = self.untuned.mean(0)

    def _held_out(self, left_out: BoolArray) -> tuple[Int64Array, Int64Array] | None:
        pairs = self.pairs.select(self.pairs.with_any(left_out))
        if not len(pairs):
            return None
        return draw_pairs(pairs, np.cumsum(pairs.weights()), HELD_OUT_PAIRS, self.generator)

    def tune(self) -> tuple[int, float, tuple[float, float]]:
        """The step kept, seconds, and what is misplaced of what was left out, before and then."""
        started = monotonic()
        before = self.best = self._look()
        self.kept, self.kept_step, self.waited = self._state(), 0, 0
        step, loss = 0, 0.0
        for step, done in self._steps(started):
            loss = self._step(done)
            if step % _LOOK_EVERY == 0:
                self._consider(step, loss)
            if self.waited >= _PATIENCE:
                break
        if step % _LOOK_EVERY:
            self._consider(step, loss)
        self._restore(self.kept)
        return self.kept_step, monotonic() - started, (before, self.best)

    def _consider(self, step: int, loss: float) -> None:
        """Keep what reads the items that were left out better than anything before."""
        held_out = self._look()
        self.report(TuningProgress(step, self.settings.language_max_steps, loss, held_out))
        self.waited += 1
        if held_out < self.best or self.held_out is None:
            self.best, self.kept_step, self.kept, self.waited = held_out, step, self._state(), 0

    def _steps(self, started: float) -> Iterator[tuple[int, float]]:
        """Each step and how much is done before it, by steps or by time."""
        for step in range(self.settings.language_max_steps):
            elapsed = (monotonic() - started) / self.settings.language_max_seconds
            if elapsed >= 1:
                return
            yield step + 1, max(step / self.settings.language_max_steps, elapsed)

    def _step(self, done: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * learning_rate_factor(done, self.settings.warmup_ratio)
        self.text_encoder.network.train()
        pairs = self._read(*draw_pairs(self.learned, self.cumulated, PAIRS_A_STEP, self.generator))
        loss = contrastive_loss(
            pairs.one, pairs.other, pairs.log_share, pairs.excluded, TEMPERATURE
        )
        self.optimizer.zero_grad(set_to_none=True)
        anchored = loss + self.settings.language_anchor_weight * pairs.drift
        anchored.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.opened, self.settings.max_grad_norm)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def _look(self) -> float:
        """How much is misplaced among pairs that were left out, 0 where there are none."""
        self.text_encoder.network.eval()
        if self.held_out is None:
            return 0.0
        pairs = self._read(*self.held_out)
        return misranked_fraction(pairs.one, pairs.other, pairs.excluded)

    def _read(self, one: Int64Array, other: Int64Array) -> _EncodedPairs:
        numbers, rows = np.unique(np.concatenate([one, other]), return_inverse=True)
        with _half_precision():
            vectors = self.text_encoder.encode([self.texts[number] for number in numbers]).float()
        first, second = torch.chunk((vectors - self.centre)[rows], 2)
        return _EncodedPairs(
            first,
            second,
            log_share=self.log_share[np.stack([one, other])],
            excluded=torch.from_numpy(self.pairs.contains(one[:, None], other[None, :])),
            drift=1 - functional.cosine_similarity(vectors, self.untuned[numbers]).mean(),
        )

    def _state(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self.opened]

    @torch.no_grad()
    def _restore(self, kept: Sequence[Tensor]) -> None:
        for weight, value in zip(self.opened, kept, strict=True):
            weight.copy_(value)


@contextmanager
def _half_precision() -> Iterator[None]:
    """Products in bfloat16 where the processor has them: twice as fast."""
    # Not there in every release of torch that will do.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(capabilities.get("amx_bf16"))):
        yield
