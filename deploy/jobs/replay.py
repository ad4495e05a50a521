"""Stream a log into Kafka in event-time order, at a chosen pace."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from headwater_client import EventProducer
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from trainer.datasets import Log

# Events due within this are sent together: a shorter sleep costs more than it is exact.
TICK_S = 0.001
# How often progress is told and, while nothing is due, a wish to stop is heard.
PROGRESS_S = 0.1
FLUSH_TIMEOUT_S = 300.0

Pace = Callable[[int, Interaction], float]
"""When an event is due, in seconds after the start, by its index and itself; never descending."""


def immediate_pace(_index: int, _event: Interaction) -> float:
    """As fast as Kafka takes them."""
    return 0.0


def rate_pace(events_per_second: float) -> Pace:
    """So many a second, whatever their times say."""
    return lambda index, _event: index / events_per_second


def speed_pace(speed: float, first_ms: int) -> Pace:
    """By the events' own times, of which `speed` seconds pass in one."""
    return lambda _index, event: (event.timestamp - first_ms) / 1000 / speed


class Stop(Protocol):
    """Says when to end early: an event of `threading` or of `multiprocessing`."""

    def is_set(self) -> bool:
        """Whether it is time."""


@dataclass(frozen=True)
class Clock:
    """Time as it passes; a test has another."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class ReplayResult:
    """What was sent; once the replay has ended, all of it acknowledged by Kafka."""

    items: int = 0
    refused: int = 0
    events_by_type: Counter[str] = field(default_factory=Counter)
    event_time_ms: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def events(self) -> int:
        """Events of all types."""
        return self.events_by_type.total()


def replay(
    log: Log,
    producer: EventProducer,
    pace: Pace = immediate_pace,
    on_progress: Callable[[ReplayResult], None] | None = None,
    stop: Event | None = None,
) -> ReplayResult:
    """Send a log to Kafka.

    Args:
        log: its items are sent first, then the rows that the event contract refuses (they end in
            `dead-letters`), then its events.
        producer: where to; it stays open.
        pace: when each event is due.
        on_progress: called about ten times a second, from this thread.
        stop: set it, from another thread, to end early; Ctrl-C does it too.

    Raises:
        DeliveryError: Kafka did not take some of it.
    """
    clock, stop, sent = Clock(), stop or Event(), ReplayResult()
    tell = _Throttled(on_progress or (lambda _: None), clock)
    start = clock.now_s()
    try:
        _send_catalogue(log, producer, sent)
        for event in paced_events(log.events, pace, stop, clock):
            producer.send(event)
            sent.events_by_type[EVENT_TYPES.spec_of(event).name] += 1
            sent.event_time_ms = event.timestamp
            tell(sent)
    except KeyboardInterrupt:
        stop.set()
    producer.flush(FLUSH_TIMEOUT_S)
    sent.seconds = clock.now_s() - start
    sent.interrupted = sent.events < len(log.events)
    return sent


def paced_events(
    events: Iterable[Interaction], pace: Pace, stop: Stop, clock: Clock
) -> Iterator[Interaction]:
    """The events, each when it is due; ends early once `stop` is set."""
    start = now = clock.now_s()
    for index, event in enumerate(events):
        due = start + pace(index, event)
        while due > now and due > (now := clock.now_s()):
            if stop.is_set():
                return
            clock.sleep(min(max(due - now, TICK_S), PROGRESS_S))
        if stop.is_set():
            return
        yield event


def _send_catalogue(log: Log, producer: EventProducer, sent: ReplayResult) -> None:
    for item in log.items:
        producer.send(item)
        sent.items += 1
    for row in log.refused:
        producer.send_raw(row.topic, f"{row.table}/{row.row}", row.raw)
        sent.refused += 1
    # Other partitions overtake: the items are there before the first event asks for one.
    producer.flush(FLUSH_TIMEOUT_S)


class _Throttled:
    """Tells progress, but not with each event."""

    def __init__(self, tell: Callable[[ReplayResult], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._start = self._told = clock.now_s()

    def __call__(self, sent: ReplayResult) -> None:
        now = self._clock.now_s()
        if now - self._told >= PROGRESS_S:
            sent.seconds, self._told = now - self._start, now
            self._tell(sent)
