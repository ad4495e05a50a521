"""The load: a process that produces events and one that reads recommendations.

What is produced is a log's events without end, people mixed; bench/README.md says why.

Both are an app's own clients (headwater_client). Each is told what to do through a pipe, so that
reading the log and starting up are over before anything is measured.
"""

import dataclasses
import gc
import multiprocessing
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count, islice
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any, Generic, TypeVar

from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.event_types import CLICK, EVENT_TYPES
from headwater_client.events import Interaction, Recommendation
from msgspec.structs import replace

from bench.harness.catalogue import extend_catalogue
from deploy.jobs.replay import Clock, Pace, immediate_pace, paced_events, rate_pace, replay
from features.settings import BrokerSettings
from trainer.datasets import DataSource, Log, load_log

_context = multiprocessing.get_context("spawn")
_POLL_S, _LOOK_S, _LATE_S = 0.02, 0.1, 5.0
_READ_BETWEEN_COMMANDS = 256
ENDLESS = sys.maxsize
"""So many events that only `Load.stop` ends them; each is made when it is due."""


# The log begins anew, later, when it has ended; a run does not need more passes than these.
PASSES = 32
_SEED = 7


class Order(StrEnum):
    """The order of events: people mixed evenly, or as the log has them."""

    MIXED = "mixed"
    LOGGED = "logged"


def generate_workload(
    log: Sequence[Interaction], order: Order, *, newcomers: bool = False
) -> Iterator[Interaction]:
    """The log's events again and again; each pass is later than the last, with ids of its own.

    Args:
        newcomers: each pass is other people's. The same people are recommended nothing any more
            that they take: they have taken it.
    """
    events = mix_people(log) if order is Order.MIXED else log
    step_ms = pass_ms(log, int(time.time() * 1000))
    for pass_number in count():
        if pass_number == 0:
            yield from events
            continue
        for event in events:
            yield replace(
                event,
                event_id=f"{event.event_id}~{pass_number}",
                user_id=f"{event.user_id}~{pass_number}" if newcomers else event.user_id,
                timestamp=event.timestamp + min(pass_number, PASSES) * step_ms,
            )


def mix_people(log: Sequence[Interaction]) -> list[Interaction]:
    """The events in a random order of people, each person's events in theirs."""
    events: defaultdict[str, list[Interaction]] = defaultdict(list)
    for event in log:
        events[event.user_id].append(event)
    turns = [event.user_id for event in log]
    random.Random(_SEED).shuffle(turns)
    own = {user_id: iter(theirs) for user_id, theirs in events.items()}
    return [next(own[user_id]) for user_id in turns]


