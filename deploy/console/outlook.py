"""What is to be expected of items and categories.

    windows ──▶ counts by item and day ──▶ a walk over the days ──▶ forecasts and their backtest
              (each window is read once)   (when a day is over)     (looked up by who asks)

All of it happens in a thread beside the event loop, and takes a twentieth of the time at most.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
from headwater_client.admin import forecast as contract
from headwater_client.admin.forecast import SeriesKind
from headwater_client.errors import DataError, HeadwaterError

from deploy.monitoring import demand, forecasts
from deploy.monitoring.intervals import LEVEL
from features.events import current_ms
from features.rules.table import CatalogueTable
from features.settings import DAY_MS
from trainer.windows.store import WindowStore

# Series with a forecast of their own: those of most demand.
MAX_SERIES = 10_000
_LOOK_S = 10.0
# Of the time, at most.
_SHARE = 0.05
_EVERYTHING = "everything"
log = structlog.get_logger()


@dataclass(frozen=True)
class _Outlook:
    """The forecasts of one kind, where each series stands in them, and what came since."""

    made: forecasts.DemandForecasts
    places: Mapping[str, int]
    running: Mapping[str, float]


@dataclass
class DemandOutlook:
    """Keeps forecasts up to date with the windows.

    Args:
        store: of the windows.
        table: the catalogue; read on the event loop only.

    Attributes:
        windows, unreadable: how many were read, and could not be.
        time_ms: when forecasts were made; None before the first time.
        problem: why windows are not followed now; "" where they are.
    """

    store: WindowStore
    table: CatalogueTable
    windows: int = 0
    unreadable: int = 0
    time_ms: int | None = None
    problem: str = ""
    counter: demand.DemandCounter = field(default_factory=demand.DemandCounter)
    _known: set[int] = field(default_factory=set)
    _outlooks: Mapping[SeriesKind, _Outlook] = field(default_factory=dict)
    _end_day: int | None = None
    _today: int | None = None
    _has_categories: bool = False

    async def run(self) -> None:
        """Follow the windows, for ever."""
        while True:
            began = time.monotonic()
            try:
                await asyncio.to_thread(self.refresh, self.table.copy_lists("category"))
                self.problem = ""
            except (HeadwaterError, OSError) as error:
                # Where the windows are may be away for a while.
                self.problem = f"the windows cannot be read: {error}"
                log.warning("windows_not_followed", reason=str(error))
            took_s = time.monotonic() - began
            await asyncio.sleep(max(_LOOK_S, took_s / _SHARE))

    def refresh(self, categories: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        """Read new windows; and forecast anew once a day more is whole."""
        news, today = self._read_news(), current_ms() // DAY_MS
        is_new_day, self._today = today != self._today, today
        if news or is_new_day or not self._has_categories:
            sums = self.counter.make_sums(current_ms())
            # The catalogue may come after the windows.
            lacking = not self._has_categories and categories()
            kinds = _sum_kinds(sums, categories())
            if lacking or not self._outlooks or self._end_day != sums.end_day:
                self._forecast(kinds)
                self._end_day, self._has_categories = (
                    sums.end_day,
                    bool(categories()) or not sums.names,
                )
            else:
                self._outlooks = {
                    kind: replace(outlook, running=_count_running(kinds[kind]))
                    for kind, outlook in self._outlooks.items()
                }

    def _read_news(self) -> int:
        numbers = [number for number in self.store.numbers() if number not in self._known]
        for number in numbers:
            self._known.add(number)
            try:
                self.counter.add_window(self.store, number, current_ms())
                self.windows += 1
            except DataError as error:
                # The trainer leaves it out, too.
                self.unreadable += 1
                log.warning("window_unreadable", window=number, reason=str(error))
        return len(numbers)

    def _forecast(self, kinds: Mapping[SeriesKind, demand.DailySums]) -> None:
        self._outlooks = {
            kind: _Outlook(
                forecasts.forecast_demand(each),
                {name: at for at, name in enumerate(each.names)},
                _count_running(each),
            )
            for kind, each in kinds.items()
        }
        self.time_ms = current_ms()

    @property
    def missing(self) -> str:
        """Why there is no forecast; "" where there is one."""
        if not self._outlooks:
            return self.problem or "windows are being read: ask again in a moment"
        if not self.windows:
            return (
                "no window has been written yet: headwater trainer writes them, and so does "
                "headwater windows load"
            )
        return self._outlooks[SeriesKind.ITEM].made.missing

    def describe(self, kind: SeriesKind, name: str, title: str) -> contract.SeriesForecast | None:
        """What is known and expected of a series; None where nothing is."""
        outlook = self._outlooks.get(kind)
        at = outlook.places.get(name) if outlook else None
        if outlook is None or at is None:
            return None
        sums = outlook.made.sums
        return contract.SeriesForecast(
            kind=kind,
            name=name,
            title=title,
            counted="purchase" if sums.is_purchases else "event",
            running=outlook.running.get(name, 0.0),
            days=_list_days(outlook.made, at),
            forecasts=[
                _describe_forecast(outlook.made, horizon, at)
                for horizon in forecasts.HORIZONS
                if outlook.made.walk is not None
            ],
            missing=outlook.made.missing,
        )

    def list_largest(self, kind: SeriesKind, limit: int) -> list[str]:
        """The series that most is expected of next week."""
        outlook = self._outlooks.get(kind)
        if outlook is None or outlook.made.walk is None:
            return []
        mean = outlook.made.walk.forecast("week").mean
        best = np.argsort(-mean, kind="stable")[:limit]
        return [outlook.made.sums.names[at] for at in best.tolist()]

    def describe_backtest(self, kind: SeriesKind) -> dict[str, contract.ForecastBacktest]:
        """How good forecasts of all series of a kind were, by horizon."""
        outlook = self._outlooks.get(kind)
        if outlook is None or outlook.made.walk is None:
            return {}
        walk = outlook.made.walk
        return {name: _describe_backtest(walk.list_judged(name)) for name in forecasts.HORIZONS}


def _sum_kinds(
    sums: demand.DailySums, categories: Mapping[str, Sequence[str]]
) -> dict[SeriesKind, demand.DailySums]:
    """The series that are forecast, by kind."""
    groups = demand.group_by_category(dict(categories))
    return {
        SeriesKind.ITEM: sums.choose_largest(MAX_SERIES),
        SeriesKind.CATEGORY: sums.sum_by(groups).choose_largest(MAX_SERIES),
        SeriesKind.ALL: sums.sum_by(lambda _: (_EVERYTHING,)),
    }


def _count_running(sums: demand.DailySums) -> dict[str, float]:
    """What each series has since the last whole day."""
    return dict(zip(sums.names, sums.sum_running().tolist(), strict=True))


def _list_days(made: forecasts.DemandForecasts, at: int) -> list[contract.DemandDay]:
    """The last whole days of a series, each beside what had been expected of it."""
    if made.walk is None:
        return []
    judged = made.walk.list_judged("day")
    first = made.sums.end_day - len(judged)
    return [
        contract.DemandDay(
            start=(first + number) * DAY_MS,
            count=float(each.actual[at]),
            expected=float(each.made.mean[at]),
            low=float(each.made.low[at]),
            high=float(each.made.high[at]),
        )
        for number, each in enumerate(judged)
    ]


def _describe_forecast(
    made: forecasts.DemandForecasts, horizon: str, at: int
) -> contract.DemandForecast:
    assert made.walk is not None
    found = made.walk.forecast(horizon)
    return contract.DemandForecast(
        horizon=horizon,
        start=made.start_ms,
        end=made.start_ms + forecasts.HORIZONS[horizon] * DAY_MS,
        expected=float(found.mean[at]),
        low=float(found.low[at]),
        high=float(found.high[at]),
        level=LEVEL,
        backtest=_describe_backtest(made.walk.list_judged(horizon), slice(at, at + 1)),
    )


def _describe_backtest(
    judged: Sequence[forecasts.JudgedForecast], part: slice = slice(None)
) -> contract.ForecastBacktest:
    """Args: part: of the series; default: all."""
    if not judged:
        return contract.ForecastBacktest(judged=0, coverage=None, methods=[])
    actual = np.concatenate([each.actual[part] for each in judged])
    held = [
        (each.made.low[part] <= each.actual[part]) & (each.actual[part] <= each.made.high[part])
        for each in judged
    ]
    said = {
        "headwater": [each.made.mean[part] for each in judged],
        "last_week": [each.rivals.last_week[part] for each in judged],
        "smoothing": [each.rivals.smoothing[part] for each in judged],
    }
    errors = {
        method: forecasts.measure_errors(np.concatenate(expected), actual)
        for method, expected in said.items()
    }
    return contract.ForecastBacktest(
        judged=len(actual),
        coverage=float(np.concatenate(held).mean()),
        methods=[
            contract.MethodErrors(method=name, mape=_drop_nan(one.mape), wape=_drop_nan(one.wape))
            for name, one in errors.items()
        ],
    )


def _drop_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
