"""What rows are called in Redis: the keys and fields are Feast's own."""

from functools import lru_cache
from typing import Any

import mmh3
from google.protobuf.timestamp_pb2 import Timestamp

from features.feast_import import EntityKey, Value, serialize_entity_key
from features.store import CATALOGUE, VERSION, EntryAppend, RowWrite, StoreTable

PROJECT = "headwater"
ENTITY_KEY_VERSION = 3
# What every column of a row is read as whose key holds no hash: somebody's SET, LPUSH, ... It is no
# `Value`, so whoever reads the row finds it damaged. The script of `row_store` has the same text.
OTHER_KIND = b"\xff\xffof another kind"
_BYTES_TAG = bytes([Value.DESCRIPTOR.fields_by_name["bytes_val"].number << 3 | 2])


@lru_cache(maxsize=100_000)
def row_key(join_key: str, entity_id: str) -> bytes:
    """The key of an entity's rows: those of all its views."""
    entity = EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity_id)])
    encoded: bytes = serialize_entity_key(entity, ENTITY_KEY_VERSION)
    return encoded + PROJECT.encode()


@lru_cache(maxsize=10_000)
def field_of(view: str, column: str) -> bytes:
    """The field of a row's hash that Feast keeps a column in."""
    return mmh3.hash(f"{view}:{column}", signed=False).to_bytes(4, "little")


def time_field(table: StoreTable) -> bytes:
    """The field that says when a row of a view was written."""
    return f"_ts:{table.name}".encode()


def _time_value(time_ms: int) -> bytes:
    seconds, rest = divmod(time_ms, 1000)
    time: bytes = Timestamp(seconds=seconds, nanos=rest * 1_000_000).SerializeToString()
    return time


def append_arguments(append: EntryAppend) -> list[Any]:
    """The key and the arguments of the script that adds entries to a column."""
    table = append.table
    return [
        row_key(table.join_key, append.entity_id),
        field_of(table.name, append.column),
        _BYTES_TAG,
        append.entries,
        append.limit,
        time_field(table),
        _time_value(append.time_ms),
    ]


def write_arguments(write: RowWrite) -> list[bytes]:
    """The key and the arguments of the script that writes a row."""
    view = write.table.name
    arguments = [
        row_key(write.table.join_key, write.entity_id),
        field_of(view, write.version),
        write.expected or b"",
        time_field(write.table),
        _time_value(write.time_ms),
    ]
    for name, value in write.columns.items():
        arguments += (field_of(view, name), value)
    if write.expected == OTHER_KIND and view != CATALOGUE.name:
        # What the key held of the catalogue is gone too: an item must not be on sale for that.
        arguments += (field_of(CATALOGUE.name, VERSION), OTHER_KIND)
        arguments += (field_of(CATALOGUE.name, "available"), OTHER_KIND)
    return arguments
