"""Rows that release 0.1.0 wrote (revision 13a9bcc) are read as it read them, and written the same.

The files hold a store's keys and fields as raw bytes: their names are tested too.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from features.columns import (
    ENTRY_COLUMNS,
    decode_catalogue_entry,
    decode_columns,
    decode_group,
    decode_trending,
    decode_user,
    encode_columns,
    encode_group,
    encode_trending,
    encode_user,
)
from features.schema import FeatureSchema, RowMark
from features.settings import FeatureSettings
from features.store import (
    CATALOGUE,
    FEEDBACK,
    TRENDING,
    USERS,
    StoreTable,
    item_sources,
    popularity_table,
)
from features.store.redis import keys
from features.topics import hash64

FOLDER = Path(__file__).parents[2] / "golden/13a9bcc"
SCHEMA = FeatureSchema(FeatureSettings())
PARTITIONS = 4
POPULARITY = popularity_table(PARTITIONS)


def read_json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return content


ROWS = read_json("rows.json")
EXPECTED = read_json("expected_rows.json")


def stored_row(table: StoreTable, entity_id: str) -> dict[str, bytes | None]:
    """The columns of a row, found by the key and fields that today's store uses."""
    key = keys.row_key(table.join_key, entity_id)
    fields = ROWS[base64.b64encode(key).decode()]["value"]
    raw = {base64.b64decode(name): base64.b64decode(value) for name, value in fields.items()}
    return {name: raw.get(keys.field_of(table.name, name)) for name in table.columns}


@pytest.mark.parametrize("user_id", EXPECTED["users"])
def test_a_person(user_id: str) -> None:
    stored, expected = stored_row(USERS, user_id), EXPECTED["users"][user_id]
    row = decode_user(stored, SCHEMA)
    assert row.counters == expected["counters"]
    assert [list(event) for event in row.history] == expected["history"]
    assert {str(name): values for name, values in row.categories.items()} == expected["categories"]
    assert row.seen.tolist() == expected["seen"]
    assert row.dedup_ids.tolist() == expected["dedup_ids"]
    assert {str(source): offset for source, offset in row.offsets.items()} == expected["offsets"]
    assert encode_user(row) == {name: value for name, value in stored.items() if value is not None}


@pytest.mark.parametrize("item_id", EXPECTED["items"])
def test_an_items_popularity(item_id: str) -> None:
    stored = stored_row(POPULARITY, item_id)
    groups = {name: decode_group(raw, SCHEMA) for name, raw in stored.items() if raw is not None}
    found = {
        name: {
            "values": group.values,
            "source": group.source,
            "offset": group.offset,
            "reference_ms": group.reference_ms,
        }
        for name, group in groups.items()
    }
    assert found == EXPECTED["items"][item_id]["groups"]
    for name, group in groups.items():
        assert encode_group(group) == stored[name]


@pytest.mark.parametrize("item_id", EXPECTED["items"])
def test_an_item_of_the_catalogue(item_id: str) -> None:
    stored, expected = stored_row(CATALOGUE, item_id), EXPECTED["items"][item_id]
    entry = decode_catalogue_entry({name: stored[name] for name in ENTRY_COLUMNS})
    assert entry.category_hashes == tuple(map(hash64, expected["category"]))
    assert entry.available == expected["available"]
    values = decode_columns(CATALOGUE, stored)
    assert values["title"] == expected["title"]
    assert values["attributes"] == expected["attributes"]
    assert entry.attributes == json.loads(expected["attributes"] or "{}")
    written = {name: value for name, value in values.items() if stored[name] is not None}
    assert encode_columns(CATALOGUE, written) == {n: v for n, v in stored.items() if v is not None}


@pytest.mark.parametrize("source", EXPECTED["trending"])
def test_a_list_of_trending_items(source: str) -> None:
    stored, expected = stored_row(TRENDING, source), EXPECTED["trending"][source]
    listed = decode_trending(stored, SCHEMA)
    assert listed.item_ids == expected["item_ids"]
    assert listed.counts.tolist() == expected["counts"]
    pair = decode_columns(TRENDING, stored)["offsets"]
    assert encode_trending(listed, *pair) == stored


@pytest.mark.parametrize("trial", EXPECTED["feedback"])
def test_feedback_of_a_rollout_is_the_same_bytes_by_column(trial: str) -> None:
    stored = stored_row(FEEDBACK, trial)
    assert encode_columns(FEEDBACK, decode_columns(FEEDBACK, stored)) == stored


def test_the_mark_of_the_store_fits() -> None:
    mark = base64.b64decode(ROWS[base64.b64encode(b"headwater:layout").decode()]["value"]).decode()
    assert RowMark(mark) == RowMark(SCHEMA.row_mark)


def test_nothing_in_the_store_is_unknown() -> None:
    """Every row that is there belongs to a table, and every field to a column of it."""
    tables = {
        USERS.join_key: [USERS],
        POPULARITY.join_key: [POPULARITY, CATALOGUE],
        TRENDING.join_key: [TRENDING],
        FEEDBACK.join_key: [FEEDBACK],
    }
    for key, row in ROWS.items():
        if row["type"] != "hash":
            continue
        (join_key,) = (name for name in tables if name.encode() in base64.b64decode(key))
        known = {
            field
            for table in tables[join_key]
            for field in (
                keys.time_field(table),
                *(keys.field_of(table.name, column) for column in table.columns),
            )
        }
        assert {base64.b64decode(field) for field in row["value"]} <= known
    # The columns of before come first, under the same names.
    parts = [*range(PARTITIONS), "loaded"]
    before = [f"{topic}_{part}" for topic in ("clicks", "purchases") for part in parts]
    assert item_sources(PARTITIONS)[: len(before)] == before
