"""The figures of page "Now", made of what a look saw; and the lines of its history."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import xxhash
from headwater_client import EVENT_TYPES, encode
from headwater_client.admin import now as told
from headwater_client.contract import Problem
from headwater_client.operations import OPERATIONS
from headwater_client.topics import DEAD_LETTERS, RECOMMENDATIONS

from deploy.console.board import Look
from deploy.console.history import SPANS, Slot, quantile
from deploy.console.readings import find_buckets, find_figures
from deploy.settings import Settings
from features.kafka import log_topics
from stream.api.problems import make_problem

_DIALECTS = ("gorse", "metarank")
_ASKED = frozenset(operation.name for operation in OPERATIONS if operation.scope)


class _Counts(NamedTuple):
    recent: Mapping[tuple[str, ...], float]
    hour: Mapping[tuple[str, ...], float]
    day: Mapping[tuple[str, ...], float]
    total: Mapping[tuple[str, ...], float]


class Figures:
    """The counters of a look, by figure and labels."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._found: dict[str, _Counts] = {}

    def labels(self, figure: str) -> list[tuple[str, ...]]:
        """The labels under which a figure was ever counted, in order."""
        counts = self._counts(figure)
        return sorted({*counts.hour, *counts.day, *counts.total})

    def count(self, figure: str, *labels: str) -> dict[str, Any]:
        """The fields of `Counted`, of all that begin with these labels."""
        recent, hour, day, total = (
            sum(count for found, count in counts.items() if found[: len(labels)] == labels)
            for counts in self._counts(figure)
        )
        return {
            "per_second": self._look.recent.rate(recent),
            "hour": round(hour),
            "day": round(day),
            "total": round(total),
        }

    def _counts(self, figure: str) -> _Counts:
        if figure not in self._found:
            look = self._look
            self._found[figure] = _Counts(
                *(
                    find_figures(counts, figure)
                    for counts in (
                        look.recent.counts,
                        look.hour.counts,
                        look.day.counts,
                        look.totals,
                    )
                )
            )
        return self._found[figure]

    def find_versions(self, variant: str) -> dict[str, int]:
        """The version that a variant is answered by in each process but this one."""
        return {
            each.process: int(each.value)
            for each in self._look.samples
            if each.name == "headwater_routed_version"
            and each.process
            and each.labels.get("variant") == variant
        }


def add_events(look: Look, figures: Figures) -> told.Counted:
    """The events of all types together."""
    found = [figures.count("events", spec.topic) for spec in EVENT_TYPES.values()]
    rates = [each["per_second"] for each in found if each["per_second"] is not None]
    numbers = {name: sum(each[name] for each in found) for name in ("hour", "day", "total")}
    is_watched = look.recent.seconds > 0
    return told.Counted(per_second=sum(rates) if is_watched else None, **numbers)


def list_events(look: Look, figures: Figures) -> list[told.EventsNow]:
    """What workers read, by topic: types of events first, those too that no row is made of."""
    types = {spec.topic: name for name, spec in EVENT_TYPES.items()}
    counted = {topic for (topic,) in figures.labels("events")}
    there = {topic for topic, _ in look.places} - {RECOMMENDATIONS, DEAD_LETTERS}
    return [
        told.EventsNow(
            topic=topic,
            type=types.get(topic, ""),
            in_log=count_log(look, topic),
            **figures.count("events", topic),
        )
        for topic in (*types, *sorted((counted | there) - set(types)))
        if topic in counted or topic in there
    ]


def count_log(look: Look, topic: str) -> int | None:
    """The messages that Kafka has of a topic; None where it does not say."""
    places = [place for (name, _), place in look.places.items() if name == topic]
    return sum(place.end - place.first for place in places) if places else None


def list_requests(figures: Figures) -> list[told.RequestsNow]:
    """What callers asked the API for; probes, metrics and the console's own are left out."""
    statuses: dict[str, list[str]] = {}
    for operation, status in figures.labels("requests"):
        if operation in _ASKED or operation.partition("_")[0] in _DIALECTS:
            statuses.setdefault(operation, []).append(status)
    return [
        told.RequestsNow(
            operation=operation,
            failed=sum(
                figures.count("requests", operation, status)["total"]
                for status in found
                if not status.startswith("2")
            ),
            **figures.count("requests", operation),
        )
        for operation, found in statuses.items()
    ]


def list_partitions(look: Look) -> list[told.PartitionNow]:
    """What workers have read of each partition."""
    return [
        told.PartitionNow(
            topic=topic,
            partition=number,
            first=place.first,
            end=place.end,
            committed=place.committed,
            lag=place.lag,
            age_ms=look.waits_ms.get((topic, number)),
        )
        for (topic, number), place in sorted(look.places.items())
        if topic in log_topics()
    ]


