"""What is taken together: as the version counted it, read back, summed over a cart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.together import FILE_NAME, TogetherTable, make_together, read_together

ITEMS, NEIGHBOURS = 12, 4


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours, no item twice, and their weights, some 0."""
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.delete(np.arange(ITEMS), at))[:NEIGHBOURS] for at in range(ITEMS)]
    weights = random.random((ITEMS, NEIGHBOURS)) * (random.random((ITEMS, NEIGHBOURS)) < 0.7)
    return np.array(rows), weights.astype(np.float32)


@given(st.integers(0, 99), st.lists(st.integers(0, ITEMS - 1), max_size=6, unique=True))
def test_a_cart_gains_the_sum_of_its_items(seed: int, cart: list[int]) -> None:
    neighbours, weights = drawn(seed)
    table = make_together(neighbours, weights)
    found = table.find(np.array(cart, np.int64))
    dense = np.zeros((ITEMS, ITEMS), np.float32)
    np.put_along_axis(dense, neighbours, weights, axis=1)
    total = dense[cart].sum(0)
    total[cart] = 0
    assert sorted(found.items.tolist()) == np.flatnonzero(total).tolist()
    np.testing.assert_allclose(found.scores, total[found.items], rtol=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    for item, cause in zip(found.items, found.causes, strict=True):
        assert dense[cart[cause], item] == dense[cart, item].max()


def test_it_is_read_back_and_a_version_without_it_has_none(tmp_path: Path) -> None:
    neighbours, weights = drawn(1)
    table = make_together(neighbours, weights)
    assert read_together(str(tmp_path)) is None
    assert read_together(tmp_path.as_uri()) is None
    table.write(tmp_path / FILE_NAME)
    again = read_together(tmp_path.as_uri())
    assert again is not None
    assert len(again) == np.count_nonzero(weights)
    cart = np.array([3, 7])
    for name in ("items", "scores", "causes"):
        assert (getattr(again.find(cart), name) == getattr(table.find(cart), name)).all()


def test_nothing_goes_with_nothing() -> None:
    empty = TogetherTable(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert not len(empty.find(np.array([2, 3])).items)
    assert not len(make_together(*drawn(1)).find(np.zeros(0, np.int64)).items)


def test_what_is_no_such_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    pq.write_table(pa.table({"item": [2, 3], "companion": [3, 2]}), path)
    with pytest.raises(ValueError, match="no column weight"):
        read_together(str(tmp_path))
    pq.write_table(pa.table({"item": [3, 2], "companion": [2, 3], "weight": [1.0, 1.0]}), path)
    with pytest.raises(ValueError, match="do not ascend"):
        read_together(str(tmp_path))
