"""A forecast is of what lay before it, and is judged by what came."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.monitoring.forecasts import HORIZONS, ForecastWalk, measure_errors

RNG = np.random.default_rng(7)
COUNTS = RNG.poisson(4.0, (60, 20)).astype(np.float64)


def walk_through(counts: np.ndarray) -> ForecastWalk:
    walk = ForecastWalk(counts.shape[1], 19_000)
    for day in counts:
        walk.add(day)
    return walk


@pytest.mark.parametrize("horizon", list(HORIZONS))
def test_a_steady_rate_is_expected(horizon: str) -> None:
    walk = ForecastWalk(1, 19_000)
    for _ in range(40):
        walk.add(np.array([5.0]))
    found = walk.forecast(horizon)
    days = HORIZONS[horizon]
    assert found.mean[0] == pytest.approx(5 * days, rel=0.05)
    assert found.low[0] <= 5 * days <= found.high[0]


def test_what_comes_later_changes_no_forecast() -> None:
    whole, changed = COUNTS.copy(), COUNTS.copy()
    changed[-1] += 100
    ours, theirs = walk_through(whole), walk_through(changed)
    for horizon in HORIZONS:
        for one, other in zip(ours.list_judged(horizon), theirs.list_judged(horizon), strict=True):
            assert (one.made.mean == other.made.mean).all()
            assert (one.made.high == other.made.high).all()
            assert (one.rivals.smoothing == other.rivals.smoothing).all()


def test_what_came_is_that_of_its_days() -> None:
    walk = walk_through(COUNTS)
    assert (walk.list_judged("day")[-1].actual == COUNTS[-1]).all()
    assert (walk.list_judged("week")[-1].actual == COUNTS[-7:].sum(0)).all()
    assert walk.list_judged("week")[-1].rivals.last_week == pytest.approx(COUNTS[-14:-7].sum(0))


def test_a_weekly_rhythm_is_followed() -> None:
    pattern = np.array([2.0, 2, 2, 2, 2, 10, 10])
    days = np.tile(pattern, 20)[:, None] * np.ones(5)
    walk = walk_through(days)
    judged = walk.list_judged("day")[-7:]
    ours = np.abs(np.array([each.made.mean[0] - each.actual[0] for each in judged])).mean()
    rival = np.abs(np.array([each.rivals.last_week[0] - each.actual[0] for each in judged])).mean()
    assert ours < rival / 2


def test_a_busy_week_of_all_counts_for_each() -> None:
    quiet, busy = RNG.poisson(2.0, (80, 50)), RNG.poisson(6.0, (5, 50))
    walk = walk_through(np.concatenate([quiet, busy]).astype(np.float64))
    assert walk.forecast("day").mean.mean() == pytest.approx(6, rel=0.25)


def test_nothing_came_is_no_percentage() -> None:
    errors = measure_errors(np.array([1.0, 2.0]), np.zeros(2))
    assert np.isnan(errors.mape)
    assert np.isnan(errors.wape)
