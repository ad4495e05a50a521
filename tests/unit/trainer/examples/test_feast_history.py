"""People's rows after each of their events, as a file that appears whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from features.rows import Observation, apply_event, empty_user
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.examples import observe_log
from trainer.examples.feast_history import SCHEMA, write_history


@pytest.fixture
def seen(small_log: Log) -> list[Observation]:
    return observe_log(small_log.events, small_log.items)


def test_a_row_is_what_a_moment_has_left(
    seen: list[Observation], schema: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "people.parquet"
    count = write_history(seen, path, schema)
    written = pq.read_table(path)
    assert written.schema.equals(SCHEMA)
    assert count == written.num_rows == len({(e.user_id, e.time_ms) for e in seen})
    for row in written.to_pylist()[:: count // 50]:
        until_ms = round(row["event_timestamp"].timestamp() * 1000)
        expected = empty_user(schema)
        for event in seen:
            if event.user_id == row["user_id"] and event.time_ms <= until_ms:
                apply_event(expected, event, schema)
        assert row["counters"] == expected.counters
        columns = (row["history_times_ms"], row["history_types"], row["history_items"])
        assert list(zip(*columns, strict=True)) == expected.history
        assert row["taken"] == expected.seen.tobytes()


def test_a_file_that_could_not_be_finished_is_not_seen(
    seen: list[Observation], schema: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "people.parquet"
    write_history(seen[:10], path, schema)
    before = path.read_bytes()

    def broken() -> Iterator[Observation]:
        yield from seen
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_history(broken(), path, schema)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
