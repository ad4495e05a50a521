"""A language model tuned to a log, so that items that people take together read alike.

A stage of its own before the recommender is trained: reading every item at each of its steps would
cost more than all the rest. The tuned vectors are then as frozen as untuned ones.

B pairs a step, D width of the language model, N texts, n texts of a batch.

Items that people take together: what a language model is tuned on.

M pairs, K lookups, N items. An item is its number in a list of texts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from headwater_client.errors import DataError
from headwater_client.events import Interaction
from torch import Tensor, nn
from torch.nn import functional

from features.schema import Int64Array
from trainer.examples import BoolArray
from trainer.examples.cooccurrence import NEARBY_EVENTS, NEARBY_MS
from trainer.schedule import learning_rate_factor
from trainer.settings import TrainerSettings, TuningMode
from trainer.text import encoder

# A pair as one number: half for each item.
_BITS = 31

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ItemPairs:
    """Pairs of different items, each once, ascending: `first` < `second`.

    Attributes:
        first, second: int64[M].
        counts: int64[M], how often the same person took both close together.
    """

    first: Int64Array
    second: Int64Array
    counts: Int64Array

    def __len__(self) -> int:
        return len(self.first)

    def weights(self) -> Weights:
        """How often each is drawn, float[M]: what is popular must not drown the rest.

        The cosine of two items' people: count / sqrt(the one's counts * the other's counts).
        """
        ends = np.concatenate([self.first, self.second])
        totals = np.bincount(ends, np.tile(self.counts, 2))
        found: Weights = self.counts / np.sqrt(totals[self.first] * totals[self.second])
        return found

    def select(self, wanted: BoolArray) -> "ItemPairs":
        """Those of bool[M]."""
        return ItemPairs(self.first[wanted], self.second[wanted], self.counts[wanted])

    def with_any(self, items: BoolArray) -> BoolArray:
        """Which pairs have one of these items, bool[N] to bool[M]."""
        found: BoolArray = items[self.first] | items[self.second]
        return found

    def contains(self, one: Int64Array, other: Int64Array) -> BoolArray:
        """Whether two items are a pair, or the same: int64[...] to bool[...]."""
        keys = _keys(self.first, self.second)
        asked = _keys(np.minimum(one, other), np.maximum(one, other))
        place = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
        found: BoolArray = (keys[place] == asked) | (one == other)
        return found


def find_pairs(events: Iterable[Interaction], numbers: Mapping[str, int]) -> ItemPairs:
    """What the same person took within ten events and an hour; a repeated event counts once.

    Args:
        numbers: the number of each item that matters, by item id.
    """
    people: dict[str, dict[int, int]] = {}
    for event in events:
        number = numbers.get(event.item_id)
        if number is not None:
            people.setdefault(event.user_id, {}).setdefault(number, event.timestamp)
    steps = range(1, NEARBY_EVENTS + 1)
    taken = [_to_arrays(one) for one in people.values()]
    found = [
        _pairs_at_distance(items, times_ms, step) for items, times_ms in taken for step in steps
    ]
    keys, counts = np.unique(np.concatenate([*found, np.zeros(0, np.int64)]), return_counts=True)
    return ItemPairs(keys >> _BITS, keys & (1 << _BITS) - 1, counts.astype(np.int64))


def _keys(first: Int64Array, second: Int64Array) -> Int64Array:
    found: Int64Array = first << _BITS | second
    return found


def _to_arrays(taken: Mapping[int, int]) -> tuple[Int64Array, Int64Array]:
    items, times_ms = np.array(list(taken)), np.array(list(taken.values()))
    order = np.argsort(times_ms, kind="stable")
    return items[order], times_ms[order]


def _pairs_at_distance(items: Int64Array, times_ms: Int64Array, step: int) -> Int64Array:
    """The keys of the pairs that are so many events apart."""
    one, other = items[:-step], items[step:]
    close = times_ms[step:] - times_ms[:-step] < NEARBY_MS
    return _keys(np.minimum(one, other), np.maximum(one, other))[close]


def item_probabilities(pairs: ItemPairs, items: int) -> Weights:
    """The chance of each item to be either end of a drawn pair, float[N]."""
    weights = pairs.weights()
    found = np.bincount(pairs.first, weights, items) + np.bincount(pairs.second, weights, items)
    chances: Weights = found / found.sum()
    return chances


def draw_pairs(
    pairs: ItemPairs, cumulated: Weights, size: int, generator: np.random.Generator
) -> tuple[Int64Array, Int64Array]:
    """Some pairs by their weights, either way round: int64[size] each.

    Args:
        cumulated: the running sum of the pairs' weights.
    """
    places = np.searchsorted(cumulated, generator.random(size) * cumulated[-1])
    places = places.clip(max=len(pairs) - 1)
    turned = generator.random(size) < 0.5
    one, other = pairs.first[places], pairs.second[places]
    return np.where(turned, other, one), np.where(turned, one, other)


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
class TuningResult(encoder.TunedTextEncoder):
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
    text_encoder: encoder.TextEncoder,
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
    encoder.unfreeze(copied, settings)
    run = _TuningRun(copied, texts, pairs, settings, report or (lambda _: None))
    found = run.tune()
    weights = encoder.trainable_weights(copied)
    encoder.merge_adapters(copied, tuning)
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
        text_encoder: encoder.TextEncoder,
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
