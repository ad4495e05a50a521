"""Forecasts of many series of daily counts: the next day and the next week, with intervals.

    y of a day ──▶ judge what was said of it ──▶ learn ──▶ add it to the rates ──▶ say the next
                    (backtest, intervals)       (weights)  (by half-life)          (day, week)

One walk over the days makes the forecast and its backtest: each day's forecast is made of what lay
strictly before it, and is judged when its days have come. What is judged is what is shown.

Expected is a sum of decayed rates, their weights learned over all series at once by non-negative
least squares: a series alone is too short and too sparse to learn from. One of the rates is the
series' share of all, times what all do now, so that a busy week counts before each item has shown
it. With a single rate and a weight of 1 this is simple exponential smoothing (R. G. Brown, 1959).

Intervals are those of `deploy.monitoring.intervals`.

S series, K rates.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from deploy.monitoring.demand import DailySums
from deploy.monitoring.intervals import Forecast, PredictionIntervals
from features.schema import Float64Array
from features.settings import DAY_MS

HORIZONS: Mapping[str, int] = {"day": 1, "week": 7}
"""Whole days by the name of what is forecast."""

LEAST_DAYS = 14
"""Whole days before which nothing is said: an interval must have been tried."""

LEARNED_DAYS = 112.0
"""Half-life of what is learned of weights and weekdays."""

HALF_LIVES_DAYS = (2.0, 7.0, 28.0, 112.0)
JUDGED_DAYS = 28
SMOOTHING = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Constants of simple exponential smoothing; the one that has erred least so far is the rival."""

_FIRST_WEIGHTS = (0.0, 0.3, 0.4, 0.3, 0.0)
_WEIGHT_OF_FIRST = 5.0
_SHARE_RATE, _SHARE_BASE = 0, 3


@dataclass(frozen=True)
class Rivals:
    """What simple methods would have said: last week's rate, and exponential smoothing."""

    last_week: Float64Array
    smoothing: Float64Array


@dataclass(frozen=True)
class JudgedForecast:
    """A forecast, and what came: float64[S]."""

    made: Forecast
    rivals: Rivals
    actual: Float64Array


class ForecastErrors(NamedTuple):
    """How good forecasts were.

    Attributes:
        judged: how many.
        mape: mean of |error| / what came, where something came: of 0 it is not defined.
        wape: sum of |errors| over the sum of what came; what was 0 counts in it.
        coverage: share of intervals that held what came; nan of a method without intervals.
    """

    judged: int
    mape: float
    wape: float
    coverage: float = float("nan")


def measure_errors(
    expected: Float64Array, actual: Float64Array, held: Float64Array | None = None
) -> ForecastErrors:
    """The errors of forecasts, arrays of any one shape.

    >>> measure_errors(np.array([2.0, 1.0]), np.array([4.0, 0.0]))
    ForecastErrors(judged=2, mape=0.5, wape=0.75, coverage=nan)
    """
    missed, some, total = np.abs(expected - actual), actual > 0, float(actual.sum())
    return ForecastErrors(
        int(actual.size),
        float((missed[some] / actual[some]).mean()) if some.any() else float("nan"),
        float(missed.sum() / total) if total else float("nan"),
        float(held.mean()) if held is not None and held.size else float("nan"),
    )


def measure_pinball(quantile: Float64Array, actual: Float64Array, level: float) -> float:
    """The mean pinball loss of a quantile (R. Koenker, G. Bassett, Econometrica 1978).

    >>> measure_pinball(np.array([2.0]), np.array([12.0]), 0.9)
    9.0
    """
    beyond = actual - quantile
    return float(np.maximum(level * beyond, (level - 1) * beyond).mean())


