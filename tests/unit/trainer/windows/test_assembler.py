"""Which event is in which window, and when a window closes."""

from __future__ import annotations

import pytest
from headwater_client.event_types import CLICK, PURCHASE

from tests.harness.windows import (
    MINUTE_MS,
    NOW_MS,
    SETTINGS,
    START_MS,
    assemble,
    close_when_idle,
    row,
)
from trainer.windows.assembler import ClosedWindow, CloseReason, WindowAssembler


def take(assembler: WindowAssembler, now_s: float = 0.0) -> list[ClosedWindow]:
    found = []
    while closed := assembler.close(now_s):
        found.append(closed)
    return found


def minutes(closed: ClosedWindow) -> list[float]:
    return [(each.event.timestamp - START_MS) / MINUTE_MS for each in closed.rows]


def test_a_window_closes_when_the_watermark_passes_its_end_and_the_lateness() -> None:
    assembler = assemble()
    for offset, minute in enumerate([5, 59, 20, 61, 69.9]):
        assembler.add(row(offset, minute), NOW_MS)
    assert take(assembler) == []
    assembler.add(row(5, 70), NOW_MS)
    [closed] = take(assembler)
    assert closed.reason is CloseReason.WATERMARK
    assert minutes(closed) == [5, 20, 59]


def test_each_window_that_the_watermark_passes_is_one() -> None:
    assembler = assemble()
    for offset, minute in enumerate([5, 65, 240]):
        assembler.add(row(offset, minute), NOW_MS)
    assert [minutes(each) for each in take(assembler)] == [[5], [65]]


def test_what_is_late_is_in_the_next_window_and_marked() -> None:
    assembler = assemble()
    for offset, minute in enumerate([5, 130, 10, 135, 200]):
        assembler.add(row(offset, minute), NOW_MS)
        windows = take(assembler)
    [closed] = windows
    assert minutes(closed) == [10, 130, 135]
    assert [each.late for each in closed.rows] == [True, False, False]


def test_within_the_lateness_nothing_is_late() -> None:
    assembler = assemble()
    for offset, minute in enumerate([5, 69, 10, 70]):
        assembler.add(row(offset, minute), NOW_MS)
        windows = take(assembler)
    assert minutes(windows[0]) == [5, 10]
    assert not any(each.late for each in windows[0].rows)


def test_so_many_events_close_whatever_is_open() -> None:
    assembler = assemble(settings=SETTINGS.model_copy(update={"max_events": 3}))
    for offset, minute in enumerate([5, 65, 10]):
        assert not assembler.full
        assembler.add(row(offset, minute), NOW_MS)
    [closed] = take(assembler)
    assert (closed.reason, minutes(closed)) == (CloseReason.COUNT, [5, 10, 65])
    assembler.add(row(3, 12), NOW_MS)
    last = close_when_idle(assembler)
    assert last is not None
    assert not last.rows[0].late


def test_event_time_that_stands_still_closes_what_is_open() -> None:
    assembler = assemble()
    assembler.add(row(0, 5), NOW_MS)
    assert take(assembler, 100.0) == []
    assembler.add(row(1, 4), NOW_MS)
    assert take(assembler, 1000.0) == []
    assembler.reached_end((CLICK.topic, 0))
    assert take(assembler, 159.0) == []
    [closed] = take(assembler, 160.0)
    assert (closed.reason, minutes(closed)) == (CloseReason.IDLE, [4, 5])
    assert take(assembler, 1000.0) == []


def trickle(every_s: float, hours: float) -> list[ClosedWindow]:
    """The windows of old events that keep coming into a shop where nothing else happens."""
    assembler, windows, now_s = assemble(), [], 0.0
    source = (CLICK.topic, 0)
    assembler.add(row(0, 300), NOW_MS)
    for offset in range(1, int(hours * 3600 / every_s)):
        now_s = offset * every_s
        assembler.reached_end(source)
        windows += take(assembler, now_s)
        assembler.add(row(offset, offset % 300), NOW_MS)
    assembler.reached_end(source)
    return [*windows, *take(assembler, now_s), *take(assembler, now_s + 12 * SETTINGS.idle_s)]


