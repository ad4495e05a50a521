"""How good forecasts of demand are: items and categories, the next day and the next week.

uv run python -m bench.quality.forecast --data DIR

Every day of the last third of a log is forecast by what lay before it, as the console does it: no
weight, level or interval is of what came later. Of a log that is longer than the console looks back
(`MAX_DAYS`) each stretch of so many days is taken for a log of its own, the newest first. Judged
are series with an event in the four weeks before. Of what came as 0 the percentage error is not
defined: MAPE leaves it out, WAPE and the pinball losses have it. The simple methods have no
interval of their own: theirs is that of a Poisson distribution with the rate that they expect.

All series share a day, and weeks overlap: how far a coverage may be off by chance is estimated from
blocks of `BLOCK_DAYS` days (a ratio estimator over clusters, W. G. Cochran, "Sampling Techniques",
1977, chapter 6), not from the number of forecasts.

S series, N judged forecasts, B blocks.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from headwater_client.event_types import EVENT_TYPES
from rich.console import Console
from rich.table import Table
from scipy import stats

from bench.harness import runner
from deploy.monitoring import demand, forecasts
from deploy.monitoring.intervals import LEVEL
from features.schema import BoolArray, Float64Array
from features.settings import DAY_MS
from trainer.datasets import Log

OURS, LAST_WEEK, SMOOTHING = "headwater", "last week's rate", "exponential smoothing"
JUDGED_SHARE = 1 / 3
ACTIVE_DAYS = 28
BLOCK_DAYS = 14
_QUANTILES = {"low": 0.05, "median": 0.5, "high": 0.95}


def count_demand(log: Log) -> demand.DailySums:
    """The counts of a log, as its windows would give them."""
    counter = demand.DemandCounter()
    events = log.events
    rows = {
        "type": [EVENT_TYPES.spec_of(event).name for event in events],
        "item_id": [event.item_id for event in events],
        "timestamp": [event.timestamp for event in events],
        "repeated": [False] * len(events),
    }
    newest_ms = events[-1].timestamp
    counter.add(pa.table(rows), newest_ms)
    return counter.make_sums(newest_ms)


def iterate_stretches(log: Log) -> Iterator[Log]:
    """A log in stretches of `MAX_DAYS` days, the newest first; the rest if it is half of one."""
    while log.events:
        end = log.events[-1].timestamp
        log, stretch = log.split_after(end - demand.MAX_DAYS * DAY_MS)
        yield stretch
        if not log.events or log.events[-1].timestamp - log.events[0].timestamp < (
            demand.MAX_DAYS * DAY_MS / 2
        ):
            return


@dataclass
class JudgedForecasts:
    """Forecasts of one horizon and what came, one method beside the other.

    Attributes:
        expected, quantiles: by method, a row a day.
        actual: a row a day.
        blocks: of each day, its stretch and which `BLOCK_DAYS` of it.
    """

    expected: defaultdict[str, list[Float64Array]] = field(
        default_factory=lambda: defaultdict(list)
    )
    quantiles: defaultdict[str, list[Float64Array]] = field(
        default_factory=lambda: defaultdict(list)
    )
    actual: list[Float64Array] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def add(
        self, judged: forecasts.JudgedForecast, active: BoolArray, block: tuple[int, int]
    ) -> None:
        """Add what was said of the active series, and what came."""
        made, rivals = judged.made, judged.rivals
        self.actual.append(judged.actual[active])
        self.blocks.append(block)
        self.expected[OURS].append(made.mean[active])
        self.quantiles[OURS].append(np.stack([made.low, made.median, made.high])[:, active])
        for name, rate in ((LAST_WEEK, rivals.last_week), (SMOOTHING, rivals.smoothing)):
            self.expected[name].append(rate[active])
            levels = np.array(list(_QUANTILES.values()))[:, None]
            bounds = np.asarray(stats.poisson.ppf(levels, rate[active]), np.float64)
            self.quantiles[name].append(bounds)

    def figures(self) -> dict[str, dict[str, float]]:
        """By method: errors, coverage and width of its intervals, pinball losses."""
        actual = np.concatenate(self.actual)
        return {name: self._measure(name, actual) for name in self.expected}

    def _measure(self, name: str, actual: Float64Array) -> dict[str, float]:
        quantiles = dict(zip(_QUANTILES, np.concatenate(self.quantiles[name], 1), strict=True))
        low, high = quantiles["low"], quantiles["high"]
        expected = np.concatenate(self.expected[name])
        held = ((low <= actual) & (actual <= high)).astype(np.float64)
        errors = forecasts.measure_errors(expected, actual, held)
        large = expected >= 1
        return {
            "mape": errors.mape,
            "wape": errors.wape,
            "coverage": errors.coverage,
            "coverage_error": self._estimate_error(held),
            "coverage_from_1": float(held[large].mean()) if large.any() else float("nan"),
            "below": float((actual < low).mean()),
            "above": float((actual > high).mean()),
            "width": float((high - low).mean()),
            "width_to_demand": float((high - low).sum() / max(1.0, actual.sum())),
            **{
                f"pinball_{level:g}": forecasts.measure_pinball(quantiles[side], actual, level)
                for side, level in _QUANTILES.items()
            },
            "judged": errors.judged,
            "blocks": len(set(self.blocks)),
            "zeros": float((actual == 0).mean()),
        }

    def _estimate_error(self, held: Float64Array) -> float:
        """The standard error of the share that was held, by blocks; nan of a single one."""
        days = [len(each) for each in self.actual]
        _, block_of_day = np.unique(np.array(self.blocks), axis=0, return_inverse=True)
        block = np.repeat(block_of_day.ravel(), days)
        sizes, inside = np.bincount(block), np.bincount(block, held)
        if len(sizes) < 2:
            return float("nan")
        beyond = inside - held.mean() * sizes
        return float(np.sqrt((beyond**2).sum() * len(sizes) / (len(sizes) - 1)) / sizes.sum())


def judge_series(
    sums: demand.DailySums, found: Mapping[str, JudgedForecasts], stretch: int = 0
) -> None:
    """Forecast every day of the last third, by horizon."""
    walk = forecasts.ForecastWalk(len(sums.names), sums.first_day)
    first = max(forecasts.LEAST_DAYS, round(sums.length * (1 - JUDGED_SHARE)))
    recent: deque[Float64Array] = deque(maxlen=ACTIVE_DAYS + max(forecasts.HORIZONS.values()))
    for day, counts in enumerate(sums.iterate_days()):
        before = list(recent)
        for name, judged in walk.add(counts).items():
            if day >= first:
                # As of when it was made: so many days ago.
                known = before[: len(before) + 1 - forecasts.HORIZONS[name]][-ACTIVE_DAYS:]
                block = stretch, (day - first) // BLOCK_DAYS
                found[name].add(judged, np.sum(known, axis=0) > 0, block)
        recent.append(counts)


def judge_log(log: Log) -> dict[str, dict[str, dict[str, float]]]:
    """The figures by kind and horizon, by method."""
    categories = demand.group_by_category({one.item_id: one.category for one in log.items})
    found = {
        kind: {name: JudgedForecasts() for name in forecasts.HORIZONS}
        for kind in ("items", "categories")
    }
    for number, stretch in enumerate(iterate_stretches(log)):
        items = count_demand(stretch)
        for kind, sums in (("items", items), ("categories", items.sum_by(categories))):
            if sums.names:
                judge_series(sums, found[kind], number)
    return {
        f"{kind}, next {horizon}": judged.figures()
        for kind, by_horizon in found.items()
        for horizon, judged in by_horizon.items()
        if judged.actual
    }


def make_forecast_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """A row a method."""
    columns = (
        *("MAPE", "WAPE", "coverage of 90 %", "where ≥ 1", "below", "above", "width / demand"),
        *(f"pinball {level:g}" for level in _QUANTILES.values()),
    )
    judged = next(iter(rows.values()))
    shown = (
        f"{title}: {judged['judged']:,.0f} forecasts in {judged['blocks']:g} blocks, "
        f"{judged['zeros']:.0%} of nothing"
    )
    table = runner.make_table(shown, "", columns)
    for name, row in rows.items():
        table.add_row(
            name,
            *(f"{row[key]:.1%}" for key in ("mape", "wape")),
            f"{row['coverage']:.1%} ± {row['coverage_error']:.1%}",
            *(f"{row[key]:.1%}" for key in ("coverage_from_1", "below", "above")),
            f"{row['width_to_demand']:.2f}",
            *(f"{row[f'pinball_{level:g}']:.4f}" for level in _QUANTILES.values()),
        )
    return table


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(runner.MappedDataOptions):
    """Options of `bench.quality.forecast`."""

    until_days: Annotated[
        int, typer.Option(help="leave out so many of the newest days: to choose by", min=0)
    ] = 0


def measure(options: ForecastOptions, console: Console) -> runner.Results:
    """Forecast each day of a log, and judge what was said."""
    log = options.load_log()
    if options.until_days:
        log = log.split_after(log.events[-1].timestamp - options.until_days * DAY_MS)[0]
    console.print(f"{len(log.events):,} events", highlight=False)
    found = judge_log(log)
    tables: Sequence[Table] = [make_forecast_table(title, rows) for title, rows in found.items()]
    report: dict[str, Any] = {"level": LEVEL, "figures": found}
    return runner.Results(report, tables)


BENCHMARK = runner.Benchmark("quality.forecast", ForecastOptions, measure, width=150)

if __name__ == "__main__":
    BENCHMARK.main()
