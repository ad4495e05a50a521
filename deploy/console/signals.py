"""What is not as it was: what `SignalFollower` has found, to whoever asks."""

from urllib.parse import urlencode

from headwater_client.admin import signals as contract
from headwater_client.admin.forecast import SeriesKind

from deploy.console.parts import ConsoleOperations
from deploy.console.rates import SeenAnomaly
from deploy.monitoring import distributions, drift
from stream.api.parts import ApiCall


class SignalOperations(ConsoleOperations):
    """Tell what is not as it was."""

    async def watch_signals(self) -> None:
        """Follow rates, features and scores, for ever."""
        await self._parts.signals.run()

    async def list_anomalies(self, call: ApiCall) -> contract.AnomaliesAnswer:
        """Rates that their past does not allow."""
        query: contract.AnomaliesQuery = call.query
        follower, settings = self._parts.signals, self._parts.settings.monitoring
        found = [
            self._describe_anomaly(each, is_open=is_open)
            for each, is_open in follower.rates.list_anomalies()
            if is_open or not query.open_only
        ]
        return contract.AnomaliesAnswer(
            anomalies=found[: query.limit],
            watched=follower.rates.count_watched(),
            since=follower.since_ms,
            false_alarms_per_week=settings.false_alarms_per_week,
            tick_s=settings.tick_s,
            missing=follower.problem
            or ("" if follower.since_ms else "no event has arrived since rates are watched"),
        )

    def _describe_anomaly(self, seen: SeenAnomaly, *, is_open: bool) -> contract.RateAnomaly:
        alarm = seen.alarm
        title = None
        if seen.kind is SeriesKind.ITEM:
            title = self._parts.items.table.read_value(alarm.name, "title")
        return contract.RateAnomaly(
            kind=seen.kind,
            name=alarm.name,
            title=title if isinstance(title, str) else "",
            direction=alarm.direction.value,
            since=alarm.since_ms,
            raised=alarm.at_ms,
            seen=seen.seen_ms,
            rate=alarm.rate,
            expected=alarm.expected,
            is_open=is_open,
            link=link_series(seen.kind, alarm.name),
        )

    async def tell_drift(self, _: ApiCall) -> contract.DriftAnswer:
        """Distributions that are not those of the reference window."""
        follower = self._parts.signals
        features, scores = (
            [_describe_drift(report) for report in watch.reports()]
            for watch in (follower.features.watch, follower.scores.watch)
        )
        missing = ""
        if not features and not scores:
            missing = (
                f"no {distributions.BLOCK_EVENTS} events in windows and no "
                f"{distributions.BLOCK_LISTS} lists yet: there is nothing to compare"
            )
        return contract.DriftAnswer(
            features=sorted(features, key=lambda each: not each.is_alert),
            scores=sorted(scores, key=lambda each: not each.is_alert),
            windows=follower.features.windows,
            unreadable=follower.features.unreadable,
            lists=follower.scores.lists,
            missing=missing,
        )


def _describe_drift(report: drift.DriftReport) -> contract.DistributionDrift:
    return contract.DistributionDrift(
        name=report.name,
        index=report.index,
        index_before=report.index_before,
        threshold=report.threshold,
        blocks=report.blocks,
        is_alert=report.has_drifted,
        reference=dict(report.reference),
        current=dict(report.current),
        link="/demand?kind=category" if report.name == "category" else "/quality#drift",
        missing=report.missing,
    )


def link_series(kind: SeriesKind, name: str) -> str:
    """The page about a series.

    >>> link_series(SeriesKind.ITEM, "a b"), link_series(SeriesKind.CATEGORY, "R&D")
    ('/items?id=a+b', '/demand?category=R%26D')
    """
    if kind is SeriesKind.ITEM:
        return f"/items?{urlencode({'id': name})}"
    if kind is SeriesKind.CATEGORY:
        return f"/demand?{urlencode({'category': name})}"
    return "/"
