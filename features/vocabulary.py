"""The vocabulary of a model version: which index it gives to which item.

Each version carries its own (item_id, hash, index; Parquet), so nobody hands out indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.topics import hash64

PADDING = 0
UNKNOWN = 1
FIRST_ITEM = 2
FILE_NAME = "vocabulary.parquet"
COLUMNS = ("item_id", "index", "learned")


class Vocabulary:
    """Items by index and indices by hash.

    Args:
        item_ids: the items at index 2 and on (0 is padding, 1 an unknown item).
        learned: which of them the version has learned from events; default: all.

    Attributes:
        learned: bool[N], by index; the others are known by what the catalogue says of them.
    """

    unknown = UNKNOWN

    def __init__(self, item_ids: Sequence[str], learned: Sequence[bool] | None = None) -> None:
        self.item_ids = ["", "", *item_ids]
        self.learned = np.ones(len(self.item_ids), np.bool_)
        if learned is not None:
            self.learned[FIRST_ITEM:] = learned
        hashes = np.fromiter((hash64(name) for name in item_ids), np.int64, len(item_ids))
        order = np.argsort(hashes)
        self._hashes: npt.NDArray[np.int64] = hashes[order]
        self._indices: npt.NDArray[np.int64] = order.astype(np.int64) + FIRST_ITEM

    def __len__(self) -> int:
        """Rows of the model's item table: the items, padding and the unknown item."""
        return len(self.item_ids)

    def indices(self, hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The index of each hash, same shape; `UNKNOWN` where this version does not have it."""
        if not len(self._hashes):
            return np.full(hashes.shape, UNKNOWN, np.int64)
        place = np.searchsorted(self._hashes, hashes)
        place[place == len(self._hashes)] = 0
        return np.where(self._hashes[place] == hashes, self._indices[place], UNKNOWN)

    def indices_of(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The index of each item id, int64[n]."""
        return self.indices(np.fromiter(map(hash64, item_ids), np.int64, len(item_ids)))

    def write(self, address: str) -> None:
        """Write as Parquet to an address that fsspec understands."""
        names = self.item_ids[FIRST_ITEM:]
        table: Any = pa.table(
            {
                "item_id": pa.array(names, pa.string()),
                "hash": pa.array([hash64(name) for name in names], pa.int64()),
                "index": pa.array(range(FIRST_ITEM, len(self)), pa.int64()),
                "learned": pa.array(self.learned[FIRST_ITEM:], pa.bool_()),
            }
        )
        with fsspec.open(address, "wb") as file:
            pq.write_table(table, file)


def read_vocabulary(address: str) -> Vocabulary:
    """The vocabulary at an address that fsspec understands (a path, s3://...).

    Raises:
        OSError: it cannot be read.
        ValueError: a column is missing, or its indices do not count up from 2.
    """
    with fsspec.open(address, "rb") as file:
        parquet = pq.ParquetFile(file)
        if missing := set(COLUMNS) - set(parquet.schema_arrow.names):
            raise ValueError(f"{address}: no column {min(missing)}: publish a new version")
        table = parquet.read(columns=list(COLUMNS))
    if table["index"].to_pylist() != list(range(FIRST_ITEM, FIRST_ITEM + len(table))):
        raise ValueError(f"{address}: indices do not count up from {FIRST_ITEM}")
    return Vocabulary(table["item_id"].to_pylist(), table["learned"].to_pylist())
