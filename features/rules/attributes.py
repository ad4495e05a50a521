"""What values an item has of an attribute: one, several (its categories), or none.

n items.
"""

import numpy as np

from features.rules.table import ABSENT, NUMBER, ItemColumn, ItemValue
from features.schema import BoolArray, Float64Array, Int64Array


def read_values(column: ItemColumn | None, row: int) -> tuple[ItemValue, ...]:
    """The values of one item, each once; none where it lacks the attribute, or its text is empty.

    Args:
        column: None: no item has the attribute.
        row: below 0: nothing is known of the item.
    """
    if column is None or row < 0:
        return ()
    code = int(column.codes[row])
    if code == NUMBER:
        assert column.numbers is not None
        return (float(column.numbers[row]),)
    value = column.values[code]
    if isinstance(value, tuple):
        return tuple(dict.fromkeys(value))
    return () if value in (None, "") else (value,)


class AttributeValues:
    """One attribute of some items.

    Args:
        rows: int64[n], of the items; -1 where nothing is known of one.
    """

    def __init__(self, column: ItemColumn | None, rows: Int64Array) -> None:
        self._column = column
        self._rows = rows
        self._codes = np.full(len(rows), ABSENT, np.int32)
        if column is not None and len(column.codes):
            self._codes = np.where(rows >= 0, column.codes[rows], ABSENT).astype(np.int32)

    def count_values(self) -> Float64Array:
        """How many values each item has: float64[n]."""
        codes, first, places = np.unique(self._codes, return_index=True, return_inverse=True)
        counts = [
            0 if code == ABSENT else len(read_values(self._column, int(self._rows[at])))
            for code, at in zip(codes.tolist(), first.tolist(), strict=True)
        ]
        sizes: Float64Array = np.array(counts, np.float64)[places]
        return sizes

    def find_holders(self, value: ItemValue) -> BoolArray:
        """Which of the items have a value: bool[n]."""
        column = self._column
        if column is None or not len(column.codes):
            return np.zeros(len(self._rows), np.bool_)
        if isinstance(value, float) and column.numbers is not None:
            numbers: BoolArray = (self._codes == NUMBER) & (column.numbers[self._rows] == value)
            return numbers
        holds = np.zeros(len(column.values), np.bool_)
        if isinstance(value, str):
            holds[column.codes_with(value)] = True
        if (code := column.code_of(value)) > NUMBER:
            holds[code] = True
        found: BoolArray = holds[self._codes]
        return found
