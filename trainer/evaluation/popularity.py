"""Popularity that fades with a half-life: the baseline that a model has to beat. N items.

`popularity_scores` reads it from the trending counters that a batch carries; `DecayedPopularity`
counts it by itself, for what has no batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from features.arrays import Float64Array
from features.schema import FeatureSchema
from trainer.examples.batches import Batch
from trainer.network.layers import LOWEST


def popularity_scores(batch: Batch, schema: FeatureSchema) -> Tensor:
    """Decayed popularity as of each request, forbidden items lowest: float[M, N]."""
    return batch.trends[:, schema.trending_index].masked_fill(batch.excluded, LOWEST)


class DecayedPopularity:
    """Counts of items that fade; what is added has to come in the order of time.

    Args:
        items: how many there are.
        half_life: in the unit of the times that are given.

    >>> popularity = DecayedPopularity(2, half_life=7.0)
    >>> popularity.add(np.array([0, 1, 1]), np.array([0.0, 0.0, 7.0]))
    >>> popularity.scores(time=14.0)
    array([0.25, 0.75])
    """

    def __init__(self, items: int, half_life: float) -> None:
        self._half_life = half_life
        # Each count as of a time of its own: an event then costs the same however many items.
        self._counts = np.zeros(items)
        self._times = np.zeros(items)

    def add(self, items: Any, times: Any, weights: Any = 1.0) -> None:
        """Count some events, int64[M] and float64[M], or one; all as of the newest of their times.

        Args:
            weights: of each, or of all.
        """
        items, times = np.atleast_1d(items), np.atleast_1d(times)
        if not len(items):
            return
        now = times[-1]
        changed = np.unique(items)
        self._counts[changed] *= self._decay(self._times[changed], now)
        self._times[changed] = now
        np.add.at(self._counts, items, weights * self._decay(times, now))

    def scores(self, time: float) -> Float64Array:
        """The counts as of a time, not before that of the newest event: float64[N]."""
        scores: Float64Array = self._counts * self._decay(self._times, time)
        return scores

    def _decay(self, since: Any, until: Any) -> Any:
        return np.exp2((since - until) / self._half_life)
