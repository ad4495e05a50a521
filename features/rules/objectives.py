"""What a list is to earn: what its objective adds to the logarithm of each item's odds.

    clicks      nothing: a score is how likely the item is what this person takes next
    purchases   ln c           c: which part of what people do with the item are purchases
    revenue     ln c + ln p    p: its price

With the score for P(item | person), P(item and bought | person) = P(item | person) c, as far as it
does not hang on the person whether an item that is taken is bought. c is drawn to m, the part of
purchases in all that is done, by `PRIOR` events: (purchases + PRIOR m) / (events + PRIOR). So an
item of which little is known is neither raised nor buried. One without a price has the median's.

N items of the catalogue, by their rows.
"""

import numpy as np
from headwater_client.rules import Objective

from features.schema import Float64Array, Int64Array

PRIOR = 20.0


class ConversionCounts:
    """How often each item was taken, and how often it was bought.

    Attributes:
        is_wanted: whether anybody has asked: nobody has to count before.
        revision: grows with each change.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self.revision = 0
        self._counts: Float64Array = np.zeros((0, 2))

    def put(self, rows: Int64Array, counts: Float64Array) -> None:
        """Set what was counted of some items.

        Args:
            rows: int64[n].
            counts: float64[n, 2], events and purchases among them.
        """
        if len(rows):
            more = max(0, int(rows.max()) + 1 - len(self._counts))
            self._counts = np.pad(self._counts, ((0, more), (0, 0)))
            self._counts[rows] = np.maximum(counts, 0.0)
            self.revision += 1

    def find_shifts(self, objective: Objective, prices: Float64Array) -> Float64Array:
        """What an objective adds to the logarithm of each item's odds: float64[N].

        Args:
            prices: float64[N], not a number where an item has none.

        >>> counts = ConversionCounts()
        >>> counts.put(np.array([0, 1]), np.array([[180.0, 0.0], [180.0, 36.0]]))
        >>> shifts = counts.find_shifts(Objective.PURCHASES, np.full(3, np.nan))
        >>> [round(float(each), 2) for each in np.exp(shifts)]
        [0.1, 1.9, 1.0]
        """
        self.is_wanted = True
        if objective is Objective.CLICKS:
            return np.zeros(len(prices))
        shifts = self._find_rates(len(prices))
        if objective is Objective.REVENUE:
            is_known = prices > 0
            median = float(np.median(prices[is_known])) if is_known.any() else 1.0
            shifts += np.log(np.where(is_known, prices, median)) - np.log(median)
        return shifts

    def _find_rates(self, items: int) -> Float64Array:
        """The logarithm of each item's part of purchases over that of all: float64[N]."""
        counts = np.pad(self._counts, ((0, max(0, items - len(self._counts))), (0, 0)))[:items]
        events, purchases = counts.sum(axis=0)
        if not purchases:
            # Nobody buys, or nothing is counted yet: nothing tells the items apart.
            return np.zeros(items)
        mean = purchases / events
        rates: Float64Array = (counts[:, 1] + PRIOR * mean) / (counts[:, 0] + PRIOR)
        shifts: Float64Array = np.log(rates / mean)
        return shifts
