"""What is to be expected: the demand for items and categories, and how good such forecasts were."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.contract import Scope
from headwater_client.events import Id
from headwater_client.operations import Operation


class SeriesKind(StrEnum):
    """Of what a demand, or a rate, is."""

    ITEM = "item"
    CATEGORY = "category"
    ALL = "all"
    """Everything together."""


class MethodErrors(Struct, frozen=True, kw_only=True):
    """How a method's forecasts were.

    Attributes:
        method: headwater, last_week or smoothing.
        mape: mean of |error| / what came, over those of which something came; None without any.
        wape: sum of |errors| over the sum of what came; None where nothing came.
    """

    method: str
    mape: float | None
    wape: float | None


class ForecastBacktest(Struct, frozen=True, kw_only=True):
    """How good forecasts of one series and horizon were, each made of what lay before it.

    Attributes:
        judged: how many.
        coverage: the part of intervals that held what came.
        methods: this forecast's errors, then those of simple methods.
    """

    judged: int
    coverage: float | None
    methods: list[MethodErrors]


class DemandForecast(Struct, frozen=True, kw_only=True):
    """What is expected of some whole days, UTC.

    Attributes:
        horizon: day or week.
        start, end: the first millisecond, and the one after the last.
        expected: events; a mean, so not whole.
        low, high: hold what comes, both of them among it, in `level` of cases at least.
    """

    horizon: str
    start: int
    end: int
    expected: float
    low: float
    high: float
    level: float
    backtest: ForecastBacktest


class DemandDay(Struct, frozen=True, kw_only=True):
    """What came on a day, and what had been expected of it the day before."""

    start: int
    count: float
    expected: float | None = None
    low: float | None = None
    high: float | None = None


class SeriesForecast(Struct, frozen=True, kw_only=True):
    """The demand for an item, for a category, or for all.

    Attributes:
        counted: purchase, where windows have any; else event: whatever takes an item.
        running: what has come since the last whole day.
        days: the last whole days, oldest first.
        forecasts: by horizon; empty while `missing` says why.
    """

    kind: SeriesKind
    name: str
    title: str = ""
    counted: str
    running: float
    days: list[DemandDay]
    forecasts: list[DemandForecast]
    missing: str = ""


class ForecastsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which series are asked for: those of most demand, or one category."""

    kind: SeriesKind = SeriesKind.ITEM
    category: Id | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 20


class ForecastsAnswer(Struct, frozen=True, kw_only=True):
    """The series that most is expected of next week.

    Attributes:
        time: when it was computed; None before the first time.
        windows: that were read; `unreadable` of them could not be.
        ahead: events that a wrong clock dates into the future: they are not counted.
        dropped: sums of an item and a day that were let go, to keep within memory.
        backtest: over all series of this kind, by horizon.
        missing: why there are no forecasts; "" where there are.
    """

    time: int | None
    windows: int
    unreadable: int
    ahead: int
    dropped: int
    series: list[SeriesForecast]
    backtest: dict[str, ForecastBacktest]
    missing: str = ""


OPERATIONS = (
    Operation(
        "forecast_item",
        "GET",
        "/v1/admin/items/{item}/forecast",
        "The demand for an item: next day and week, with intervals and a backtest",
        SeriesForecast,
        Scope.VIEW,
    ),
    Operation(
        "list_forecasts",
        "GET",
        "/v1/admin/forecasts",
        "The items or categories that most is expected of, or one category",
        ForecastsAnswer,
        Scope.VIEW,
        query=ForecastsQuery,
    ),
)
