"""Intervals around what is expected of many series of counts, learned from what came.

The interval is conformal (V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random
World", 2005): where among past errors of series of about the same size, scaled by the standard
deviation that a negative binomial has, the outer 5 % on each side began. Its levels are moved by
how often they failed (I. Gibbs, E. Candès, "Adaptive Conformal Inference Under Distribution Shift",
NeurIPS 2021), and only ever outwards from 5 %: counts are whole, and a bound that is too wide for
them must not be taken for a reserve.

S series, B bins of size, C cells of scaled errors.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from features.schema import Float64Array, Int64Array

LEVEL = 0.9
"""How often an interval holds what comes, at least."""

LEARNED_DAYS = 112.0
"""Half-life of what is learned."""

# By the mean that is expected: series of one bin share their errors.
_SIZES = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0])
_BINS = len(_SIZES) + 1
# Scaled errors: cells of a twentieth of a standard deviation, from -10 to 50.
_CELL, _LOWEST, _CELLS = 0.05, -10.0, 1200
_LEAST_ERRORS = 60.0
_STEP = 0.03
_LEAST_VARIANCE = 0.02


class Forecast(NamedTuple):
    """Of so many days from one on: float64[S] each.

    `low` to `high`, both of them among it, holds what comes with probability `LEVEL` at least.
    """

    mean: Float64Array
    low: Float64Array
    high: Float64Array
    median: Float64Array


class PredictionIntervals:
    """What errors were like, by size of the series; for one horizon.

    Args:
        days: of the horizon.
    """

    def __init__(self, days: int) -> None:
        self._left = 0.5 ** (days / LEARNED_DAYS)
        # Before any error is known: a skewed bell somewhat wider than the normal one.
        normal = [NormalDist(0, 1.3).inv_cdf((at + 0.5) / 20) for at in range(20)]
        first = np.bincount(_cells(np.array(normal)), minlength=_CELLS).astype(np.float64)
        self._errors = np.tile(first, (_BINS, 1))
        self._tails = np.full((_BINS, 2), (1 - LEVEL) / 2)
        self._over = self._squares = self._periods = 0.0
        self._days = days

    def make(self, mean: Float64Array) -> Forecast:
        """The interval and the median around what is expected, float64[S]."""
        spread, sizes = self._spread(mean) * self._doubt(), _size_bins(mean)
        low, middle, high = (
            edges[sizes]
            for edges in (
                self._quantiles(self._tails[:, 0]),
                self._quantiles(np.full(_BINS, 0.5)),
                self._quantiles(1 - self._tails[:, 1]) + _CELL,
            )
        )
        low, middle, high = (np.maximum(0.0, mean + each * spread) for each in (low, middle, high))
        # Of small counts most are one number, such as 0, and their scaled errors differ by their
        # means alone: the bound of that bin's others would cut that number off. So it is rounded
        # outwards.
        low = np.floor(low)
        return Forecast(mean, low, np.maximum(low, np.floor(high)), np.floor(middle + 0.5))

    def learn(self, made: Forecast, actual: Float64Array) -> None:
        """Take in what came."""
        # Weeks overlap: seven of them are one.
        self._periods += 1 / self._days
        sizes = _size_bins(made.mean)
        self._move_tails(sizes, made, actual)
        scaled = (actual - made.mean) / self._spread(made.mean)
        cells = np.bincount(sizes * _CELLS + _cells(scaled), minlength=_BINS * _CELLS)
        self._errors = self._left * self._errors + cells.reshape(_BINS, _CELLS)
        self._over = self._left * self._over + float(((actual - made.mean) ** 2 - made.mean).sum())
        self._squares = self._left * self._squares + float((made.mean**2).sum())

    def _move_tails(self, sizes: Int64Array, made: Forecast, actual: Float64Array) -> None:
        counts = np.bincount(sizes, minlength=_BINS)
        outer = (1 - LEVEL) / 2
        for side, missed in enumerate((actual < made.low, actual > made.high)):
            share = np.bincount(sizes, missed, _BINS) / np.maximum(counts, 1)
            moved = self._tails[:, side] + _STEP * (outer - share) * (counts > 0)
            self._tails[:, side] = moved.clip(outer / 20, outer)

    def _doubt(self) -> float:
        """How much wider an interval is while few periods have been seen.

        What all series have in common is known from these alone: Student's t over the normal
        quantile, to the first order of the Cornish-Fisher expansion.
        """
        square = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
        return 1 + (square + 1) / (4 * max(1.0, self._periods))

    def _spread(self, mean: Float64Array) -> Float64Array:
        """The standard deviation of a negative binomial: sqrt(mean + dispersion * mean**2)."""
        dispersion = min(10.0, max(0.0, self._over / self._squares)) if self._squares else 1.0
        spread: Float64Array = np.sqrt(mean + dispersion * mean**2 + _LEAST_VARIANCE)
        return spread

    def _quantiles(self, levels: Float64Array) -> Float64Array:
        """The lower edge of the cell in which each bin's quantile lies, float64[B]."""
        summed = np.stack([self._gather(at) for at in range(_BINS)]).cumsum(1)
        total = summed[:, -1:]
        # The place of the quantile among n + 1, as conformal prediction has it.
        sought = np.where(
            levels[:, None] > 0.5, levels[:, None] * (total + 1), levels[:, None] * (total - 1)
        )
        found = (summed < sought.clip(1e-9, total)).sum(1)
        edges: Float64Array = _LOWEST + _CELL * found
        return edges

    def _gather(self, at: int) -> Float64Array:
        """The errors of a bin, and of those beside it where it has too few."""
        for reach in range(_BINS):
            near = self._errors[max(0, at - reach) : at + reach + 1].sum(0)
            if near.sum() >= _LEAST_ERRORS:
                break
        gathered: Float64Array = near
        return gathered


def _cells(scaled: Float64Array) -> Int64Array:
    cells: Int64Array = ((scaled - _LOWEST) / _CELL).astype(np.int64).clip(0, _CELLS - 1)
    return cells


def _size_bins(mean: Float64Array) -> Int64Array:
    bins: Int64Array = np.searchsorted(_SIZES, mean)
    return bins
