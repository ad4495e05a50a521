"""What is seen every two seconds: metrics, offsets, servers. One look serves all who ask.

Looks are taken in a thread: nobody's answer waits for a server that hangs. What a look saw goes
into the history (`deploy.console.history`), and stands in `NowBoard.newest` until the next one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit

import structlog
from headwater_client import EVENT_TYPES, HeadwaterError
from headwater_client.admin.now import ServerNow, ServerState, Span
from headwater_client.documents import DocumentError, read_json
from headwater_client.topics import DEAD_LETTERS, RECOMMENDATIONS

from deploy import local
from deploy.console import readings
from deploy.console.ages import AgeWatch, Source, find_age, hold
from deploy.console.history import LOOK_S, NOTHING, History, Level, Slot, look_at, merge
from deploy.console.readings import CounterWatch, MetricsSource, Reading
from deploy.settings import Settings
from features.kafka import log_topics, message_times
from features.kafka.lag import LagReader, PartitionPlace

CHECK_S = 10.0
NOW_LOOKS, MINUTE_LOOKS = 5, 30
_AWAY_S = 60.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (asked, not listened on)
log = structlog.get_logger()


@dataclass(frozen=True)
class Look:
    """What one look saw.

    Attributes:
        samples: what all processes say of themselves.
        totals: their counters together, each since its process began.
        recent, minute, hour, day: what was seen in the last ten seconds, and longer. What a
            Prometheus says is as old as its scrapes: there `recent` is the minute.
        recent_s: how many seconds `recent` is.
        places: of each partition; empty where Kafka does not answer.
        waits_ms: of each partition, how long the oldest message has waited that no row holds, where
            that is known.
        age_ms: how long after they came answers know events; None where that is not known.
        problems: why something is missing, by what it is: a process, or `kafka`.
    """

    time_ms: int
    samples: tuple[Reading, ...] = ()
    totals: Mapping[str, float] = field(default_factory=dict)
    recent: Slot = NOTHING
    minute: Slot = NOTHING
    hour: Slot = NOTHING
    day: Slot = NOTHING
    recent_s: int = NOW_LOOKS * LOOK_S
    begin_ms: int | None = None
    places: Mapping[Source, PartitionPlace] = field(default_factory=dict)
    waits_ms: Mapping[Source, int | None] = field(default_factory=dict)
    age_ms: int | None = None
    problems: Mapping[str, str] = field(default_factory=dict)


class NowBoard:
    """Looks at everything, again and again.

    Attributes:
        newest: what the last look saw; None before the first.
        servers: how each server and service was when it was asked last.
        history: None before the first look.
    """

    def __init__(
        self, settings: Settings, source: MetricsSource, targets: Mapping[str, str]
    ) -> None:
        self.newest: Look | None = None
        self.servers: list[ServerNow] = []
        self.history: History | None = None
        self._settings = settings
        self._source = source
        self._targets = dict(targets)
        self._counters = CounterWatch()
        self._lag = LagReader(settings.kafka, settings.worker.group)
        self._followed = frozenset(log_topics())
        self._waits = AgeWatch(lambda places: message_times(settings.kafka, places))
        self._recent: deque[Slot] = deque(maxlen=MINUTE_LOOKS)
        self._recent_looks = MINUTE_LOOKS if settings.console.prometheus_url else NOW_LOOKS
        self._answered: dict[str, float] = {}
        self._said: dict[str, tuple[float, list[Reading]]] = {}
        self._watched: tuple[float, float] | None = None

    async def run(self, on_look: Callable[[], None]) -> None:
        """Look for ever.

        Args:
            on_look: called in the event loop after each look.
        """
        path = self._settings.local.state_dir / "console" / "history.sqlite"
        self.history = await asyncio.to_thread(History, path)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(self.look, LOOK_S, on_look))
                group.create_task(self._repeat(self.check_servers, CHECK_S, on_look))
        finally:
            self.history.close()
            self._lag.close()

    async def _repeat(
        self, work: Callable[[], None], every_s: float, on_look: Callable[[], None]
    ) -> None:
        while True:
            begin_s = time.monotonic()
            try:
                await asyncio.to_thread(work)
                on_look()
            except Exception:
                # A page that stands still is no reason to end what answers people.
                log.exception("now_not_looked_at", what=work.__name__)
            await asyncio.sleep(max(0.1, every_s - (time.monotonic() - begin_s)))

    def look(self) -> None:
        """Look once."""
        assert self.history is not None
        said = self._source.read()
        problems = {name: why for name, why in said.problems.items() if why}
        now_s, wall_s = time.monotonic(), time.time()
        samples = self._recall_samples(said.samples, now_s)
        places = self._read_places(problems)
        waits_ms = self._find_waits(places, samples, (now_s, wall_s), problems)
        counted = Slot(
            self._watch_seconds(said.problems, now_s, wall_s), self._counters.take(samples)
        )
        recent = merge([*list(self._recent)[1 - self._recent_looks :], counted])
        is_told = any(each.process for each in samples)
        age_ms = find_age(waits_ms, recent.counts if is_told else None)
        slot = Slot(counted.seconds, counted.counts, self._levels(places, age_ms))
        self.history.add(slot)
        self._recent.append(slot)
        self.newest = Look(
            time_ms=int(wall_s * 1000),
            samples=tuple(samples),
            totals=readings.sum_counters(samples),
            recent=recent,
            minute=merge(self._recent),
            hour=self.history.total(Span.HOUR),
            day=self.history.total(Span.DAY),
            recent_s=self._recent_looks * LOOK_S,
            begin_ms=self.history.begin_ms(),
            places=places,
            waits_ms=waits_ms,
            age_ms=age_ms,
            problems=problems,
        )

    def _recall_samples(self, samples: Iterable[Reading], now_s: float) -> list[Reading]:
        """What all processes say; of one that does not answer for a moment, what it said last."""
        said: dict[str, list[Reading]] = {}
        for reading in samples:
            said.setdefault(reading.process, []).append(reading)
        self._said |= {process: (now_s, each) for process, each in said.items()}
        self._said = {n: each for n, each in self._said.items() if now_s - each[0] < _AWAY_S}
        return [reading for _, each in self._said.values() for reading in each]

    def _read_places(self, problems: dict[str, str]) -> Mapping[Source, PartitionPlace]:
        """Each partition; none, and a problem, where Kafka is away."""
        others = {*EVENT_TYPES.all_topics, RECOMMENDATIONS, DEAD_LETTERS} - self._followed
        try:
            return self._lag.read(self._followed, others)
        except HeadwaterError as error:
            problems["kafka"] = " ".join(str(error).split())
            return {}

    def _find_waits(
        self,
        places: Mapping[Source, PartitionPlace],
        samples: Iterable[Reading],
        clocks: tuple[float, float],
        problems: dict[str, str],
    ) -> Mapping[Source, int | None]:
        """As `AgeWatch.take`, of what the workers' group reads; a problem where Kafka is away."""
        read = {source: place for source, place in places.items() if source[0] in self._followed}
        now_s, wall_s = clocks
        try:
            return self._waits.take(hold(read, samples), now_s, int(wall_s * 1000))
        except HeadwaterError as error:
            problems["kafka"] = " ".join(str(error).split())
            return {}

    def _levels(
        self, places: Mapping[Source, PartitionPlace], age_ms: int | None
    ) -> dict[str, Level]:
        """The levels that the history keeps."""
        lags: dict[str, float] = {}
        for (topic, _), place in places.items():
            if topic in self._followed:
                lags[topic] = lags.get(topic, 0.0) + place.lag
        levels = {f"lag|{topic}": look_at(lag) for topic, lag in lags.items()}
        if age_ms is not None:
            levels["age"] = look_at(float(age_ms))
        return levels

    def _watch_seconds(self, problems: Mapping[str, str], now_s: float, wall_s: float) -> float:
        """For how long counters were watched since they were last; 0 while a process is away.

        What it counts meanwhile is seen when it is back: over all of that time.
        """
        self._answered |= {name: now_s for name, why in problems.items() if not why}
        gone = [at for name, at in self._answered.items() if problems.get(name, "gone")]
        if self._watched and any(now_s - at < _AWAY_S for at in gone):
            return 0.0
        before, self._watched = self._watched, (now_s, wall_s)
        # The clock that never goes back stands still while the machine sleeps.
        return max(now_s - before[0], wall_s - before[1]) if before else 0.0

    def check_servers(self) -> None:
        """Ask each server and service how it is."""
        problems = self.newest.problems if self.newest else {}
        asked = [*local.NAMES, *self._targets]
        with ThreadPoolExecutor(len(asked)) as pool:
            servers = pool.map(self._check_server, local.NAMES)
            services = pool.map(
                lambda name: check_service(name, self._targets[name], self._is_named), self._targets
            )
            found = [*servers, *services]
        # Of a Prometheus, whose processes are known by what it says.
        others = set(problems) - {each.name for each in found} - {"kafka"}
        found += [ServerNow(name=n, address="", state=ServerState.AWAY, detail=problems[n])
                  for n in sorted(others)]  # fmt: skip
        self.servers = found

    @property
    def _is_named(self) -> bool:
        return bool(self._settings.console.targets)

    def _check_server(self, name: str) -> ServerNow:
        address = local.addresses(self._settings)[name] or ""
        try:
            ailment = local.find_ailment(self._settings, name)
        except HeadwaterError as error:
            ailment = str(error)
        state = ServerState.AWAY if ailment else ServerState.WELL
        return ServerNow(name=name, address=address, state=state, detail=ailment)


