"""Windows that release 0.1.0 wrote (revision 13a9bcc) are read, and written the same."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from headwater_client.event_types import EVENT_TYPES

from trainer.windows.events import to_table
from trainer.windows.store import WindowStore, seal

WINDOWS = Path("tests/golden/13a9bcc/windows").resolve()
NUMBERS = [1, 2, 3, 4]
# The newest window settles everything: messages that no window has would be read again.
EVENTS = 60


@pytest.fixture(scope="module")
def store() -> WindowStore:
    return WindowStore(str(WINDOWS))


def test_each_message_is_in_one_window_as_far_as_the_newest_says(store: WindowStore) -> None:
    assert store.numbers() == NUMBERS
    places = [
        (row.topic, row.partition, row.offset)
        for number in NUMBERS
        for row in store.read(number).rows
    ]
    newest = store.newest()
    assert newest
    assert len(set(places)) == len(places) == EVENTS
    # Two messages were refused: they are settled, and in no window.
    assert sum(store.manifest(number).refused for number in NUMBERS) == 2
    positions = newest.progress.positions
    assert sum(position.next for position in positions) == EVENTS + 2
    assert all(position.open == [] for position in positions)


def test_events_are_what_their_rows_say(store: WindowStore) -> None:
    for number in NUMBERS:
        window = store.read(number)
        assert len(window.rows) == window.manifest.events
        for row in window.rows:
            assert EVENT_TYPES.spec_of(row.event) is EVENT_TYPES.spec_of_topic(row.topic)
            assert row.event.user_id
            assert row.event.item_id


def test_manifests_are_written_the_same(store: WindowStore) -> None:
    for number in NUMBERS:
        written = (WINDOWS / "_manifests" / f"{number:08}.json").read_bytes()
        assert seal(store.manifest(number)) == written


def test_rows_are_written_the_same(store: WindowStore) -> None:
    for number in NUMBERS:
        window = store.read(number)
        written: pa.Table = pq.ParquetFile(WINDOWS / window.manifest.file).read()
        table = to_table(window.rows)
        assert table.select(written.column_names).equals(written)
        # What types of later releases say beside it.
        more = table.drop_columns(written.column_names)
        assert {column.null_count for column in more.columns} == {len(window.rows)}
