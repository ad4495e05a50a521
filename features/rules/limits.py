"""What a place may go to: within limits, with promotions that are due, of items that are left."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
from headwater_client.rules import AtMost

from features.rules.attributes import AttributeValues, read_values
from features.rules.plans import ListPlan
from features.rules.table import ItemColumn, ItemValue
from features.schema import Int64Array

ValueKey = tuple[bool, ItemValue]
"""A value, and whether it is true or false: to Python `True` and 1 are the same."""
_ActiveLimit = tuple[AtMost, ItemColumn | None, dict[ValueKey, int]]


class LimitCounts:
    """How many items of each value have a place already."""

    def __init__(self, plan: ListPlan) -> None:
        self._rules = plan.limits
        self._columns = [plan.table.find_column(limit.by) for limit in plan.limits]
        self._counts: list[dict[ValueKey, int]] = [{} for _ in plan.limits]

    def allow(self, row: int, place: int) -> bool:
        """Whether an item may have a place."""
        return not self._rules or not any(
            counts.get(key, 0) >= limit.items
            for limit, column, counts in self._active(place)
            for key in _read_keys(column, row)
        )

    def count(self, row: int, place: int) -> None:
        """An item has got a place."""
        for _, column, counts in self._active(place):
            for key in _read_keys(column, row):
                counts[key] = counts.get(key, 0) + 1

    def find_full(self, place: int) -> Iterator[tuple[str, ItemValue]]:
        """The values, each after its attribute, of which no more items may have a place."""
        for limit, _, counts in self._active(place):
            for (_, value), count in counts.items():
                if count >= limit.items:
                    yield limit.by, value

    def phase(self, place: int) -> int:
        """How many rules hold for a place."""
        return sum(1 for _ in self._active(place))

    def _active(self, place: int) -> Iterator[_ActiveLimit]:
        for limit, column, counts in zip(self._rules, self._columns, self._counts, strict=True):
            if limit.places is None or place < limit.places:
                yield limit, column, counts


def _read_keys(column: ItemColumn | None, row: int) -> Iterator[ValueKey]:
    return ((isinstance(value, bool), value) for value in read_values(column, row))


class PromotedPlaces:
    """Which promotions have had their place among the places that they are promised one of."""

    def __init__(self, plan: ListPlan, pinned: Mapping[int, int]) -> None:
        self._rules = plan.rules.promotions
        self._masks = plan.promoted
        self._met: set[tuple[int, int]] = set()
        for place, row in pinned.items():
            self.note(row, place)

    def note(self, row: int, place: int) -> None:
        """An item has got a place."""
        for number, (rule, mask) in enumerate(zip(self._rules, self._masks, strict=True)):
            if row >= 0 and mask[row]:
                self._met.add((number, place // rule.every))

    def find_due(self, place: int, pinned: Collection[int], places: int) -> list[int]:
        """The promotions that this place goes to, the most urgent first; none where it can wait.

        Each has to have its place before its time is over: the earliest end goes first.
        """
        unmet = []
        for number, rule in enumerate(self._rules):
            end = (place // rule.every + 1) * rule.every
            if end <= places and (number, place // rule.every) not in self._met:
                unmet.append((end, number))
        unmet.sort()
        for before, (end, _) in enumerate(unmet):
            free = sum(1 for each in range(place, end) if each not in pinned)
            if free <= before + 1:
                return [number for _, number in unmet]
        return []


class RowSet:
    """Items by their rows that may still be taken.

    Args:
        rows: int64[M], ascending.
        gone: those that may not.
    """

    def __init__(self, plan: ListPlan, rows: Int64Array, gone: Iterable[str]) -> None:
        self._plan = plan
        self._rows = rows
        self._is_left = self._now = np.ones(len(rows), np.bool_)
        self._values: dict[str, AttributeValues] = {}
        for item_id in gone:
            self.remove(plan.table.row_of(item_id))

    def remove(self, row: int) -> None:
        """Take an item out, if it is in."""
        if (at := self._find(row)) is not None:
            self._is_left[at] = False

    def keep_within(self, full: Iterable[tuple[str, ItemValue]]) -> int:
        """Leave out the holders of these values, for one place; how many are left."""
        now = self._is_left
        for name, value in full if len(self._rows) else ():
            if name not in self._values:
                column = self._plan.table.find_column(name)
                self._values[name] = AttributeValues(column, self._rows)
            now = now & ~self._values[name].find_holders(value)
        self._now = now
        return int(np.count_nonzero(now))

    def has(self, row: int) -> bool:
        """Whether an item is left, for this place."""
        at = self._find(row)
        return at is not None and bool(self._now[at])

    def pick(self, number: int) -> int:
        """The row of one of those that are left for this place, by its number."""
        return int(self._rows[np.flatnonzero(self._now)[number]])

    def _find(self, row: int) -> int | None:
        at = int(np.searchsorted(self._rows, row))
        return at if at < len(self._rows) and self._rows[at] == row else None
