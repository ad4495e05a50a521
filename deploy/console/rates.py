"""What is not as it was: rates of items and categories, features and scores that drift.

    topics of events ──▶ people of a tick ──▶ watches (items, categories, all) ──▶ anomalies
    recommendations  ──▶ scores, reasons ─┐
    windows          ──▶ columns ─────────┴─▶ blocks ──▶ drift

A thread reads what arrives, as Kafka stamps it: no clock of an app has a part in it. A console that
starts reads some of the past first, and comes to the same alarms: nothing is stored.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import msgspec
import structlog
from confluent_kafka import Message
from headwater_client import EVENT_TYPES, HeadwaterError, ServerError
from headwater_client.admin.forecast import SeriesKind
from headwater_client.decoders import get_json_decoder
from headwater_client.topics import RECOMMENDATIONS
from msgspec import Struct

from deploy.monitoring import anomalies, distributions, takers
from deploy.monitoring.settings import MonitoringSettings
from features.events import arrival_ms, current_ms
from features.kafka import is_end
from features.rules.table import CatalogueTable
from features.settings import BrokerSettings
from trainer.windows.reader import MessageReader, source_of
from trainer.windows.store import WindowStore

GROUP = "headwater-console"
# Of the past, before what arrives is followed: so many messages, and so long ago.
_PAST_MESSAGES = 400_000
_PAST_HALF_LIVES = 2
_AGAIN_S = 5.0
_LOOK_S = 10.0
_SETTLE_MS = 1000
_KEPT = 500
# An anomaly is over when nothing was seen of it for so long.
_OVER_MS = 15 * 60_000
# Each kind has its part of the false alarms.
_KINDS = {SeriesKind.ITEM: 0.5, SeriesKind.CATEGORY: 0.4, SeriesKind.ALL: 0.1}
_EVERYTHING = "everything"
# Everything has hours of its own: it is compared with the last half an hour.
_MEMORY_OF_ALL_S = 1800.0
log = structlog.get_logger()
Source = tuple[str, int]


class _TakenItem(Struct):
    """What a rate needs of an event."""

    user_id: str = ""
    item_id: str = ""


@dataclass(frozen=True)
class SeenAnomaly:
    """An anomaly of a series, and how long it has gone on."""

    kind: SeriesKind
    alarm: anomalies.RateAlarm
    seen_ms: int


class RateSignals:
    """The watches of all kinds, and what they have raised. Used by one thread at a time.

    Args:
        categories_of: the categories of an item by its id, as the catalogue has them now.

    Attributes:
        ticks: how many were compared.
    """

    def __init__(
        self, settings: MonitoringSettings, categories_of: distributions.CategoriesOf
    ) -> None:
        self.ticks = 0
        self._categories_of = categories_of
        self._watches = {
            kind: anomalies.RateWatch(
                anomalies.WatchRules(
                    settings.tick_s,
                    settings.memory_s
                    if kind is not SeriesKind.ALL
                    else min(settings.memory_s, _MEMORY_OF_ALL_S),
                    part * settings.false_alarms_per_week,
                    follows_level=kind is not SeriesKind.ALL,
                )
            )
            for kind, part in _KINDS.items()
        }
        self._counters = {kind: takers.TakerCounter() for kind in _KINDS}
        self._seen: dict[tuple[SeriesKind, str, str], SeenAnomaly] = {}
        self._over: deque[SeenAnomaly] = deque(maxlen=_KEPT)
        self._at_ms = 0

    def add(self, takes: AbstractSet[tuple[str, str]], at_ms: int) -> None:
        """Add a tick of (person, item)."""
        by_kind = {
            SeriesKind.ITEM: takes,
            SeriesKind.CATEGORY: [
                (person, category)
                for person, item in takes
                for category in self._categories_of(item)
            ],
            SeriesKind.ALL: [(person, _EVERYTHING) for person, _ in takes],
        }
        for kind, of_kind in by_kind.items():
            tick = self._counters[kind].count(of_kind)
            for alarm in self._watches[kind].add(tick, at_ms):
                self._note(kind, alarm)
        self._at_ms = at_ms
        self.ticks += 1
        ended = [key for key, each in self._seen.items() if at_ms - each.seen_ms > _OVER_MS]
        self._over.extend(self._seen.pop(key) for key in ended)

    def _note(self, kind: SeriesKind, alarm: anomalies.RateAlarm) -> None:
        key = kind, alarm.name, alarm.direction.value
        before = self._seen.pop(key, None)
        if before is None:
            log.warning(
                "rate_anomaly",
                kind=kind.value,
                name=alarm.name,
                direction=alarm.direction.value,
                rate=round(alarm.rate, 1),
                expected=round(alarm.expected, 1),
            )
        else:
            alarm = replace(alarm, since_ms=before.alarm.since_ms, at_ms=before.alarm.at_ms)
        self._seen[key] = SeenAnomaly(kind, alarm, max(alarm.at_ms, self._at_ms))

    def list_anomalies(self) -> list[tuple[SeenAnomaly, bool]]:
        """Each, and whether it goes on; the newest first."""
        # Copied: the thread may add one meanwhile.
        found = [(each, True) for each in list(self._seen.values())]
        found += [(each, False) for each in list(self._over)]
        return sorted(found, key=lambda each: -each[0].alarm.at_ms)

    @property
    def thresholds(self) -> dict[SeriesKind, float]:
        """What the logarithm of evidence is compared with, by kind."""
        return {kind: watch.threshold for kind, watch in self._watches.items()}

    def count_watched(self) -> dict[str, int]:
        """How many series are watched, by kind."""
        return {kind.value: len(watch) for kind, watch in self._watches.items()}


@dataclass
class SignalFollower:
    """Follows Kafka and the windows in a thread of its own.

    Args:
        store: of the windows.
        table: the catalogue; read on the event loop only.

    Attributes:
        problem: why nothing is followed now; "" where it is.
        since_ms: the arrival of the first event that was counted.
    """

    kafka: BrokerSettings
    store: WindowStore
    settings: MonitoringSettings
    table: CatalogueTable
    problem: str = "what has arrived is being read: ask again in a moment"
    since_ms: int | None = None
    scores: distributions.ScoreSignals = field(default_factory=distributions.ScoreSignals)
    features: distributions.FeatureSignals = field(default_factory=distributions.FeatureSignals)
    _categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _next: dict[Source, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rates = RateSignals(self.settings, self._categories_of)
        self._events = get_json_decoder(_TakenItem)
        self._lists = get_json_decoder(distributions.ListScores)
        self._ticks = takers.TickCounter(self.settings.tick_s)
        half_lives_ms = int(_PAST_HALF_LIVES * 1000 * self.settings.memory_s)
        self._begins_ms = current_ms() - half_lives_ms

    def _categories_of(self, item: str) -> Sequence[str]:
        return self._categories.get(item, ())

    async def run(self) -> None:
        """Follow, for ever; told to stop, the thread ends with its turn."""
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="signals") as pool:
            following, revision = None, -1
            try:
                while following is None or not following.done():
                    if revision != self.table.revision:
                        revision = self.table.revision
                        self._categories = await asyncio.to_thread(
                            self.table.copy_lists("category")
                        )
                    following = following or loop.run_in_executor(pool, self._follow_again, stop)
                    await asyncio.to_thread(self._read_windows)
                    await asyncio.wait([following], timeout=_LOOK_S)
                await following
            finally:
                stop.set()

    def _read_windows(self) -> None:
        try:
            self.features.read_news(self.store, self._categories_of)
        except (HeadwaterError, OSError) as error:
            # Where the windows are may be away for a while.
            log.warning("windows_not_followed", reason=str(error))

    def _follow_again(self, stop: threading.Event) -> None:
        """Kafka may be away: then it is followed anew from where it was left."""
        while not stop.is_set():
            try:
                self._follow(stop)
            except ServerError as error:
                self.problem = str(error)
                log.warning("signals_not_followed", reason=str(error))
                stop.wait(_AGAIN_S)
            except Exception as error:  # the pages about all else must not end with it
                self.problem = f"an error of the console, see its log: {type(error).__name__}"
                # What it was about is passed over: it would be met again.
                log.exception("signals_failed")
                stop.wait(_AGAIN_S)

    def _follow(self, stop: threading.Event) -> None:
        taken = [
            spec.topic
            for spec in EVENT_TYPES.values()
            if spec.counts_for_items and not spec.takes_back
        ]
        with closing(MessageReader(self.kafka, GROUP, [*taken, RECOMMENDATIONS])) as reader:
            # The lists of one partition: those of some people, as good as all for a distribution.
            sources = [each for each in reader.sources if each[0] != RECOMMENDATIONS or not each[1]]
            bounds = reader.bounds(sources)
            past = _PAST_MESSAGES // len(sources)
            starts = {
                source: min(end, max(first, self._next.get(source, end - past)))
                for source, (first, end) in bounds.items()
            }
            behind = {source for source in sources if starts[source] < bounds[source][1]}
            reader.start(starts)
            while not stop.is_set():
                for message in reader.read():
                    source = source_of(message)
                    offset = message.offset() or 0
                    if is_end(message) or offset + 1 >= bounds[source][1]:
                        behind.discard(source)
                    if not is_end(message):
                        self._next[source] = offset + 1
                        self._take(message)
                if not behind:
                    self.problem = ""
                    # What has arrived by now is read a moment later.
                    for takes, at_ms in self._ticks.close(current_ms() - _SETTLE_MS):
                        self.rates.add(takes, at_ms)

    def _take(self, message: Message) -> None:
        value = message.value()
        at_ms = arrival_ms(message.timestamp()[1], current_ms())
        if value is None or at_ms < self._begins_ms:
            return
        try:
            if message.topic() == RECOMMENDATIONS:
                self.scores.add(self._lists.decode(value))
                return
            taken = self._events.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            # What is no event is a dead letter, by the worker.
            return
        if taken.item_id:
            self.since_ms = at_ms if self.since_ms is None else self.since_ms
            self._ticks.add(taken.user_id, taken.item_id, at_ms)
