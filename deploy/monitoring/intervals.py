"""Intervals around what is expected of many series of counts, learned from what came.

The interval is conformal (V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random
World", 2005): where among past errors of series of about the same size, scaled by the standard
deviation that a negative binomial has, the outer 5 % on each side began.

Errors of one day are not many but nearly one: where everybody comes, or nobody does, all series
err alike, and weeks of which one begins each day overlap. So the level is corrected for the number
of *independent* errors n, to (1 - .05) * (n + 1) / n. For errors that have nothing in common n is
their number, as conformal prediction has it; for series that err as one it is the number of
periods, as for groups (Y. Lee, R. F. Barber, R. Willett, "Distribution-free inference with
hierarchical data", 2023). Between them it is the effective size of a cluster sample, by the
correlation of errors within a period (L. Kish, "Survey Sampling", 1965). Below 19 periods that err
as one there is no such level: then the bound is the largest error so far, and two and a half
standard deviations at least.

S series, B bins of size, C cells of scaled errors.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from features.schema import Float64Array, Int64Array

LEVEL = 0.9
"""How often an interval holds what comes, at least."""

# By the mean that is expected: series of one bin share their errors.
_SIZES = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0])
_BINS = len(_SIZES) + 1
# Scaled errors: cells of a twentieth of a standard deviation, from -10 to 50.
_CELL, _LOWEST, _CELLS = 0.05, -10.0, 1200
_LEAST_ERRORS = 60.0
_LEAST_VARIANCE = 0.02
# Beyond these an error says nothing more of what errors have in common.
_CLIP = (-2.5, 4.0)


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

    Nothing of it is forgotten: a forecast is made anew each day from the days that are kept, and
    weeks are few.

    Args:
        days: of the horizon.
    """

    def __init__(self, days: int) -> None:
        # Before any error is known: a bell somewhat wider than the normal one.
        normal = [NormalDist(0, 1.3).inv_cdf((at + 0.5) / 20) for at in range(20)]
        first = np.bincount(_cells(np.array(normal)), minlength=_CELLS).astype(np.float64)
        self._errors = np.tile(first, (_BINS, 1))
        self._clusters = np.zeros((_BINS, len(_ClusterSums._fields)))
        self._over = self._squares = 0.0
        self._days = days

    def make(self, mean: Float64Array) -> Forecast:
        """The interval and the median around what is expected, float64[S]."""
        spread, sizes = self._spread(mean), _size_bins(mean)
        edges = np.zeros((_BINS, 3))
        for at in np.unique(sizes).tolist():
            edges[at] = self._find_edges(at)
        low, middle, high = (np.maximum(0.0, mean + each * spread) for each in edges[sizes].T)
        # Of small counts most are one number, such as 0, and their scaled errors differ by their
        # means alone: the bound of that bin's others would cut that number off. So it is rounded
        # outwards.
        low = np.floor(low)
        return Forecast(mean, low, np.maximum(low, np.floor(high)), np.floor(middle + 0.5))

    def learn(self, made: Forecast, actual: Float64Array) -> None:
        """Take in what came of a forecast; one a day."""
        sizes = _size_bins(made.mean)
        scaled = (actual - made.mean) / self._spread(made.mean)
        cells = np.bincount(sizes * _CELLS + _cells(scaled), minlength=_BINS * _CELLS)
        self._errors += cells.reshape(_BINS, _CELLS)
        clipped = scaled.clip(*_CLIP)
        count = np.bincount(sizes, minlength=_BINS).astype(np.float64)
        total = np.bincount(sizes, clipped, _BINS)
        self._clusters += np.stack(
            [
                count > 0,
                count,
                total,
                total**2 / np.maximum(count, 1),
                np.bincount(sizes, clipped**2, _BINS),
            ],
            1,
        )
        self._over += float(((actual - made.mean) ** 2 - made.mean).sum())
        self._squares += float((made.mean**2).sum())

    def _spread(self, mean: Float64Array) -> Float64Array:
        """The standard deviation of a negative binomial: sqrt(mean + dispersion * mean**2)."""
        dispersion = min(10.0, max(0.0, self._over / self._squares)) if self._squares else 1.0
        spread: Float64Array = np.sqrt(mean + dispersion * mean**2 + _LEAST_VARIANCE)
        return spread

    def _find_edges(self, at: int) -> Float64Array:
        """Where the scaled errors of a bin have their lower bound, median and upper bound."""
        near = self._gather(at)
        independent = self._clusters[near].sum(0)
        # A bin is empty on some days; what lies beside it was not.
        independent[0] = self._clusters[near, 0].max()
        summed = self._errors[near].sum(0).cumsum()
        inside = (1 + LEVEL) / 2
        size = count_independent(_ClusterSums(*independent.tolist()), self._days)
        level = min(1.0, inside * (size + 1) / size)
        sought = np.array([1 - level, 0.5, level]) * summed[-1]
        found = np.searchsorted(summed, sought.clip(1e-9, summed[-1]))
        edges: Float64Array = _LOWEST + _CELL * found
        edges[2] += _CELL
        return edges

    def _gather(self, at: int) -> slice:
        """A bin, and those beside it where it has too few errors."""
        for reach in range(_BINS):
            near = slice(max(0, at - reach), at + reach + 1)
            if self._errors[near].sum() >= _LEAST_ERRORS:
                break
        return near


class _ClusterSums(NamedTuple):
    """Sums over the errors e of some days.

    Attributes:
        days: how many have any.
        errors: how many.
        total: of e.
        between: over days, of (sum of e)**2 / errors of the day.
        squares: of e**2.
    """

    days: float
    errors: float
    total: float
    between: float
    squares: float


def count_independent(sums: _ClusterSums, horizon: int) -> float:
    """How many independent errors say as much as these.

    Of m errors a period with a correlation of r, n periods say as much as n * m / (1 + (m - 1) * r)
    (L. Kish, "Survey Sampling", 1965, chapter 5); r is the analysis of variance's. As many days as
    the horizon has are one period.

    >>> round(count_independent(_ClusterSums(28, 56, 0.0, 56.0, 56.0), 7), 3)
    4.0
    """
    periods = max(1.0, sums.days / horizon)
    size = sums.errors / max(1.0, sums.days)
    if size <= 1 or sums.days < 2:
        return periods
    between = (sums.between - sums.total**2 / sums.errors) / (sums.days - 1)
    within = max(1e-9, (sums.squares - sums.between) / max(1.0, sums.errors - sums.days))
    alike = (between - within) / (between + (size - 1) * within)
    return float(periods * size / (1 + (size - 1) * min(1.0, max(0.0, alike))))


def _cells(scaled: Float64Array) -> Int64Array:
    cells: Int64Array = ((scaled - _LOWEST) / _CELL).astype(np.int64).clip(0, _CELLS - 1)
    return cells


def _size_bins(mean: Float64Array) -> Int64Array:
    bins: Int64Array = np.searchsorted(_SIZES, mean)
    return bins
