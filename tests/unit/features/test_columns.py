"""Rows survive the way through Feast's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from headwater_client.event_types import CLICK, PURCHASE
from headwater_client.events import Item
from hypothesis import given
from hypothesis import strategies as st

from features import columns
from features.columns import CatalogueEntry, TrendList
from features.feast_import import DoubleList, Int64List, Value
from features.rows import ItemGroup, Observation, apply_event, empty_group, empty_user
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.store import CATALOGUE, FEEDBACK, TRENDING, USERS, ColumnType, StoreTable
from features.topics import hash64, source_hash

SCHEMA = FeatureSchema(FeatureSettings())
SCALAR = {ColumnType.STRING, ColumnType.DOUBLE, ColumnType.BOOL, ColumnType.BYTES, ColumnType.INT64}


def test_a_user_row_comes_back_as_it_was() -> None:
    row = empty_user(SCHEMA)
    for n in range(200):
        kind = PURCHASE.code if n % 5 == 0 else CLICK.code
        event = Observation(
            kind,
            "u",
            f"i{n}",
            hash64(f"i{n}"),
            1_700_000_000_000 + n * 60_000,
            hash64(f"e{n}"),
            source_hash(str(kind), n % 3),
            n,
            (hash64(f"c{n % 7}"),),
        )
        apply_event(row, event, SCHEMA)
    stored = columns.encode_user(row)
    assert set(stored) == set(USERS.columns) - {"merges"}
    assert columns.decode_user(stored, SCHEMA) == row


def test_nothing_stored_is_an_empty_row() -> None:
    assert columns.decode_user(dict.fromkeys(USERS.columns), SCHEMA) == empty_user(SCHEMA)
    assert columns.decode_group(None, SCHEMA) == empty_group(SCHEMA)


def test_a_group_keeps_its_source_and_offset_exactly() -> None:
    group = ItemGroup([1.0, 0.5, 0.25, 3.0], source_hash("t", 1), 2**52 - 1, 1_700_000_000_000)
    assert columns.decode_group(columns.encode_group(group), SCHEMA) == group


def test_a_tombstone_leaves_an_item_that_cannot_be_had() -> None:
    shelved = columns.encode_item(Item(item_id="i", category=["a", "b"]), 1, 2)
    assert set(shelved) == set(CATALOGUE.columns)
    hashes = (hash64("a"), hash64("b"))
    assert columns.decode_catalogue_entry(shelved) == CatalogueEntry(hashes, available=True)
    gone = columns.decode_catalogue_entry(columns.encode_item(None, 1, 3))
    assert gone == CatalogueEntry((), available=False)
    assert columns.decode_pair(shelved["offsets"]) == (1, 2)


def test_an_item_without_a_row_is_taken_for_available() -> None:
    nothing = dict.fromkeys(columns.ENTRY_COLUMNS)
    assert columns.decode_catalogue_entry(nothing) == CatalogueEntry((), available=True)


def test_serving_knows_an_items_attributes() -> None:
    stored = columns.encode_item(Item(item_id="i", attributes={"region": "north"}), 1, 2)
    assert columns.decode_catalogue_entry(stored).attributes == {"region": "north"}


def test_a_trend_list_comes_back_as_it_was() -> None:
    counts = np.arange(10, dtype=np.float64).reshape(2, 5)
    stored = columns.encode_trending(TrendList(["a", "b"], counts), 3, 4)
    assert set(stored) == set(TRENDING.columns)
    back = columns.decode_trending(stored, SCHEMA)
    assert back.item_ids == ["a", "b"]
    assert (back.counts == counts).all()


def test_a_row_from_before_an_event_type_has_no_counts_of_it() -> None:
    values = columns.user_values(empty_user(SCHEMA)) | {"counters": [1.0] * 5, "offsets": [1, 2]}
    row = columns.user_from_values(values, SCHEMA)
    assert row.counters == [1.0] * 5 + [0.0] * 5


@pytest.mark.parametrize("table", [USERS, CATALOGUE, TRENDING, FEEDBACK], ids=lambda t: t.name)
def test_a_column_without_a_value_is_none(table: StoreTable) -> None:
    stored = columns.encode_columns(table, {n: None for n, k in table.types.items() if k in SCALAR})
    assert set(columns.decode_columns(table, stored).values()) <= {None}
    missing = dict.fromkeys(table.columns)
    assert columns.decode_columns(table, missing) == missing


def message(kind: ColumnType, value: Any) -> bytes:
    """A column as protobuf itself writes it."""
    lists = {ColumnType.DOUBLES: DoubleList, ColumnType.INT64S: Int64List}
    name = {ColumnType.DOUBLES: "double_list_val", ColumnType.INT64S: "int64_list_val"}
    if kind in lists:
        return Value(**{name[kind]: lists[kind](val=value)}).SerializeToString()
    return Value(bytes_val=value).SerializeToString()


@given(st.lists(st.floats(width=64), max_size=300))
def test_lists_of_doubles_are_written_as_protobuf_does(values: list[float]) -> None:
    found = columns.encode_columns(USERS, {"counters": values})["counters"]
    assert found == message(ColumnType.DOUBLES, values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=300))
def test_lists_of_whole_numbers_are_written_as_protobuf_does(values: list[int]) -> None:
    found = columns.encode_columns(USERS, {"history_items": values})["history_items"]
    assert found == message(ColumnType.INT64S, values)


@given(st.binary(max_size=300) | st.integers(0, 70_000).map(bytes))
def test_bytes_are_written_as_protobuf_does(value: bytes) -> None:
    found = columns.encode_columns(USERS, {"taken": value})["taken"]
    assert found == message(ColumnType.BYTES, value)