class _Weights:
    """How much each rate counts, for one horizon: learned over all series and days so far."""

    def __init__(self, days: int) -> None:
        first = np.array(_FIRST_WEIGHTS)
        self.weights = first.copy()
        self._left = 0.5 ** (1 / LEARNED_DAYS)
        self._days = days
        self._products = _WEIGHT_OF_FIRST * np.eye(len(first))
        self._targets = _WEIGHT_OF_FIRST * first

    def expect(self, rates: Float64Array) -> Float64Array:
        """The mean of so many days, float64[S], of rates a day, float64[S, K]."""
        mean: Float64Array = self._days * (rates @ self.weights)
        return mean

    def learn(self, rates: Float64Array, mean: Float64Array, actual: Float64Array) -> None:
        """Take in what came; an error weighs as little as counts of its size vary."""
        weighed = rates / (mean + 0.1 * self._days)[:, None]
        self._products = self._left * self._products + self._days * (weighed.T @ rates)
        self._targets = self._left * self._targets + weighed.T @ actual
        self.weights = _solve_non_negative(self._products, self._targets, self.weights)


def _solve_non_negative(
    products: Float64Array, targets: Float64Array, start: Float64Array
) -> Float64Array:
    """Weights of 0 or more that minimise w'Pw - 2 t'w, by coordinate descent.

    >>> _solve_non_negative(np.eye(2), np.array([0.5, -1.0]), np.zeros(2))
    array([0.5, 0. ])
    """
    weights = start.copy()
    for _ in range(50):
        for at in range(len(weights)):
            rest = targets[at] - products[at] @ weights + products[at, at] * weights[at]
            weights[at] = max(0.0, rest / products[at, at])
    return weights


class _Rates:
    """Decayed rates a day of each series, by half-life; and those of the simple methods."""

    def __init__(self, series: int) -> None:
        self._left = 0.5 ** (1 / np.array(HALF_LIVES_DAYS))
        self._sums = np.zeros((series, len(HALF_LIVES_DAYS)))
        self._age = 0
        self._week: deque[Float64Array] = deque(maxlen=7)
        self._levels = np.zeros((len(SMOOTHING), series))
        self._missed = np.zeros(len(SMOOTHING))

    def add(self, counts: Float64Array) -> None:
        """Add a day."""
        self._sums = self._sums * self._left + counts[:, None] * (1 - self._left)
        if self._age:
            self._missed += ((self._levels - counts) ** 2).sum(1)
            step = np.array(SMOOTHING)[:, None]
            self._levels += step * (counts - self._levels)
        else:
            self._levels[:] = counts
        self._age += 1
        self._week.append(counts)

    def read(self) -> Float64Array:
        """float64[S, K]: by half-life, and last the share of all times what all do now."""
        rates = self._sums / (1 - self._left**self._age)
        whole = rates.sum(0)
        now = whole[_SHARE_RATE] / whole[_SHARE_BASE] if whole[_SHARE_BASE] else 0.0
        return np.column_stack([rates, rates[:, _SHARE_BASE] * now])

    def read_rivals(self, days: int) -> Rivals:
        """What the simple methods say of so many days."""
        mean = np.mean(self._week, axis=0)
        return Rivals(days * mean, days * self._levels[int(self._missed.argmin())])


class _Weekdays:
    """What a weekday is worth beside the others: that of all series together."""

    def __init__(self) -> None:
        self._left = 0.5 ** (1 / LEARNED_DAYS)
        self._sums, self._days = np.full(7, 1.0), np.full(7, 1.0)
        self._seen = 0.0

    def add(self, total: float, day: int) -> None:
        """Add the sum of a day."""
        if self._seen == 0:
            self._sums *= total
        self._seen = self._left * self._seen + 1
        self._sums *= self._left
        self._days *= self._left
        self._sums[day % 7] += total
        self._days[day % 7] += 1

    def factor(self, day: int) -> float:
        """What the mean of a day is multiplied by; drawn towards 1 by four weeks' worth."""
        means = self._sums / self._days
        if not means.mean():
            return 1.0
        trust = self._seen / (self._seen + 28)
        return float(1 + trust * (means[day % 7] / means.mean() - 1))


