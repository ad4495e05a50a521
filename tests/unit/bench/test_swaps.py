"""What swaps have shown, by hand: what counts as failed, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from headwater_client.event_types import PURCHASE
from rich.console import Console

from bench.harness.load import Answered, Sent
from bench.swaps.__main__ import (
    Swap,
    SwapRun,
    draw,
    figures,
    find_not_live,
    find_unanswered,
    make_figures_table,
)
from features.topics import partition_of

MEGABYTE = 1_000_000


def swap(version: int, started_s: float, megabytes: int = 100) -> Swap:
    """Written in a second; announced after one more, answering after two, ended after three."""
    announced_s, answered_s, ended_s = (started_s + after for after in (1.0, 2.0, 3.0))
    stages = {"bring_up": 1.0, "first_answer": 1.0}
    return Swap(
        version,
        started_s - 1,
        started_s,
        announced_s,
        answered_s,
        ended_s,
        stages,
        megabytes * MEGABYTE,
    )


# Version 1 is live at first; 2 is announced at 11 and answers at 12; 3 at 21 and 22.
SWAPS = [swap(2, 10.0), swap(3, 20.0)]


def swap_run(
    sent: Sequence[Sent],
    answers: Sequence[Answered],
    swaps: Sequence[Swap] = SWAPS,
    dead_letters: int = 0,
    partitions: int = 1,
) -> SwapRun:
    return SwapRun(2.0, sent, answers, swaps, dead_letters, partitions)


def answers_not_live(version: str, sent_s: float, read_s: float) -> list[Answered]:
    """The recommendation, if it is of a version that was not live."""
    sent = [Sent("event", "ann", sent_s)]
    return find_not_live(
        swap_run(sent, [Answered("event", read_s, fallback=False, version=version)])
    )


@pytest.mark.parametrize(
    ("version", "sent_s", "read_s"),
    [
        ("1", 1.0, 1.1),
        ("1", 11.9, 12.5),  # the worker had it in hand when version 2 answered first
        ("2", 10.9, 11.1),
        ("2", 21.9, 22.3),
        ("3", 99.0, 99.1),
    ],
)
def test_a_version_is_live_until_the_next_one_has_answered(
    version: str, sent_s: float, read_s: float
) -> None:
    assert not answers_not_live(version, sent_s, read_s)


@pytest.mark.parametrize(
    ("version", "sent_s", "read_s"),
    [
        ("2", 10.8, 10.9),  # not announced yet
        ("1", 12.1, 12.2),  # the worker knew of version 2
        ("1", 99.0, 99.1),
        ("4", 30.0, 30.1),  # there is none
        ("", 30.0, 30.1),
    ],
)
def test_a_recommendation_of_a_version_that_was_not_live_is_found(
    version: str, sent_s: float, read_s: float
) -> None:
    assert len(answers_not_live(version, sent_s, read_s)) == 1


def test_a_fallback_names_no_version() -> None:
    fallback = Answered("event", 5.0, fallback=True, version="popular")
    assert not find_not_live(swap_run([Sent("event", "ann", 4.9)], [fallback]))


def test_an_answer_of_before_the_load_is_of_the_first_version() -> None:
    before = Answered("history", 1.0, fallback=False, version="1")
    assert not find_not_live(swap_run([Sent("event", "ann", 2.0)], [before]))


def test_an_event_is_answered_with_a_later_one_of_the_same_batch() -> None:
    sent = [Sent("a", "ann", 0.0), Sent("b", "bob", 0.1), Sent("c", "ann", 0.2)]
    answers = [Answered("b", 0.5, fallback=False), Answered("c", 0.5, fallback=False)]
    assert not find_unanswered(swap_run(sent, answers))


PASSED_OVER = [
    Sent("lost", "ann", 0.0),
    Sent("behind", "bob", 0.1),
    Sent("next", "ann", 2.0),
]


def test_an_event_that_was_passed_over_is_not_answered_by_the_persons_next_batch() -> None:
    answers = [Answered("behind", 0.3, fallback=False), Answered("next", 2.2, fallback=False)]
    assert find_unanswered(swap_run(PASSED_OVER, answers)) == PASSED_OVER[:1]
    # All of it in one batch: the worker was slow.
    late = [Answered(one.event_id, 2.2, fallback=False) for one in answers]
    assert not find_unanswered(swap_run(PASSED_OVER, late))


def test_only_its_own_partition_and_topic_pass_an_event_over() -> None:
    answers = [Answered("behind", 0.3, fallback=False), Answered("next", 2.2, fallback=False)]
    assert partition_of("ann", 3) != partition_of("bob", 3)
    assert not find_unanswered(swap_run(PASSED_OVER, answers, partitions=3))
    lost, behind, follows = PASSED_OVER
    bought = replace(behind, topic=PURCHASE.topic)
    assert not find_unanswered(swap_run([lost, bought, follows], answers))


@pytest.mark.parametrize(("read_s", "missed"), [(0.15, 0), (0.05, 1)])
def test_the_worker_may_take_a_purchase_before_a_click_that_was_sent_earlier(
    read_s: float, missed: int
) -> None:
    sent = [Sent("click", "ann", 0.0), Sent("purchase", "ann", 0.1, PURCHASE.topic)]
    found = find_unanswered(swap_run(sent, [Answered("click", read_s, fallback=False)]))
    assert found == sent[2 - missed :], "a click answered before the purchase was sent"


def test_an_earlier_answer_in_the_same_topic_knows_nothing_of_an_event() -> None:
    sent = [Sent("a", "ann", 0.0), Sent("b", "ann", 0.1)]
    assert find_unanswered(swap_run(sent, [Answered("a", 0.2, fallback=False)])) == sent[1:]


def test_an_event_that_nothing_follows_is_unanswered() -> None:
    sent = [Sent("a", "ann", 0.0), Sent("b", "bob", 0.1)]
    assert find_unanswered(swap_run(sent, [Answered("a", 0.2, fallback=False)])) == sent[1:]


def test_partitions_are_those_of_the_java_client() -> None:
    # From the tests of Apache Kafka's `Utils.murmur2`.
    assert partition_of("21", 1 << 31) == -973932308 & 0x7FFFFFFF
    assert partition_of("foobar", 1 << 31) == -790332482 & 0x7FFFFFFF


def quiet_run(swaps: list[Swap]) -> SwapRun:
    """Two events a second: 0.1 s to an answer, 0.3 s while a swap is under way."""
    sent = [Sent(str(n), f"person {n}", n / 2) for n in range(2 * round(swaps[-1].ended_s) + 10)]
    answers = []
    for event in sent:
        busy = any(one.started_s <= event.time_s < one.ended_s for one in swaps)
        read_s = event.time_s + (0.3 if busy else 0.1)
        version = max([1, *(one.version for one in swaps if one.answered_s <= read_s)])
        answers.append(Answered(event.event_id, read_s, fallback=False, version=str(version)))
    return swap_run(sent, answers, swaps)


def test_figures_are_those_of_the_issue() -> None:
    found = figures(quiet_run(SWAPS))
    assert found["versions"] == 2
    # Up to 23 s and ten events more, of which those before 10 s came before any swap.
    assert found["requests"] == 2 * (23 - 10) + 10
    assert found["failed"] == 0
    assert found["p99_over_quiet"] == pytest.approx(3)
    assert found["seconds_per_swap"] == 2
    assert found["stages_s"] == {"bring_up": 1, "first_answer": 1}
    assert [one["p99_ms"] for one in found["swaps"]] == pytest.approx([300, 300])


def test_each_kind_of_failure_counts() -> None:
    good = quiet_run(SWAPS)
    fallback = Answered("9", 4.6, fallback=True, version="popular")
    old = Answered("40", 20.1, fallback=False, version="1")
    answers = [one for one in good.answers if one.event_id not in ("5", "9", "40")]
    found = figures(swap_run(good.sent, [*answers, fallback, old], dead_letters=3))
    assert found["failures"] == {
        "fallbacks": 1,
        "unanswered": 1,
        "dead_letters": 3,
        "not_live": 1,
    }
    assert found["failed"] == 6


@pytest.mark.parametrize(
    ("megabytes", "growth", "since"),
    [
        ([100, 103, 104], 0.04, 1),
        ([*range(50, 140, 10), 200, 205, 210], 0.05, 10),
        ([100], 0.0, 1),
    ],
)
def test_memory_grows_since_the_tenth_swap_or_the_first_of_a_short_run(
    megabytes: list[int], growth: float, since: int
) -> None:
    swaps = [swap(at + 2, 10.0 * (at + 1), each) for at, each in enumerate(megabytes)]
    assert all(one.ended_s < after.started_s for one, after in pairwise(swaps))
    found = figures(quiet_run(swaps))
    assert found["memory_growth"] == pytest.approx(growth)
    assert found["memory_growth_since_swap"] == since


def test_the_table_says_them_all() -> None:
    console = Console(record=True, width=100)
    console.print(make_figures_table(figures(quiet_run(SWAPS))))
    text = console.export_text()
    assert "2 swaps at 2 events/s" in text
    assert "300  (3.00 times)" in text
    assert "not live" in text


def test_the_chart_has_memory_and_latency_of_each_swap() -> None:
    found = figures(quiet_run(SWAPS))
    memory, latency = draw(found).axes
    assert list(memory.lines[0].get_ydata()) == [100, 100]
    assert list(latency.lines[0].get_ydata()) == pytest.approx([300, 300])
    assert latency.texts[0].xy[1] == pytest.approx(found["latency_ms"]["quiet"]["p99"])
