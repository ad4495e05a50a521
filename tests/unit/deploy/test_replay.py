"""A replay keeps its pace, cheaply, and ends when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event

import pytest
from headwater_client.events import Click

from deploy.jobs.replay import (
    TICK_S,
    Clock,
    Pace,
    immediate_pace,
    paced_events,
    rate_pace,
    speed_pace,
)

START_MS = 1_714_564_800_000


def clicks(*seconds: float) -> list[Click]:
    return [
        Click(event_id=str(n), user_id="ann", item_id="1", timestamp=START_MS + round(s * 1000))
        for n, s in enumerate(seconds)
    ]


@dataclass
class Simulated:
    """Time that passes only by sleeping."""

    now_s: float = 100.0
    sleeps: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, self.sleep)


def sent_at(events: list[Click], pace: Pace, time: Simulated) -> Iterator[float]:
    start = time.now_s
    for _ in paced_events(events, pace, Event(), time.clock):
        yield time.now_s - start


def test_speed_shortens_the_gaps_between_events() -> None:
    time = Simulated()
    sent = list(sent_at(clicks(0, 3600, 3600, 9000), speed_pace(3600, START_MS), time))
    assert sent == pytest.approx([0, 1, 1, 2.5], abs=1.1 * TICK_S)


def test_a_rate_is_even_whatever_the_times() -> None:
    time = Simulated()
    sent = list(sent_at(clicks(0, 0, 50_000, 50_000, 60_000), rate_pace(4), time))
    assert sent == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=1.1 * TICK_S)


def test_at_once_never_sleeps() -> None:
    time = Simulated()
    assert list(sent_at(clicks(0, 10, 9000), immediate_pace, time)) == [0, 0, 0]
    assert time.sleeps == []


def test_events_due_together_cost_one_sleep() -> None:
    time = Simulated()
    sent = list(sent_at(clicks(*range(1000)), rate_pace(100_000), time))
    assert len(sent) == 1000
    assert len(time.sleeps) <= 10
    late = [at - index / 100_000 for index, at in enumerate(sent)]
    assert min(late) >= -1e-9
    assert max(late) <= 1.1 * TICK_S


def test_what_falls_behind_catches_up() -> None:
    time = Simulated()
    events = paced_events(clicks(*range(100)), rate_pace(10), Event(), time.clock)
    next(events)
    time.now_s += 5
    start = time.now_s
    for _ in range(50):
        next(events)
    assert time.now_s == start


def test_a_wish_to_stop_is_heard_in_a_long_pause() -> None:
    time, stop = Simulated(), Event()

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if time.now_s > 110:
            stop.set()

    events = paced_events(
        clicks(0, 86_400), speed_pace(1, START_MS), stop, Clock(lambda: time.now_s, sleep)
    )
    assert len(list(events)) == 1
    assert time.now_s < 111


def test_a_wish_to_stop_is_heard_at_full_speed() -> None:
    stop, sent = Event(), 0
    for _ in paced_events(clicks(*range(100)), immediate_pace, stop, Simulated().clock):
        sent += 1
        if sent == 3:
            stop.set()
    assert sent == 3
