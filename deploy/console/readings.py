"""What the metrics of all processes say: read from their ports, or asked of Prometheus.

A reading is one sample of one process. `CounterWatch` turns what counters say into what happened
since it looked last: a process that began again counts from 0.
"""

import math
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import msgspec
from headwater_client.documents import DocumentError, read_json
from msgspec import Struct
from prometheus_client import REGISTRY, parser
from prometheus_client.registry import CollectorRegistry

from deploy.console.history import MAX_FIGURES

ANSWER_S = 3.0
MAX_BYTES = 8 * 1024 * 1024
BEGAN = "process_start_time_seconds"
BUCKET = "_bucket"
# A process that was not seen for so many looks is forgotten.
_FORGET_LOOKS = 1800
_SEPARATOR = "|"

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "headwater_events_total": ("events", ("topic",)),
    "headwater_recommendations_total": ("answers", ("fallback", "variant")),
    "headwater_event_to_answer_seconds_bucket": ("answer_seconds", ("le",)),
    "headwater_event_to_row_seconds_bucket": ("row_seconds", ("le",)),
    "headwater_dead_letters_total": ("dead_letters", ("topic",)),
    "headwater_unanswered_events_total": ("unanswered", ("reason",)),
    "headwater_api_requests_total": ("requests", ("operation", "status")),
}
"""The counters that are kept, by the name of their samples: of which figure, by which labels."""

HISTOGRAMS = frozenset(figure for name, (figure, _) in COUNTERS.items() if name.endswith(BUCKET))
ABSORBED = "headwater_absorbed_offset"
GAUGES = ("headwater_routed_version", "headwater_routed_versions_missing", ABSORBED)
NAMES = frozenset((*COUNTERS, *GAUGES, BEGAN))


class Reading(NamedTuple):
    """One sample of a process's metrics."""

    process: str
    name: str
    labels: Mapping[str, str]
    value: float


class Readings(NamedTuple):
    """What all processes said.

    Attributes:
        problems: by process, why it said nothing; "" where it did.
    """

    samples: Sequence[Reading]
    problems: Mapping[str, str]


class MetricsSource(Protocol):
    """Where metrics are read."""

    def read(self) -> Readings:
        """What all processes say now; nothing raises."""


def figure_key(reading: Reading) -> str | None:
    """What a counter is kept under, such as events|clicks; None for one that is not kept.

    >>> figure_key(Reading("w", "headwater_events_total", {"topic": "clicks"}, 3.0))
    'events|clicks'
    """
    known = COUNTERS.get(reading.name)
    if known is None:
        return None
    figure, labels = known
    return _SEPARATOR.join((figure, *(reading.labels.get(label, "") for label in labels)))


def find_figures(counts: Mapping[str, float], figure: str) -> dict[tuple[str, ...], float]:
    """The counts of a figure, by the values of its labels.

    >>> find_figures({"events|clicks": 3.0, "answers|False|stable": 2.0}, "answers")
    {('False', 'stable'): 2.0}
    """
    labels = next(labels for name, labels in COUNTERS.values() if name == figure)
    prefix = f"{figure}{_SEPARATOR}"
    return {
        tuple(key.removeprefix(prefix).split(_SEPARATOR, len(labels) - 1)): count
        for key, count in counts.items()
        if key.startswith(prefix)
    }


def find_buckets(counts: Mapping[str, float], figure: str) -> dict[float, float]:
    """The counts of a histogram's buckets, by upper bound: however it was written.

    >>> find_buckets({"row_seconds|1.0": 2.0, "row_seconds|1": 3.0}, "row_seconds")
    {1.0: 5.0}
    """
    found: dict[float, float] = {}
    for (bound,), count in find_figures(counts, figure).items():
        found[float(bound)] = found.get(float(bound), 0.0) + count
    return found


def sum_counters(samples: Iterable[Reading]) -> dict[str, float]:
    """What the counters of all processes say together, each since its process began."""
    total: dict[str, float] = {}
    for reading in samples:
        if key := figure_key(reading):
            total[key] = total.get(key, 0.0) + reading.value
    return total


class _Counters:
    """What a process said last."""

    def __init__(self, began_s: float, look: int) -> None:
        self.began_s = began_s
        self.look = look
        self.values: dict[str, float] = {}


class CounterWatch:
    """What counters grew by from look to look.

    What a process counted before it was first seen is not known to be new, unless it began after
    the first look: then all of it is.

    >>> watch = CounterWatch()
    >>> def say(began, count):
    ...     counter = Reading("w", "headwater_events_total", {"topic": "clicks"}, count)
    ...     return [Reading("w", BEGAN, {}, began), counter]
    >>> [watch.take(say(*said), now_s=10.0) for said in ((5.0, 7.0), (5.0, 9.0), (12.0, 1.0))]
    [{}, {'events|clicks': 2.0}, {'events|clicks': 1.0}]
    """

    def __init__(self) -> None:
        self._processes: dict[str, _Counters] = {}
        self._first_s: float | None = None
        self._looks = 0

    def take(self, samples: Iterable[Reading], now_s: float | None = None) -> dict[str, float]:
        """What was counted since the last look, by figure."""
        self._looks += 1
        said: dict[str, list[Reading]] = {}
        for reading in samples:
            said.setdefault(reading.process, []).append(reading)
        grown: dict[str, float] = {}
        for process, readings in said.items():
            for key, increase in self._take_process(process, readings):
                if key in grown or len(grown) < MAX_FIGURES:
                    grown[key] = grown.get(key, 0.0) + increase
        if self._first_s is None:
            self._first_s = time.time() if now_s is None else now_s
        forget = self._looks - _FORGET_LOOKS
        self._processes = {n: each for n, each in self._processes.items() if each.look > forget}
        return grown

    def _take_process(
        self, process: str, readings: Sequence[Reading]
    ) -> Iterator[tuple[str, float]]:
        began_s = next((each.value for each in readings if each.name == BEGAN), 0.0)
        counters = self._processes.get(process)
        is_known = counters is not None
        if counters is None or counters.began_s != began_s:
            counters = self._processes[process] = _Counters(began_s, self._looks)
            is_known = is_known or (self._first_s is not None and began_s > self._first_s)
        counters.look = self._looks
        increases: dict[str, float] = {}
        for reading in readings:
            if (key := figure_key(reading)) is None:
                continue
            before = counters.values.get(key, 0.0)
            counters.values[key] = reading.value
            # Less than before: it began again, and does not say when.
            increases[key] = reading.value - before if reading.value >= before else reading.value
        if not is_known:
            return
        grown = {key.partition(_SEPARATOR)[0] for key, increase in increases.items() if increase}
        for key, increase in increases.items():
            figure = key.partition(_SEPARATOR)[0]
            # A bucket that is empty says where the next one begins.
            if increase > 0 or (figure in HISTOGRAMS and figure in grown):
                yield key, increase


