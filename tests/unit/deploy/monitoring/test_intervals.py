"""An interval knows how many independent errors it was made from."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.monitoring import intervals
from deploy.monitoring.intervals import PredictionIntervals

PERIODS, SERIES = 40, 50


def learn(errors: np.ndarray, days: int = 1) -> PredictionIntervals:
    """Of errors, float64[periods, series], around a mean of 1,000."""
    found = PredictionIntervals(days)
    mean = np.full(errors.shape[1], 1000.0)
    for each in errors:
        found.learn(found.make(mean), mean + each)
    return found


def count(errors: np.ndarray, days: int) -> float:
    total = errors.sum(1)
    sums = intervals._ClusterSums(
        len(errors),
        errors.size,
        float(total.sum()),
        float((total**2).sum() / errors.shape[1]),
        float((errors**2).sum()),
    )
    return intervals.count_independent(sums, days)


def test_errors_with_nothing_in_common_all_count_and_those_that_are_one_count_once() -> None:
    rng = np.random.default_rng(3)
    apart = rng.normal(size=(PERIODS, SERIES))
    as_one = np.tile(rng.normal(size=(PERIODS, 1)), SERIES)
    assert count(apart, 1) == pytest.approx(PERIODS * SERIES, rel=0.2)
    assert count(as_one, 1) == pytest.approx(PERIODS)
    # Of a week that begins every day there are a seventh.
    assert count(as_one, 7) == pytest.approx(PERIODS / 7)
    # Half of the variance in common: m / (1 + (m - 1) / 2).
    both = rng.normal(size=(2000, 1)) + rng.normal(size=(2000, SERIES))
    expected = 2000 * SERIES / (1 + (SERIES - 1) / 2)
    assert count(both, 1) == pytest.approx(expected, rel=0.05)


def test_below_nineteen_periods_the_bound_is_the_largest_error_so_far() -> None:
    one, other = [100.0], [-100.0]
    errors = np.tile(np.array([one, other] * 4 + [[900.0]] + [one, other] * 3), SERIES)
    made = learn(errors).make(np.full(SERIES, 1000.0))
    assert made.high[0] >= 1900
    apart = learn(np.tile(np.repeat([100.0, -100.0], 30)[:, None], SERIES))
    assert apart.make(np.full(SERIES, 1000.0)).high[0] < 1150


def test_where_errors_are_many_the_bounds_are_their_quantiles() -> None:
    rng = np.random.default_rng(6)
    errors = rng.normal(0, 200, (200, SERIES))
    made = learn(errors).make(np.full(SERIES, 1000.0))
    assert made.high[0] == pytest.approx(1000 + np.quantile(errors, 0.95), abs=15)
    assert made.low[0] == pytest.approx(1000 + np.quantile(errors, 0.05), abs=15)
