"""Items that people take together: what a language model is tuned on.

M pairs, K lookups, N items. An item is its number in a list of texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from headwater_client.events import Interaction

from features.arrays import Int64Array
from trainer.examples import BoolArray
from trainer.examples.cooccurrence import NEARBY_EVENTS, NEARBY_MS

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

    def select(self, wanted: BoolArray) -> ItemPairs:
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