def pass_ms(log: Sequence[Interaction], now_ms: int) -> int:
    """How much later a pass is than the one before: a log's length, but never in the future."""
    first = min(event.timestamp for event in log)
    last = max(event.timestamp for event in log)
    return max(0, min(last - first + 1, (now_ms - last) // PASSES))


@dataclass(frozen=True)
class Sent:
    """An event that was produced; `time_s` is `time.monotonic` of just before."""

    event_id: str
    user_id: str
    time_s: float
    topic: str = CLICK.topic


@dataclass(frozen=True)
class Answered:
    """A recommendation that was read; `time_s` is `time.monotonic` of just after."""

    event_id: str
    time_s: float
    fallback: bool
    version: str = ""

    @classmethod
    def note(cls, answer: Recommendation, time_s: float) -> "Answered":
        """What is kept of a recommendation."""
        return cls(answer.event_id, time_s, answer.fallback, answer.model_version)


def wait_answers(load: "Load[Answered]", last: Sequence[Sent]) -> list[Answered]:
    """All answers read by now; waits for the last one, which its commit may have overtaken."""
    wanted = {sent.event_id for sent in last}
    deadline = time.monotonic() + _LATE_S
    answers = load.take_answers()
    while wanted - {answer.event_id for answer in answers} and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        answers += load.take_answers()
    return answers


@dataclass(frozen=True)
class Sending:
    """Produce so many events.

    Attributes:
        rate: events a second; None: as fast as Kafka takes them.
        ahead: how many may be produced that are not committed yet; None: any number.
    """

    events: int
    rate: float | None = None
    ahead: int | None = None


@dataclass(frozen=True)
class Workload:
    """What is produced: a log's events in an order, again and again.

    Attributes:
        limit: only the first so many of them.
        since: only what comes after this fraction of them.
        newcomers: each time they are other people's.
        items: so many are in the catalogue, made-up ones among them; None: the log's own.
    """

    source: DataSource
    order: Order = Order.MIXED
    limit: int | None = None
    since: float = 0.0
    newcomers: bool = False
    items: int | None = None

    def load_log(self) -> Log:
        """Read the part of the log that is produced."""
        log = load_log(self.source)
        log = log.head(self.limit) if self.limit else log
        if self.items is not None:
            log = dataclasses.replace(log, items=extend_catalogue(log.items, self.items))
        return log.split(self.since)[1] if self.since else log


Noted = TypeVar("Noted")


class Load(Generic[Noted]):
    """The two processes, started; `handled` tells the producer how many events are committed.

    Args:
        note: what is kept of a recommendation, given when it was read; in the reader's process.
    """

    def __init__(
        self,
        kafka: BrokerSettings,
        workload: Workload,
        note: Callable[[Recommendation, float], Noted],
    ) -> None:
        self.handled: Synchronized[int] = _context.Value("q", 0)
        self._enough = _context.Event()
        self._producer, producer = _context.Pipe()
        self._reader, reader = _context.Pipe()
        self._processes = [
            _context.Process(
                target=_produce, args=(producer, self.handled, self._enough, kafka, workload)
            ),
            _context.Process(target=_read, args=(reader, kafka, note)),
        ]
        for process in self._processes:
            process.start()
        for pipe in (self._producer, self._reader):
            pipe.recv()

    @property
    def pids(self) -> dict[str, int]:
        """The processes by name."""
        names = ("producer", "reader")
        return dict(zip(names, (_pid(process) for process in self._processes), strict=True))

    def send_catalogue(self) -> int:
        """Produce the log's items; how many there are."""
        self._producer.send(None)
        items: int = self._producer.recv()
        return items

    def start(self, sending: Sending) -> None:
        """Begin to produce; `wait_sent` waits for its end."""
        self._enough.clear()
        self._producer.send(sending)
        self._producer.recv()

    def stop(self) -> None:
        """Produce no more of what was started."""
        self._enough.set()

    def wait_sent(self) -> list[Sent]:
        """Wait until all is produced."""
        events: list[Sent] = self._producer.recv()
        return events

    def take_answers(self) -> list[Noted]:
        """What the reader has read since the last call."""
        self._reader.send(None)
        answers: list[Noted] = self._reader.recv()
        return answers

    def close(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.terminate()
            process.join()


def _pid(process: SpawnProcess) -> int:
    assert process.pid is not None
    return process.pid


def _produce(
    pipe: "Connection[Any, Any]",
    handled: "Synchronized[int]",
    enough: Event,
    kafka: BrokerSettings,
    workload: Workload,
) -> None:
    _isolate()
    log = workload.load_log()
    events = generate_workload(log.events, workload.order, newcomers=workload.newcomers)
    pipe.send("ready")
    with EventProducer(kafka.client_settings) as producer:
        while True:
            sending: Sending | None = pipe.recv()
            if sending is None:
                pipe.send(replay(log.head(0), producer).items)
                continue
            # Made beforehand where they end, so that it costs nothing while it is measured.
            endless = sending.events == ENDLESS
            chosen = events if endless else list(islice(events, sending.events))
            pipe.send("started")
            pipe.send(_send(chosen, sending, producer, handled, enough))


def _isolate() -> None:
    """Keep what the benchmark itself does out of what is measured.

    Linux shares the processor among sessions first. Python's collector would stop the core for
    0.4 s, going over all that is remembered; there are no cycles to be collected.
    """
    os.setsid()
    gc.disable()


def _send(
    events: Iterable[Interaction],
    sending: Sending,
    producer: EventProducer,
    handled: "Synchronized[int]",
    enough: Event,
) -> list[Sent]:
    pace: Pace = immediate_pace if sending.rate is None else rate_pace(sending.rate)
    ahead = sending.ahead or sending.events
    sent = []
    for number, event in enumerate(paced_events(events, pace, enough, Clock())):
        while number - handled.value >= ahead:
            time.sleep(_POLL_S)
        topic = EVENT_TYPES.spec_of(event).topic
        sent.append(Sent(event.event_id, event.user_id, time.monotonic(), topic))
        producer.send(event)
    producer.flush()
    return sent


def _read(
    pipe: "Connection[Any, Any]",
    kafka: BrokerSettings,
    note: Callable[[Recommendation, float], Any],
) -> None:
    _isolate()
    read: list[Any] = []
    with RecommendationConsumer(kafka.client_settings) as consumer:
        pipe.send("ready")
        while True:
            for _ in range(_READ_BETWEEN_COMMANDS):
                recommendation = consumer.receive(_POLL_S)
                if recommendation is None:
                    break
                read.append(note(recommendation, time.monotonic()))
            if pipe.poll():
                pipe.recv()
                pipe.send(read)
                read = []
