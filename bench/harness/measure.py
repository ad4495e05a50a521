"""Which cores processes run on and what they use; sustained load and latency of one system."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from confluent_kafka import Consumer, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.topics import DEAD_LETTERS

from bench.harness.load import Answered, Load, Sending, Sent, wait_answers
from bench.harness.processes import SystemUnderTest
from features.kafka import client_config
from features.settings import BrokerSettings

# Of the events of a sustained run these come before the window that is measured.
WARM_UP = 0.2
SETTLE_S = 5.0
_POLL_S = 0.1
_MICROSECONDS = 1e6
_MILLISECONDS = 1e3

Latencies = dict[str, float]


# Of Linux's proportional set size what is no file's, in memory and swapped out.
_OWN = {"Pss_Anon", "Pss_Shmem", "SwapPss"}


@dataclass(frozen=True)
class SharedCores:
    """The cores that everything measured shares, and those left to whoever measures."""

    shared: frozenset[int]
    left: frozenset[int]

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is started in this block runs on the shared cores.

        Pinned before its start, because later only one thread of a process would move.
        """
        with _pin_to(self.shared):
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The caller keeps away from the shared cores, where there are others."""
        with _pin_to(self.left or self.shared):
            yield


def split_cores(number: int) -> SharedCores:
    """The cores that this process may use: the last so many of them are shared."""
    allowed = sorted(os.sched_getaffinity(0))
    return SharedCores(frozenset(allowed[-number:]), frozenset(allowed[:-number]))


@contextmanager
def _pin_to(cores: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class CpuMeter:
    """The CPU time of processes and of all that they have started.

    Args:
        pids: of each process by its name. What they start later is not seen.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._families = {name: _family(pid) for name, pid in pids.items()}

    def read(self) -> dict[str, float]:
        """User and system seconds so far, by name."""
        return {
            name: sum(_seconds(process) for process in family)
            for name, family in self._families.items()
        }


def memory_bytes(pid: int) -> int:
    """The memory of a process and of all that it has started; what they share counts once.

    Without pages of files, programs' and libraries' among them: how many of those are there, and
    who shares them, depends on whoever else is at work on the machine.
    """
    return sum(_own_bytes(process.pid) for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def _own_bytes(pid: int) -> int:
    total = 0
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, size = line.partition(":")
            if name in _OWN:
                total += int(size.removesuffix("kB")) * 1024
    return total


@dataclass(frozen=True)
class Moment:
    """How far a system was when it had just committed, and the CPU seconds used by then."""

    time_s: float
    done: int
    cpu_s: dict[str, float]


@dataclass(frozen=True)
class Sustained:
    """What a window of steady load has shown."""

    events: int
    seconds: float
    cpu_s: dict[str, float]
    answers: int
    fallbacks: int
    sent: int

    @property
    def events_per_second(self) -> float:
        """Events handled and committed a second."""
        return self.events / self.seconds

    @property
    def stages(self) -> dict[str, float]:
        """Microseconds of CPU an event, by process."""
        return {n: _MICROSECONDS * used / self.events for n, used in self.cpu_s.items()}


class Measurement:
    """Measures one system under a load.

    Args:
        timeout_s: after so long without all events handled it ends with a ServerError.
        slack: so many events may stay uncommitted at the end.
    """

    def __init__(
        self, system: SystemUnderTest, load: Load[Answered], timeout_s: float, slack: int = 0
    ) -> None:
        self._system = system
        self._load = load
        self._timeout_s = timeout_s
        self._slack = slack

    def prepare(self, history: int) -> None:
        """Give people their histories: the catalogue and so many events, all handled."""
        items = self._system.progress.count_committed() + self._load.send_catalogue()
        self.wait_for(items)
        self._load.start(Sending(history))
        self._load.wait_sent()
        self.wait_for(items + history)

    def wait_for(self, messages: int) -> None:
        """Wait until so many are committed."""
        self._system.progress.wait_for(messages, self._timeout_s, self._system.check)

    def measure_sustained(self, meter: CpuMeter, sending: Sending) -> Sustained:
        """Produce events as fast as they are handled, and measure a window in the middle.

        Args:
            sending: `ahead` must be set: the producer then works as long as the system does.

        Raises:
            ServerError: the system has ended, or it takes too long.
        """
        assert sending.ahead
        load = self._load
        base = self._system.progress.count_committed()
        load.take_answers()
        load.handled.value = 0
        load.start(sending)
        moments: list[Moment] = []

        def note(done: int) -> None:
            load.handled.value = done
            moments.append(Moment(time.monotonic(), done, meter.read()))

        self._follow(base, sending.events, note)
        sent = load.wait_sent()
        first, last = window(moments, sending.events, sending.ahead)
        answers = wait_answers(load, sent[-1:])
        return Sustained(
            events=last.done - first.done,
            seconds=last.time_s - first.time_s,
            cpu_s={name: last.cpu_s[name] - used for name, used in first.cpu_s.items()},
            answers=len(answers),
            fallbacks=sum(answer.fallback for answer in answers),
            sent=len(sent),
        )

    def measure_latency(self, rate: float, seconds: float) -> Latencies:
        """Milliseconds from producing an event to reading its recommendation, at a constant rate.

        The first `SETTLE_S` are left out: before them the load was another.
        """
        sending = Sending(round(rate * (SETTLE_S + seconds)), rate)
        base = self._system.progress.count_committed()
        self._load.take_answers()
        self._load.start(sending)
        sent = self._load.wait_sent()
        self._follow(base, sending.events, lambda _: None)
        answers = wait_answers(self._load, sent[-1:])
        settled = [event for event in sent if event.time_s >= sent[0].time_s + SETTLE_S]
        return latencies(settled, answers) | {"events_per_second": _rate(settled)}

    def _follow(self, base: int, events: int, on_commit: Callable[[int], None]) -> None:
        """Follow the system's commits until it has handled the events; tell each commit."""
        deadline = time.monotonic() + self._timeout_s
        done = 0
        while done < events - self._slack:
            self._system.check()
            committed = self._system.progress.count_committed() - base
            if committed != done:
                done = committed
                on_commit(done)
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{done} of {events} events handled after {self._timeout_s:.0f} s"
                )
            time.sleep(_POLL_S)