@pytest.mark.parametrize("every_s", [0.5, 7.0, 50.0, 70.0, 600.0, 5000.0])
def test_old_events_in_a_quiet_shop_make_few_windows(every_s: float) -> None:
    hours = 12
    windows = trickle(every_s, hours)
    assert sum(len(each.rows) for each in windows) == int(hours * 3600 / every_s)
    # One in twelve minutes; one before, when nothing says yet that more will come; and the last.
    assert len(windows) <= 5 * hours + 2


def test_old_events_after_a_long_silence_close_once_they_end() -> None:
    assembler = assemble()
    source = (CLICK.topic, 0)
    assembler.add(row(0, 300), NOW_MS)
    assembler.reached_end(source)
    assert take(assembler, 0.0) == []
    assert [len(each.rows) for each in take(assembler, 60.0)] == [1]
    for offset, now_s in enumerate([10_000.0, 10_030.0], 1):
        assert take(assembler, now_s - 1) == []
        assembler.add(row(offset, 5), NOW_MS)
        assembler.reached_end(source)
        assert take(assembler, now_s) == []
    assert take(assembler, 10_089.0) == []
    assert [len(each.rows) for each in take(assembler, 10_090.0)] == [2]


def test_catching_up_one_partition_after_the_other_makes_nothing_late() -> None:
    sources = {(CLICK.topic, 0): "id", (PURCHASE.topic, 0): "id"}
    assembler = assemble(sources=sources)
    for offset, minute in enumerate([5, 65, 200]):
        assembler.add(row(offset, minute), NOW_MS)
    assembler.reached_end((CLICK.topic, 0))
    assert take(assembler) == []
    for offset, minute in enumerate([6, 66, 201]):
        assembler.add(row(offset, minute, topic=PURCHASE.topic), NOW_MS)
    windows = take(assembler)
    assert [minutes(each) for each in windows] == [[5, 6], [65, 66]]
    assert not any(each.late for window in windows for each in window.rows)


def test_a_partition_at_its_end_holds_nobody_up() -> None:
    assembler = assemble(sources={(CLICK.topic, 0): "id", (CLICK.topic, 1): "id"})
    assembler.add(row(0, 5), NOW_MS)
    assembler.add(row(1, 200), NOW_MS)
    assert take(assembler) == []
    assembler.reached_end((CLICK.topic, 1))
    assert [minutes(each) for each in take(assembler)] == [[5]]


def test_an_event_from_the_future_makes_nobody_late() -> None:
    assembler = assemble()
    assembler.add(row(0, 110), START_MS + 50 * MINUTE_MS)
    assert take(assembler) == []
    assembler.add(row(1, 51), START_MS + 51 * MINUTE_MS)
    assembler.add(row(2, 129), NOW_MS)
    assert [minutes(each) for each in take(assembler)] == [[51]]


def test_a_later_writer_gathers_exactly_what_no_window_has() -> None:
    first = assemble()
    for offset, minute in enumerate([65, 5, 66, 6, 75]):
        first.add(row(offset, minute), NOW_MS)
    [closed] = take(first)
    assert minutes(closed) == [5, 6]
    second = assemble(closed.progress)
    assert second.resume() == {(CLICK.topic, 0): 0}
    for offset, minute in enumerate([65, 5, 66, 6, 75, 140]):
        second.add(row(offset, minute), NOW_MS)
    assert [minutes(each) for each in take(second)] == [[65, 66, 75]]


def test_what_was_due_when_a_writer_died_is_not_late() -> None:
    first = assemble()
    for offset, minute in enumerate([5, 65, 125, 10, 200]):
        first.add(row(offset, minute), NOW_MS)
    closed = first.close(0)
    assert closed is not None
    second = assemble(closed.progress)
    assert second.close(0) is None
    for offset, minute in enumerate([5, 65, 125, 10, 200, 15]):
        second.add(row(offset, minute), NOW_MS)
    windows = take(second)
    assert [minutes(each) for each in windows] == [[15, 65], [125]]
    assert [each.late for each in windows[0].rows] == [True, False]


