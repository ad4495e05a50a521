"""Sustained load and latency of one subject, both measured in the same way for any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.topics import DEAD_LETTERS

from bench.harness.cores import CpuMeter
from bench.harness.load import Answered, Load, Sending, Sent
from bench.harness.subjects import Subject
from features.kafka import client_config
from features.settings import KafkaSettings

# Of the events of a sustained run these come before the window that is measured.
WARM_UP = 0.2
SETTLE_S = 5.0
_POLL_S = 0.1
_LATE_S = 5.0
_MICROSECONDS = 1e6
_MILLISECONDS = 1e3

Latencies = dict[str, float]


@dataclass(frozen=True)
class Moment:
    """How far a subject was when it had just committed, and the CPU seconds used by then."""

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


def prepare(subject: Subject, load: Load, history: int, timeout_s: float) -> None:
    """Give people their histories: the catalogue and so many events, all handled."""
    wanted = subject.progress.committed() + load.send_catalogue()
    subject.progress.wait_for(wanted, subject, timeout_s)
    load.start(Sending(history))
    load.sent()
    subject.progress.wait_for(wanted + history, subject, timeout_s)


def dead_letters(kafka: KafkaSettings) -> int:
    """How many messages were refused."""
    consumer = Consumer(client_config(kafka) | {"group.id": "bench"})
    end: int = consumer.get_watermark_offsets(TopicPartition(DEAD_LETTERS, 0), timeout=15)[1]
    consumer.close()
    return end


def sustained(
    subject: Subject,
    load: Load,
    meter: CpuMeter,
    sending: Sending,
    timeout_s: float,
    slack: int = 0,
) -> Sustained:
    """Produce events as fast as they are handled, and measure a window in the middle.

    Args:
        sending: `ahead` must be set: the producer then works as long as the subject does.
        slack: so many events may stay uncommitted at the end.

    Raises:
        ServerError: the subject has ended, or it takes too long.
    """
    assert sending.ahead
    base = subject.progress.committed()
    load.answers()
    load.handled.value = 0
    load.start(sending)
    moments: list[Moment] = []

    def note(done: int) -> None:
        load.handled.value = done
        moments.append(Moment(time.monotonic(), done, meter.read()))

    _watch(subject, base, sending.events - slack, timeout_s, note)
    sent = load.sent()
    first, last = window(moments, sending.events, sending.ahead)
    answers = late_answers(load, sent[-1:])
    return Sustained(
        events=last.done - first.done,
        seconds=last.time_s - first.time_s,
        cpu_s={name: last.cpu_s[name] - used for name, used in first.cpu_s.items()},
        answers=len(answers),
        fallbacks=sum(answer.fallback for answer in answers),
        sent=len(sent),
    )


def window(moments: Sequence[Moment], events: int, ahead: int) -> tuple[Moment, Moment]:
    """The first moment after the warm-up, and the last one at which the producer was at work.

    Raises:
        ServerError: there are fewer than two commits in between.
    """
    inside = [m for m in moments if WARM_UP * events <= m.done <= events - ahead]
    if len(inside) < 2:
        raise ServerError("the run is too short to be measured: ask for more events")
    return inside[0], inside[-1]


def latency(
    subject: Subject, load: Load, rate: float, seconds: float, timeout_s: float, slack: int = 0
) -> Latencies:
    """Milliseconds from producing an event to reading its recommendation, at a constant rate.

    `p50`, `p90`, `p99` are of the events that have a recommendation of their own; `answered` is
    their share. The others were handled in one batch with a later event of the same person, whose
    recommendation knows them: `every_event_p99` counts them too, up to that one. The first
    `SETTLE_S` are left out: before them the load was another.
    """
    sending = Sending(round(rate * (SETTLE_S + seconds)), rate)
    base = subject.progress.committed()
    load.answers()
    load.start(sending)
    sent = load.sent()
    _watch(subject, base, sending.events - slack, timeout_s, lambda _: None)
    answers = late_answers(load, sent[-1:])
    settled = [one for one in sent if one.time_s >= sent[0].time_s + SETTLE_S]
    return summary(settled, answers) | {"events_per_second": _rate(settled)}


def summary(sent: Sequence[Sent], answers: Iterable[Answered]) -> Latencies:
    """The percentiles of `latency`."""
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
    return [each for each in seconds if each != float("inf")]


def _rate(sent: Sequence[Sent]) -> float:
    return (len(sent) - 1) / (sent[-1].time_s - sent[0].time_s)


def _watch(
    subject: Subject, base: int, events: int, timeout_s: float, committed: Callable[[int], None]
) -> None:
    """Follow the subject's commits until it has handled the events; tell each commit."""
    deadline = time.monotonic() + timeout_s
    known = 0
    while known < events:
        subject.check()
        done = subject.progress.committed() - base
        if done != known:
            known = done
            committed(done)
        if time.monotonic() > deadline:
            raise ServerError(f"{known} of {events} events handled after {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def late_answers(load: Load, last: Sequence[Sent]) -> list[Answered]:
    """All answers read by now; waits for the last one, which its commit may have overtaken."""
    wanted = {sent.event_id for sent in last}
    deadline = time.monotonic() + _LATE_S
    answers = load.answers()
    while wanted - {answer.event_id for answer in answers} and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        answers += load.answers()
    return answers