def check_service(name: str, url: str, is_named: bool) -> ServerNow:
    """Whether a service is ready, as its /readyz says.

    Args:
        url: of its metrics.
        is_named: whether the settings say that it is there.
    """
    parts = urlsplit(url)
    ready = urlunsplit(parts._replace(path="/readyz", query=""))
    detail = ""
    try:
        readings.fetch(ready)
        state = ServerState.WELL
    except HTTPError as error:
        # Who knows no probes and answers is up.
        state = ServerState.NOT_READY if error.code == 503 else ServerState.WELL
        detail = _read_missing(error) if error.code == 503 else ""
    except (OSError, ValueError) as error:
        refused = isinstance(getattr(error, "reason", None), ConnectionRefusedError)
        state = ServerState.NOT_HERE if refused and not is_named else ServerState.AWAY
        detail = readings.explain(error) if isinstance(error, OSError) else str(error)
    return ServerNow(name=name, address=parts.netloc, state=state, detail=detail)


def _read_missing(error: HTTPError) -> str:
    """What a service that is not ready lacks."""
    try:
        found: Any = read_json((error.fp or BytesIO()).read(readings.MAX_BYTES), dict)
    except (DocumentError, OSError):
        return "is not ready"
    missing = found.get("missing") or {}
    return "; ".join(f"{name}: {why}" for name, why in missing.items()) or "is not ready"


def find_targets(settings: Settings) -> dict[str, str]:
    """The addresses of metrics, by what each is called: those of the settings, or this machine's.

    None where a Prometheus is asked.
    """
    if settings.console.targets or settings.console.prometheus_url:
        return {urlsplit(url).netloc: url for url in settings.console.targets}
    ports = {
        "worker": (settings.worker.metrics_address, settings.worker.metrics_port),
        "trainer": (settings.trainer.metrics_address, settings.trainer.metrics_port),
        "controller": (settings.rollout.metrics_address, settings.rollout.metrics_port),
        "api": (settings.api.address, settings.api.port),
    }
    return {
        name: f"http://{_host(address)}:{port}/metrics"
        for name, (address, port) in ports.items()
        if port
    }


def _host(address: str) -> str:
    here = _ANY_ADDRESS.get(address, address)
    return f"[{here}]" if ":" in here else here


def make_source(settings: Settings, targets: Mapping[str, str]) -> MetricsSource:
    """Where metrics are read: a Prometheus, where the settings name one; else each process."""
    console = settings.console
    key = console.metrics_key.get_secret_value() if console.metrics_key else None
    if console.prometheus_url:
        return readings.PrometheusReader(console.prometheus_url, key)
    return readings.TargetReader(targets, key)
