"""What people take together, as a version has it: a file in its folder that needs no torch.

N items, P pairs of an item and a companion.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schema import Float32Array, Int64Array, open_address

FILE_NAME = "together.parquet"
COLUMNS = ("item", "companion", "weight")
# A file beyond this is none of ours, but something that fills a process's memory.
MAX_PAIRS = 100_000_000


@dataclass(frozen=True)
class Companions:
    """Items that are taken together with some others, the ones most often first.

    Attributes:
        items: int64[n], by the version's indices.
        scores: float32[n], the sum of what they have with each of the others.
        causes: int64[n], the place among the others of the one that they have most with.
    """

    items: Int64Array
    scores: Float32Array
    causes: Int64Array


class TogetherTable:
    """Pairs of items that are taken in the same sessions, by a version's indices.

    Args:
        items: int64[P], ascending.
        companions: int64[P].
        weights: float32[P], cosines, above 0.
    """

    def __init__(self, items: Int64Array, companions: Int64Array, weights: Float32Array) -> None:
        self._items = items
        self._companions = companions
        self._weights = weights

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self._items)

    def find(self, items: Int64Array) -> Companions:
        """What goes with some items, these left out; each pair counts once.

        Args:
            items: int64[m].

        >>> weights = np.float32([0.5, 0.2, 0.4])
        >>> table = TogetherTable(np.array([2, 2, 5]), np.array([3, 4, 4]), weights)
        >>> found = table.find(np.array([2, 5]))
        >>> found.items.tolist(), found.causes.tolist()
        ([4, 3], [1, 0])
        """
        starts = np.searchsorted(self._items, items, "left")
        ends = np.searchsorted(self._items, items, "right")
        counts = ends - starts
        asked = np.repeat(np.arange(len(items)), counts)
        places = np.arange(len(asked)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        others = ~np.isin(self._companions[places], items)
        asked, places = asked[others], places[others]
        found, which = np.unique(self._companions[places], return_inverse=True)
        weights = self._weights[places]
        scores = np.bincount(which, weights, len(found)).astype(np.float32)
        # By the weight, and of equal ones by the place of what was asked: the last one wins.
        order = np.lexsort((-asked, weights))
        causes = np.zeros(len(found), np.int64)
        causes[which[order]] = asked[order]
        best = np.lexsort((found, -scores))
        return Companions(found[best], scores[best], causes[best])

    def write(self, path: Path) -> None:
        """Write as Parquet to a file."""
        table: Any = pa.table(
            {
                "item": pa.array(self._items, pa.int32()),
                "companion": pa.array(self._companions, pa.int32()),
                "weight": pa.array(self._weights, pa.float32()),
            }
        )
        with path.open("wb") as file:
            pq.write_table(table, file)


def make_together(neighbours: Int64Array, weights: Float32Array) -> TogetherTable:
    """The table of each item's neighbours.

    Args:
        neighbours: int[N, K], items; those of weight 0 are none.
        weights: float32[N, K].
    """
    rows, columns = np.nonzero(weights > 0)
    companions = neighbours[rows, columns].astype(np.int64)
    return TogetherTable(rows, companions, weights[rows, columns].astype(np.float32))


def read_together(folder: str) -> TogetherTable | None:
    """The table of the version in a folder; None where it has none, as those of before.

    Args:
        folder: an address that fsspec understands (a path, s3://...).

    Raises:
        OSError: it cannot be read, though it is there.
        ValueError: it is no such table.
    """
    address = f"{folder.rstrip('/')}/{FILE_NAME}"
    try:
        opened = open_address(address)
    except FileNotFoundError:
        return None
    try:
        with opened as file:
            parquet = pq.ParquetFile(file)
            if parquet.metadata.num_rows > MAX_PAIRS:
                raise ValueError(f"{address}: {parquet.metadata.num_rows} pairs are too many")
            if missing := set(COLUMNS) - set(parquet.schema_arrow.names):
                raise ValueError(f"{address}: no column {min(missing)}: publish a new version")
            table = parquet.read(columns=list(COLUMNS))
    except FileNotFoundError:
        return None
    items, companions, weights = (table[name].to_numpy() for name in COLUMNS)
    if (np.diff(items) < 0).any():
        raise ValueError(f"{address}: items do not ascend")
    return TogetherTable(items.astype(np.int64), companions.astype(np.int64), weights)