def test_a_topic_made_anew_is_read_from_its_beginning() -> None:
    first = assemble()
    first.add(row(0, 5), NOW_MS)
    first.add(row(1, 200), NOW_MS)
    [closed] = take(first)
    again = assemble(closed.progress, sources={(CLICK.topic, 0): "another id"})
    again.add(row(0, 205), NOW_MS)
    closed_again = close_when_idle(again)
    assert closed_again is not None
    assert minutes(closed_again) == [205]


def test_a_refused_message_is_counted_once() -> None:
    assembler = assemble()
    assert assembler.refuse((CLICK.topic, 0), 0)
    assert not assembler.refuse((CLICK.topic, 0), 0)
    assembler.add(row(1, 5), NOW_MS)
    closed = close_when_idle(assembler)
    assert closed is not None
    assert closed.refused == 1
    assert closed.progress.positions[0].next == 2
    assert closed.progress.positions[0].open == []


@pytest.mark.parametrize("across_windows", [False, True])
def test_an_event_sent_again_is_marked(across_windows: bool) -> None:
    assembler = assemble()
    assembler.add(row(0, 5, event_id="once"), NOW_MS)
    assembler.add(row(1, 75 if across_windows else 6, event_id="other"), NOW_MS)
    windows = take(assembler)
    assembler.add(row(2, 5, event_id="once"), NOW_MS)
    last = close_when_idle(assembler)
    rows = [each for window in [*windows, last] if window for each in window.rows]
    assert [(each.offset, each.repeated) for each in rows if each.offset != 1] == [
        (0, False),
        (2, True),
    ]


def test_the_same_id_of_another_person_or_type_is_no_repeat() -> None:
    assembler = assemble(sources={(CLICK.topic, 0): "id", (PURCHASE.topic, 0): "id"})
    assembler.add(row(0, 5, event_id="e"), NOW_MS)
    assembler.add(row(1, 5, event_id="e", user_id="bob"), NOW_MS)
    assembler.add(row(0, 5, event_id="e", topic=PURCHASE.topic), NOW_MS)
    closed = close_when_idle(assembler)
    assert closed is not None
    assert not any(each.repeated for each in closed.rows)


def test_repeats_are_forgotten_beyond_the_remembered_events() -> None:
    assembler = assemble(settings=SETTINGS.model_copy(update={"dedup_window": 1}))
    for offset, event_id in enumerate(["a", "b", "a"]):
        assembler.add(row(offset, offset, event_id=event_id), NOW_MS)
    closed = close_when_idle(assembler)
    assert closed is not None
    assert not any(each.repeated for each in closed.rows)


def test_who_is_forgotten_is_in_no_window_that_is_open_and_holds_nothing_up() -> None:
    place = (CLICK.topic, 0)
    assembler = assemble()
    for offset, (minute, person) in enumerate([(5, "ann"), (6, "bob"), (65, "bob")]):
        assembler.add(row(offset, minute, user_id=person), NOW_MS)
    assembler.merge(place, 3, "bob", "eve")
    assembler.merge(place, 4, "guest", "bob")
    assembler.merge(place, 5, "other", "ann")
    assembler.forget("bob")
    assembler.tell_erasure(place, 6)
    closed = close_when_idle(assembler)
    assert closed is not None
    assert [each.event.user_id for each in closed.rows] == ["ann"]
    assert (closed.erasures, closed.merges) == (1, {"other": "ann"})
    [position] = closed.progress.positions
    assert (position.next, position.open) == (7, [])
    # Nobody tells it again.
    again = assemble(closed.progress)
    again.tell_erasure(place, 6)
    again.add(row(7, 70), NOW_MS)
    last = close_when_idle(again)
    assert last is not None
    assert last.erasures == 0
