"""A vocabulary gives each item the same index again, and knows which were learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schema import FIRST_ITEM, UNKNOWN, Vocabulary, read_vocabulary
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
