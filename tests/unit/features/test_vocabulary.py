"""A vocabulary gives each item the same index again, and knows which were learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from headwater_client.errors import SettingsError

from features.schema import (
    FIRST_ITEM,
    MAX_VOCABULARY_ITEMS,
    UNKNOWN,
    Vocabulary,
    check_address,
    read_version,
    read_vocabulary,
)
from features.topics import hash64


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    learned = [True, False, True, False]
    vocabulary = Vocabulary(["a", "b", "c", "d"], learned)
    vocabulary.write(str(tmp_path / "vocabulary.parquet"))
    again = read_vocabulary(str(tmp_path / "vocabulary.parquet"))
    assert again.item_ids == vocabulary.item_ids == ["", "", "a", "b", "c", "d"]
    assert again.learned.dtype == np.bool_
    assert again.learned.tolist() == [True, True, *learned]
    assert again.indices_of(["d", "nowhere", "a"]).tolist() == [5, UNKNOWN, FIRST_ITEM]


def test_all_are_learned_where_nothing_else_is_said(tmp_path: Path) -> None:
    assert Vocabulary(["a", "b"]).learned.tolist() == [True] * 4
    assert Vocabulary([]).learned.tolist() == [True] * 2
    Vocabulary([]).write(str(tmp_path / "vocabulary.parquet"))
    assert len(read_vocabulary(str(tmp_path / "vocabulary.parquet"))) == 2


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape|broadcast"):
        Vocabulary(["a", "b"], [True, False, True])


def test_indices_that_do_not_count_up_are_refused(tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a"], "hash": [hash64("a")], "index": [7], "learned": [True]})
    pq.write_table(table, tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="do not count up from 2"):
        read_vocabulary(str(tmp_path / "odd.parquet"))


def test_one_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a"], "hash": [hash64("a")], "index": [FIRST_ITEM]})
    pq.write_table(table, tmp_path / "old.parquet")
    with pytest.raises(ValueError, match=r"no column learned: publish a new version"):
        read_vocabulary(str(tmp_path / "old.parquet"))


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/7",
        "http://127.0.0.1:9/7",
        "memory://x",
        "simplecache::memory://x",
        "zip://a::/etc/passwd",
        "data:,hello",
        "http://[::1",
        "/srv/models/../../etc",
        "file:///srv/%2e%2e/etc",
        "\0bad",
        "/srv/models2/7",
        "file:///srv/other/7",
    ],
)
def test_a_version_is_read_from_where_the_settings_allow_it(address: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        read_version(address, None, ["/srv/models", "gs://bucket/models"])


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("/srv/models/7", []),
        ("file:///srv/models/7", []),
        ("file:///srv/models/7", ["/srv/models"]),
        ("/srv/my%20models/7", ["file:///srv/my models/"]),
        ("s3://bucket/models/7/", ["s3://bucket/models"]),
    ],
)
def test_what_lies_below_an_allowed_address_may_be_read(address: str, allowed: list[str]) -> None:
    check_address(address, allowed)


def test_by_default_versions_lie_on_a_local_disk() -> None:
    with pytest.raises(SettingsError, match=r"not below a local path.*worker\.model_addresses"):
        check_address("s3://bucket/7", [])


def test_a_file_that_unpacks_into_all_memory_is_refused(tmp_path: Path) -> None:
    rows = MAX_VOCABULARY_ITEMS + 1
    bomb = pa.table({"item_id": pa.nulls(rows, pa.string()), "index": pa.nulls(rows, pa.int64())})
    path = tmp_path / "vocabulary.parquet"
    pq.write_table(bomb, path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match="at most 20000000 items"):
        read_vocabulary(str(path))
