"""How alike items are, by what the catalogue says of them.

Two items are as alike as the share of their values that both have (P. Jaccard, "The distribution of
the flora in the alpine zone", New Phytologist 1912): 1 where they have the same, 0 where they share
none, or have none.

n items.
"""

from collections.abc import Sequence

import numpy as np

from features.rules.attributes import AttributeValues, read_values
from features.rules.table import CatalogueTable
from features.schema import Float64Array, Int64Array


class AttributeLikeness:
    """The likeness of any item to each of some.

    A greedy re-ranking of n items into k places asks for one row of n at each place: k rows, where
    all pairs would be n. A row costs one look-up of n codes for each value of the one item.

    Args:
        rows: of the items; -1 where nothing is known of one.
        names: of the attributes that are compared.
    """

    def __init__(self, table: CatalogueTable, rows: Int64Array, names: Sequence[str]) -> None:
        self._columns = [table.find_column(name) for name in names]
        self._attributes = [AttributeValues(column, rows) for column in self._columns]
        self._sizes: Float64Array = np.sum(
            [each.count_values() for each in self._attributes], axis=0
        )

    def compare(self, row: int) -> Float64Array:
        """How alike an item of the table is to each: float64[n], from 0 to 1."""
        shared, own = np.zeros(len(self._sizes)), 0
        for column, attribute in zip(self._columns, self._attributes, strict=True):
            values = read_values(column, row)
            own += len(values)
            for value in values:
                shared += attribute.find_holders(value)
        either = own + self._sizes - shared
        alike: Float64Array = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
        return alike
