"""Windows of a log from files: each event in one of them, whatever is killed and run again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from headwater_client.errors import EventError, SettingsError
from headwater_client.event_types import CLICK, EVENT_TYPES
from headwater_client.events import decode

from bench.harness.hostile import generate_hostile_messages
from features.events import current_ms
from tests.harness.windows import (
    MINUTE_MS,
    NOW_MS,
    SETTINGS,
    START_MS,
    assemble,
    close_when_idle,
    row,
)
from trainer.datasets import Log
from trainer.windows.assembler import AssemblyState, CloseReason
from trainer.windows.store import WindowStore, read_log
from trainer.windows.writer import WindowAppender, WindowLoader

YEAR_2200_MS = 7_258_118_400_000


@pytest.fixture
def store(tmp_path: Path) -> WindowStore:
    return WindowStore(str(tmp_path))


def loader(log: Log, store: WindowStore) -> WindowLoader:
    return WindowLoader(log.fingerprint, store, SETTINGS)


def contents(store: WindowStore) -> list[list[tuple[str, int]]]:
    windows = (store.read(number) for number in store.numbers())
    return [[(row.event.event_id, row.offset) for row in window.rows] for window in windows]


def test_all_of_a_log_is_in_windows_and_a_second_time_nothing_is_missing(
    small_log: Log, store: WindowStore
) -> None:
    written = list(loader(small_log, store).write(small_log.events))
    assert sum(each.events for each in written) == len(small_log.events)
    assert {each.reason for each in written[:-1]} == {CloseReason.WATERMARK}
    assert sum(each.late + each.repeated for each in written) == 0
    # Within an instant clicks stand before purchases.
    expected = sorted(small_log.events, key=lambda e: (e.timestamp, type(e).__name__))
    assert list(read_log(store, store.numbers()).events) == expected
    assert list(loader(small_log, store).write(small_log.events)) == []


def test_windows_are_the_same_wherever_it_was_killed(small_log: Log, tmp_path: Path) -> None:
    small_log = small_log.head(100)
    whole = WindowStore(str(tmp_path / "whole"))
    count = len(list(loader(small_log, whole).write(small_log.events)))
    for lived in (1, count // 2, count - 1):
        store = WindowStore(str(tmp_path / f"{lived}"))
        list(islice(loader(small_log, store).write(small_log.events), lived))
        list(loader(small_log, store).write(small_log.events))
        assert contents(store) == contents(whole)


def test_windows_of_another_source_are_refused(small_log: Log, store: WindowStore) -> None:
    list(loader(small_log, store).write(small_log.events))
    with pytest.raises(SettingsError, match="another log"):
        loader(small_log.head(10), store)


def test_a_writer_goes_on_with_all_of_kafka(small_log: Log, store: WindowStore) -> None:
    list(loader(small_log, store).write(small_log.events))
    assembler = WindowAppender(store, SETTINGS).assembler({(CLICK.topic, 0): "id"}, 0.0)
    assert assembler.resume() == {(CLICK.topic, 0): 0}
    assembler.add(row(0, 10**6), NOW_MS)
    assembler.reached_end((CLICK.topic, 0))
    assembler.close(0.0)
    closed = assembler.close(SETTINGS.idle_s)
    assert closed is not None
    assert [each.late for each in closed.rows] == [False]


def test_windows_that_an_event_of_the_year_2200_closed_make_nothing_late_for_ever(
    store: WindowStore,
) -> None:
    """Of an older release: its watermark is there, and the event in a window."""
    first = assemble()
    first.add(row(0, 5), START_MS)
    first.add(row(1, (YEAR_2200_MS - START_MS) / MINUTE_MS), START_MS)
    closed = close_when_idle(first)
    assert closed is not None
    assert len(closed.rows) == 2
    spoiled = AssemblyState(YEAR_2200_MS, closed.progress.positions)
    store.write(store.prepare(1, replace(closed, progress=spoiled)))
    assert [event.timestamp for event in read_log(store, [1]).events] == [START_MS + 5 * MINUTE_MS]

    second = WindowAppender(store, SETTINGS).assembler({(CLICK.topic, 0): "id"}, 0.0)
    soon_ms = current_ms() + 5000
    second.add(row(2, (soon_ms - START_MS) / MINUTE_MS), soon_ms)
    next_window = close_when_idle(second)
    assert next_window is not None
    assert [each.late for each in next_window.rows] == [False]


def test_whatever_is_taken_from_hostile_messages_can_be_kept(store: WindowStore) -> None:
    """Why a writer needs no net: what it does with an event hangs on no value that can be odd."""
    events = {}
    for message in islice(generate_hostile_messages(3, NOW_MS, large_share=0), 4_000):
        if message.topic in EVENT_TYPES.topics:
            with suppress(EventError):
                struct = EVENT_TYPES.spec_of_topic(message.topic).struct
                event = decode(struct, message.value, NOW_MS)
                events.setdefault(event.event_id, event)
    log = Log(sorted(events.values(), key=lambda e: e.timestamp), [])
    assert len(log.events) > 20
    list(loader(log, store).write(log.events))
    kept = read_log(store, store.numbers()).events
    assert sorted(kept, key=lambda e: e.event_id) == sorted(log.events, key=lambda e: e.event_id)