@dataclass
class _Horizon:
    """All that is learned of one horizon, and what waits for its days to come."""

    days: int
    weights: _Weights
    intervals: PredictionIntervals
    waiting: deque[tuple[Forecast, Rivals, Float64Array, float]] = field(default_factory=deque)
    judged: deque[JudgedForecast] = field(default_factory=lambda: deque(maxlen=JUDGED_DAYS))


class ForecastWalk:
    """Goes through the days of all series, once.

    Args:
        series: how many there are.
        first_day: the first day's number since 1970, for weekdays.
    """

    def __init__(self, series: int, first_day: int) -> None:
        self._day = first_day
        self._rates = _Rates(series)
        self._weekdays = _Weekdays()
        self._recent: deque[Float64Array] = deque(maxlen=max(HORIZONS.values()))
        self._horizons = {
            name: _Horizon(days, _Weights(days), PredictionIntervals(days))
            for name, days in HORIZONS.items()
        }

    def add(self, counts: Float64Array) -> dict[str, JudgedForecast]:
        """Add a day, float64[S]; the forecasts that can be judged now, by horizon."""
        self._recent.append(counts)
        judged = {
            name: self._judge(horizon)
            for name, horizon in self._horizons.items()
            if len(horizon.waiting) == horizon.days
        }
        self._weekdays.add(float(counts.sum()), self._day)
        self._rates.add(counts)
        self._day += 1
        for horizon in self._horizons.values():
            horizon.waiting.append(self._forecast(horizon))
        return judged

    def _judge(self, horizon: _Horizon) -> JudgedForecast:
        made, rivals, rates, factor = horizon.waiting.popleft()
        actual = np.sum(list(self._recent)[-horizon.days :], axis=0)
        horizon.intervals.learn(made, actual)
        horizon.weights.learn(rates, made.mean / factor, actual / factor)
        judged = JudgedForecast(made, rivals, actual)
        horizon.judged.append(judged)
        return judged

    def _forecast(self, horizon: _Horizon) -> tuple[Forecast, Rivals, Float64Array, float]:
        rates = self._rates.read()
        factor = self._weekdays.factor(self._day) if horizon.days == 1 else 1.0
        factor = max(factor, 0.05)
        made = horizon.intervals.make(factor * horizon.weights.expect(rates))
        return made, self._rates.read_rivals(horizon.days), rates, factor

    def forecast(self, horizon: str) -> Forecast:
        """What is expected after the last day that was added."""
        return self._horizons[horizon].waiting[-1][0]

    def list_judged(self, horizon: str) -> list[JudgedForecast]:
        """The last `JUDGED_DAYS` forecasts whose days have come, oldest first."""
        return list(self._horizons[horizon].judged)


@dataclass(frozen=True)
class DemandForecasts:
    """Forecasts of named series, and how good such forecasts were.

    Attributes:
        sums: what they are made of.
        walk: None where there are fewer than `LEAST_DAYS` whole days.
    """

    sums: DailySums
    walk: ForecastWalk | None

    @property
    def start_ms(self) -> int:
        """When the first forecast day begins."""
        return self.sums.end_day * DAY_MS

    @property
    def missing(self) -> str:
        """Why there is no forecast; "" where there is one."""
        if not self.sums.names:
            return "no window has an event yet: windows are written by headwater trainer"
        if self.walk is None:
            return (
                f"{self.sums.length} whole days of events: from {LEAST_DAYS} on there is a forecast"
            )
        return ""


def forecast_demand(sums: DailySums) -> DemandForecasts:
    """Walk through the days of all series."""
    if sums.length < LEAST_DAYS:
        return DemandForecasts(sums, None)
    walk = ForecastWalk(len(sums.names), sums.first_day)
    for counts in sums.iterate_days():
        walk.add(counts)
    return DemandForecasts(sums, walk)
