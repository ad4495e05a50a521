"""What is to be expected of items and categories: what `DemandOutlook` knows, to whoever asks."""

from collections.abc import Sequence

from headwater_client.admin import forecast as contract
from headwater_client.admin.forecast import SeriesKind

from deploy.console.outlook import MAX_SERIES
from deploy.console.parts import ConsoleOperations
from stream.api.parts import ApiCall
from stream.api.problems import refuse


class ForecastOperations(ConsoleOperations):
    """Tell what is expected."""

    async def watch_demand(self) -> None:
        """Keep forecasts up to date, for ever."""
        await self._parts.outlook.run()

    async def forecast_item(self, call: ApiCall) -> contract.SeriesForecast:
        """The demand for an item.

        Raises:
            RequestError: no window has an event of it.
        """
        outlook, item = self._parts.outlook, call.path["item"]
        found = outlook.describe(SeriesKind.ITEM, item, self._find_title(item))
        if found is None:
            missing = outlook.missing or (
                f"no window has an event of this item, or it is not among the {MAX_SERIES:,} of "
                "most demand"
            )
            raise refuse("not-found", missing, "see /v1/admin/forecasts for those that have")
        return found

    async def list_forecasts(self, call: ApiCall) -> contract.ForecastsAnswer:
        """The series that most is expected of, or one category.

        Raises:
            RequestError: no window has an event of the category.
        """
        query: contract.ForecastsQuery = call.query
        outlook, kind = self._parts.outlook, query.kind
        names: Sequence[str]
        if query.category is not None:
            kind, names = SeriesKind.CATEGORY, (query.category,)
        else:
            names = outlook.list_largest(kind, query.limit)
        found = [outlook.describe(kind, name, self._find_title(name, kind)) for name in names]
        if query.category is not None and found == [None] and not outlook.missing:
            raise refuse("not-found", "no window has an event of this category", "look for another")
        return contract.ForecastsAnswer(
            time=outlook.time_ms,
            windows=outlook.windows,
            unreadable=outlook.unreadable,
            ahead=outlook.counter.ahead,
            dropped=outlook.counter.dropped,
            series=[each for each in found if each is not None],
            backtest=outlook.describe_backtest(kind),
            missing=outlook.missing,
        )

    def _find_title(self, name: str, kind: SeriesKind = SeriesKind.ITEM) -> str:
        title = self._parts.items.table.read_value(name, "title")
        return title if kind is SeriesKind.ITEM and isinstance(title, str) else ""
