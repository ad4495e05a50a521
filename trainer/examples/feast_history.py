"""Rows of people as they were after each of their events: Parquet for Feast's offline store.

Feast's `get_historical_features` joins, for a person and a time, the newest row that is not after
it. A training row knows nothing of its own event: ask for a millisecond before it.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from features.columns import user_values
from features.rows import Observation, UserRow, apply_event, empty_user
from features.schema import FeatureSchema
from features.store import USERS, ColumnType

ROWS_AT_ONCE = 2048
_ARROW_TYPES = {
    ColumnType.BYTES: pa.binary(),
    ColumnType.DOUBLES: pa.list_(pa.float64()),
    ColumnType.INT64S: pa.list_(pa.int64()),
}
SCHEMA = pa.schema(
    {
        USERS.join_key: pa.string(),
        "event_timestamp": pa.timestamp("ms", tz="UTC"),
        **{name: _ARROW_TYPES[kind] for name, kind in USERS.types.items()},
    }
)


def write_history(log: Iterable[Observation], path: Path, schema: FeatureSchema) -> int:
    """Write the rows of a log's people, one for each moment at which a row changed.

    Each has a person's whole history: so many rows are much larger than the log.

    Args:
        log: in event-time order.
        path: of the file; it appears whole, in place of what was there.

    Returns:
        How many rows it has.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = _rows(log, schema)
    return _write(iter(lambda: list(islice(rows, ROWS_AT_ONCE)), []), path)


def forget_in_history(person: str, path: Path) -> int:
    """Take a person's rows out of a file of rows, if there is one; how many they were.

    Raises:
        OSError, pyarrow.ArrowInvalid: it cannot be read or written; it is as it was.
    """
    if not path.exists():
        return 0
    with pq.ParquetFile(path) as file:
        total = file.metadata.num_rows
        kept = (
            [row for row in part.to_pylist() if row[USERS.join_key] != person]
            for part in file.iter_batches(ROWS_AT_ONCE, use_threads=False)
        )
        return int(total) - _write(kept, path)


def _write(parts: Iterable[list[dict[str, object]]], path: Path) -> int:
    """Write rows, part by part, to a file that appears whole; how many they are."""
    aside, count = path.with_name(f".{path.name}-{uuid4()}"), 0
    try:
        with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
            for part in parts:
                writer.write_table(pa.Table.from_pylist(part, SCHEMA))
                count += len(part)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def _rows(log: Iterable[Observation], schema: FeatureSchema) -> Iterator[dict[str, object]]:
    people: dict[str, UserRow] = {}
    for time_ms, moment in groupby(log, attrgetter("time_ms")):
        changed: dict[str, UserRow] = {}
        for event in moment:
            row = people.setdefault(event.user_id, empty_user(schema))
            if apply_event(row, event, schema):
                changed[event.user_id] = row
        for user_id, row in changed.items():
            yield {USERS.join_key: user_id, "event_timestamp": time_ms, **user_values(row)}