class TargetReader:
    """Reads the metrics of processes from their ports, and of this process from memory.

    Args:
        targets: addresses, such as http://127.0.0.1:9188/metrics, by what each is called.
        key: sent to each: that of the HTTP API asks for one.
        registry: of this process.
    """

    def __init__(
        self, targets: Mapping[str, str], key: str | None, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._targets = dict(targets)
        self._key = key
        self._registry = registry
        self._pool = ThreadPoolExecutor(max(1, len(targets)), "metrics")

    def read(self) -> Readings:
        """As `MetricsSource.read`."""
        asked = list(self._pool.map(self._read_target, self._targets.items()))
        samples = [*read_registry(self._registry), *(each for said, _ in asked for each in said)]
        problems = {name: why for name, (_, why) in zip(self._targets, asked, strict=True)}
        return Readings(samples, problems)

    def _read_target(self, target: tuple[str, str]) -> tuple[list[Reading], str]:
        name, url = target
        try:
            text = fetch(url, self._key).decode()
            return list(read_text(name, text)), ""
        except ValueError as error:
            return [], f"{url} answers no metrics: {error}"
        except OSError as error:
            return [], explain(error)


def read_text(process: str, text: str) -> Iterator[Reading]:
    """The samples that are kept, of metrics in Prometheus' text format.

    Raises:
        ValueError: it is none.
    """
    # Most lines are of others: to look at a line costs a hundredth of reading it.
    kept = (line for line in text.splitlines() if _name_of(line) in NAMES)
    for family in parser.text_string_to_metric_families("\n".join((*kept, ""))):
        for sample in family.samples:
            # Without their types, counters are read under the names that they stand under.
            if math.isfinite(sample.value):
                yield Reading(process, sample.name, sample.labels, sample.value)


def _name_of(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0]


def read_registry(registry: CollectorRegistry) -> Iterator[Reading]:
    """The samples of this process that are kept."""
    for family in registry.collect():
        for sample in family.samples:
            if sample.name in NAMES:
                yield Reading("", sample.name, sample.labels, sample.value)


class _Result(Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Data(Struct):
    result: list[_Result] = []


class _QueryAnswer(Struct):
    status: str
    data: _Data = msgspec.field(default_factory=_Data)
    error: str = ""


class PrometheusReader:
    """Asks a Prometheus for what it read last of all processes (its HTTP API, instant query).

    Args:
        url: of the Prometheus.
        key: sent as a bearer token.
    """

    def __init__(self, url: str, key: str | None) -> None:
        query = '{__name__=~"' + "|".join(sorted(NAMES | {"up"})) + '"}'
        self._url = f"{url.rstrip('/')}/api/v1/query?query={quote(query)}"
        self._key = key
        self._ours: set[str] = set()

    def read(self) -> Readings:
        """As `MetricsSource.read`."""
        try:
            answer = read_json(fetch(self._url, self._key), _QueryAnswer)
        except (DocumentError, ValueError) as error:
            return Readings([], {"prometheus": f"answers no query: {error}"})
        except OSError as error:
            return Readings([], {"prometheus": explain(error)})
        if answer.status != "success":
            return Readings([], {"prometheus": answer.error or answer.status})
        samples = [_read_result(each) for each in answer.data.result]
        samples = [each for each in samples if math.isfinite(each.value)]
        # Prometheus watches others too: ours are those that have said something of ours.
        self._ours |= {each.process for each in samples if each.name.startswith("headwater_")}
        problems = {
            each.process: "" if each.value else "Prometheus cannot read it"
            for each in samples
            if each.name == "up" and each.process in self._ours
        }
        ours = [each for each in samples if each.process in self._ours and each.name != "up"]
        return Readings(ours, {"prometheus": "", **problems})


def _read_result(result: _Result) -> Reading:
    labels = dict(result.metric)
    name, job = labels.pop("__name__", ""), labels.pop("job", "")
    process = f"{job} {labels.pop('instance', '')}".strip()
    return Reading(process, name, labels, float(result.value[1]))


def fetch(url: str, key: str | None = None) -> bytes:
    """The body of an answer.

    Raises:
        OSError: there is none, or it says that it is none.
        ValueError: it is longer than metrics are.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url}: expected http:// or https://")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (looked at above)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
            body: Any = answer.read(MAX_BYTES + 1)
    except HTTPException as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if len(body) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return bytes(body)


def explain(error: OSError) -> str:
    """Why there was no answer, in a line."""
    reason = getattr(error, "reason", None) or error.strerror or error
    return " ".join(f"does not answer: {reason}".split())