def count_dead_letters(kafka: BrokerSettings) -> int:
    """How many messages were refused."""
    consumer = Consumer(client_config(kafka) | {"group.id": "bench"})
    end: int = consumer.get_watermark_offsets(TopicPartition(DEAD_LETTERS, 0), timeout=15)[1]
    consumer.close()
    return end


def window(moments: Sequence[Moment], events: int, ahead: int) -> tuple[Moment, Moment]:
    """The first moment after the warm-up, and the last one at which the producer was at work.

    Raises:
        ServerError: there are fewer than two commits in between.
    """
    inside = [m for m in moments if WARM_UP * events <= m.done <= events - ahead]
    if len(inside) < 2:
        raise ServerError("the run is too short to be measured: ask for more events")
    return inside[0], inside[-1]


def latencies(sent: Sequence[Sent], answers: Iterable[Answered]) -> Latencies:
    """The percentiles of `Measurement.measure_latency`."""
    read = {answer.event_id: answer.time_s for answer in answers}
    own = [read[s.event_id] - s.time_s for s in sent if s.event_id in read]
    every = first_aware(sent, read)
    p50, p90, p99 = (float(v) for v in np.percentile(own, (50, 90, 99)) * _MILLISECONDS)
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "answered": len(own) / len(sent),
        "every_event_p99": float(np.percentile(every, 99)) * _MILLISECONDS,
    }


def first_aware(sent: Sequence[Sent], read: dict[str, float]) -> list[float]:
    """Seconds from each event to the first answer for it or for a later event of its person.

    >>> sent = [Sent("a", "ann", 1.0), Sent("b", "ann", 1.5)]
    >>> first_aware(sent, {"b": 2.0})
    [0.5, 1.0]
    """
    aware: dict[str, float] = {}
    seconds = []
    for event in reversed(sent):
        own = read.get(event.event_id, float("inf"))
        aware[event.user_id] = min(own, aware.get(event.user_id, float("inf")))
        seconds.append(aware[event.user_id] - event.time_s)
    return [passed for passed in seconds if passed != float("inf")]


def _rate(sent: Sequence[Sent]) -> float:
    return (len(sent) - 1) / (sent[-1].time_s - sent[0].time_s)
