"""Training rows of windows: as of each event's time, given all windows before."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater_client.errors import DataError
from headwater_client.events import Item

from features.schema import FeatureSchema
from tests.harness.windows import closed_window, window_examples
from trainer.examples import Replayer, observe_log, replay_log
from trainer.windows.store import WindowStore, read_log

ITEMS = [Item(item_id="lamp", category=["light"])]


@pytest.fixture
def store(tmp_path: Path) -> WindowStore:
    store = WindowStore(str(tmp_path))
    # The last window is of before the others: all of it is late.
    for number, minutes in enumerate([(65, 67), (121, 121, 125), (180,), (20, 30)], start=1):
        store.write(store.prepare(number, closed_window(*minutes, first_offset=10 * number)))
    return store


def test_rows_of_a_window_know_all_windows_before_it(
    store: WindowStore, schema: FeatureSchema
) -> None:
    arrived = [event for number in range(1, 5) for event in read_log(store, [number]).events]
    whole = replay_log(observe_log(arrived, ITEMS), schema)
    second, last = window_examples(store, [2, 4], ITEMS, schema)
    assert len(whole) == 8
    assert (second, last) == (whole[2:5], whole[6:])
    # A clicked lamp is no news in the second window.
    assert not second[0].is_target
    replayer = Replayer(schema)
    one_by_one = [
        replayer.replay(observe_log(read_log(store, [number]).events, ITEMS))
        for number in store.numbers()
    ]
    assert one_by_one[1] == second
    assert one_by_one[3] == last


def test_a_window_that_is_not_there_is_named(store: WindowStore) -> None:
    with pytest.raises(DataError, match="no such window"):
        read_log(store, [5])
