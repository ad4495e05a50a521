"""What a run has shown is computed from moments, what was sent, and what was read."""

from __future__ import annotations

import pytest
from headwater_client.errors import ServerError

from bench.harness.load import Answered, Sent
from bench.harness.measure import Moment, Sustained, first_aware, latencies, window


def moment(done: int) -> Moment:
    return Moment(done / 100, done, {"worker": done / 1000})


def test_the_window_begins_after_the_warm_up_and_ends_with_the_producer() -> None:
    moments = [moment(done) for done in (100, 250, 500, 700, 900, 1000)]
    first, last = window(moments, events=1000, ahead=200)
    assert (first.done, last.done) == (250, 700)


def test_a_run_without_two_commits_in_the_window_is_refused() -> None:
    with pytest.raises(ServerError, match="too short"):
        window([moment(100), moment(1000)], events=1000, ahead=200)


def test_stages_are_microseconds_an_event() -> None:
    found = Sustained(
        events=1000, seconds=2.0, cpu_s={"worker": 0.3}, answers=900, fallbacks=0, sent=1000
    )
    assert found.events_per_second == 500
    assert found.stages == {"worker": pytest.approx(300)}


def test_latency_is_of_the_answers_to_the_events_themselves() -> None:
    sent = [Sent(str(n), f"person {n}", float(n)) for n in range(100)]
    answers = [Answered(str(n), n + 0.01 * n, fallback=False) for n in range(100)]
    found = latencies(sent, answers)
    assert found["p50"] == pytest.approx(495)
    assert found["p99"] == pytest.approx(980.1)
    assert found["answered"] == 1


def test_an_event_answered_with_a_later_one_counts_up_to_that_answer() -> None:
    sent = [Sent("a", "ann", 1.0), Sent("b", "bob", 1.1), Sent("c", "ann", 1.2)]
    read = {"b": 1.3, "c": 2.0}
    assert first_aware(sent, read) == [pytest.approx(0.8), pytest.approx(0.2), pytest.approx(1.0)]
    found = latencies(sent, [Answered(name, at, fallback=False) for name, at in read.items()])
    assert found["answered"] == pytest.approx(2 / 3)