def make_latency(counts: Mapping[str, float], figure: str = "answer_seconds") -> told.LatencyNow:
    """The quantiles of a histogram of seconds.

    Args:
        figure: `answer_seconds` or `row_seconds`.
    """
    buckets = find_buckets(counts, figure)
    p50, p99 = (quantile(buckets, fraction) for fraction in (0.5, 0.99))
    return told.LatencyNow(
        p50_ms=None if p50 is None else 1000 * p50,
        p99_ms=None if p99 is None else 1000 * p99,
        count=round(buckets.get(math.inf, 0.0)),
    )


def find_shape(answer: told.NowAnswer) -> str:
    """What stands in an answer besides its numbers."""
    texts = [
        [each.topic for each in answer.events],
        [(each.variant, each.fallback) for each in answer.answers],
        [each.operation for each in answer.requests],
        [each.topic for each in answer.dead_letters],
        [(each.topic, each.partition) for each in answer.partitions],
        [(each.variant, each.version, each.workers, each.problem) for each in answer.versions],
        [(each.name, each.address, each.state, each.detail) for each in answer.servers],
        [(each.item_id, each.title) for each in answer.trends.items],
        answer.missing,
    ]
    return xxhash.xxh3_64_hexdigest(encode(texts))


def find_missing(look: Look, settings: Settings) -> dict[str, Problem]:
    """What cannot be told, and why."""
    missing = {}
    if "kafka" in look.problems:
        missing["partitions"] = make_problem(
            "unavailable", look.problems["kafka"], "headwater status says which server is away"
        )
    is_any_told = any(each.process for each in look.samples)
    if "prometheus" in look.problems:
        missing["events"] = make_problem(
            "unavailable",
            f"the Prometheus of console.prometheus_url {look.problems['prometheus']}",
            "correct console.prometheus_url, or start it",
        )
    elif settings.console.prometheus_url:
        if not is_any_told:
            missing["events"] = make_problem(
                "unavailable",
                "the Prometheus of console.prometheus_url has no metrics of Headwater",
                "name the ports of worker.metrics_port in its scrape_configs, and start a worker",
            )
    elif not settings.console.targets and not settings.worker.metrics_port:
        missing["events"] = make_problem(
            "not-found",
            "workers tell no metrics: worker.metrics_port is 0",
            "set worker.metrics_port, such as 9188, and start workers and console again; "
            "where workers run elsewhere, set console.targets",
        )
    elif "worker" in look.problems or not is_any_told:
        missing["events"] = make_problem(
            "unavailable",
            f"no worker tells its metrics: {look.problems.get('worker', 'none answers')}",
            "start one: headwater worker; where it runs elsewhere, set console.targets",
        )
    return missing


def make_history(span: told.Span, steps: Sequence[tuple[int, Slot]]) -> told.HistoryAnswer:
    """The lines of a history."""
    lines = sorted(_list_lines(steps), key=lambda line: line.name)
    return told.HistoryAnswer(
        span=span,
        step_s=SPANS[span].step_s,
        times=[1000 * at for at, _ in steps],
        series=[
            told.Series(
                name=line.name, unit=line.unit, values=[line.value(slot) for _, slot in steps]
            )
            for line in lines
        ],
    )


class _Line(NamedTuple):
    name: str
    unit: str
    value: Callable[[Slot], float | None]


def _list_lines(steps: Sequence[tuple[int, Slot]]) -> Iterator[_Line]:
    """What was ever seen in a span, each as a line."""
    types = {spec.topic: name for name, spec in EVENT_TYPES.items()}
    counts = sorted({name for _, slot in steps for name in slot.counts})
    by_line: dict[str, list[str]] = {"answers.all": [], "fallbacks": [], "dead_letters": []}
    for key in counts:
        figure, _, rest = key.partition("|")
        if figure == "events":
            by_line[f"events.{types.get(rest, rest)}"] = [key]
        elif figure == "answers":
            said, _, variant = rest.partition("|")
            by_line.setdefault(f"answers.{variant}", []).append(key)
            by_line["answers.all"].append(key)
            if said == "True":
                by_line["fallbacks"].append(key)
        elif figure == "dead_letters":
            by_line["dead_letters"].append(key)
    for name, keys in by_line.items():
        yield _Line(name, "per_second", partial(_sum_rates, keys=keys))
    yield _Line("latency.p50", "ms", lambda slot: make_latency(slot.counts).p50_ms)
    yield _Line("latency.p99", "ms", lambda slot: make_latency(slot.counts).p99_ms)
    yield _Line("knowledge.age", "ms", partial(_highest, key="age"))
    for key in sorted({name for _, slot in steps for name in slot.levels}):
        if key.startswith("lag|"):
            topic = key.removeprefix("lag|")
            yield _Line(f"lag.{topic}", "count", partial(_highest, key=key))


def _sum_rates(slot: Slot, keys: Iterable[str]) -> float | None:
    return slot.rate(sum(slot.counts.get(key, 0.0) for key in keys))


def _highest(slot: Slot, key: str) -> float | None:
    level = slot.levels.get(key)
    return level.high if level else None
