"""Windows of a log from files: each event in one of them, whatever is killed and run again."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from headwater_client.errors import SettingsError
from headwater_client.event_types import CLICK

from tests.harness.windows import NOW_MS, SETTINGS, row
from trainer.datasets import Log
from trainer.windows.assembler import CloseReason
from trainer.windows.store import WindowStore, read_log
from trainer.windows.writer import WindowAppender, WindowLoader


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
