"""What a request's filter allows: by name, and by the indices of the version that is asked.

N items of the table, V items of a version.

A filter is evaluated over all items once. What came of it is kept, shared by requests with the same
filter and the same context, and brought up to date for the items alone that have changed.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from cachetools import LRUCache
from headwater_client.rules import Objective

from features.rules.conditions import Scope
from features.rules.filters import Filter, compile_filter, join_filters
from features.rules.objectives import ConversionCounts
from features.rules.table import CatalogueTable, TableView
from features.schema import UNKNOWN, BoolArray, Float64Array, Int64Array
from stream.routing import Route

# A filter that leaves no more, and a small share of the version's items, is answered by scores of
# all that it leaves: the best hundred of the whole catalogue would hold too few of them.
MAX_POOL = 1000
_POOL_SHARE = 0.25
_KEPT = 128
_ASKED_FOR = 10_000
_NOTHING: BoolArray = np.zeros(0, np.bool_)
_AVAILABLE = compile_filter("item.available")


@dataclass
class AllowedMask:
    """What a filter allows.

    Attributes:
        revision: of the table, as which it is.
        allowed: bool[N], by row.
        by_index: by a version's address, bool[V], by its indices; and how many are allowed.
    """

    revision: int
    allowed: BoolArray
    by_index: dict[str, tuple[BoolArray, int]] = field(default_factory=dict)


class FilterableItems:
    """The catalogue as columns, and which indices the routed versions give its items.

    Attributes:
        table: the items; whoever keeps it up to date changes it in place.
        conversions: how often they are bought, likewise.
        asked_for: items that requests and rules have named, of which nothing is known here yet.
    """

    def __init__(self) -> None:
        self.asked_for: set[str] = set()
        self.table = CatalogueTable()
        self.conversions = ConversionCounts()
        self._masks: LRUCache[tuple[str, str], AllowedMask] = LRUCache(_KEPT)
        self._indices: dict[str, Int64Array] = {}
        self._new: dict[str, BoolArray] = {}
        self._shifts: dict[Objective, tuple[tuple[int, int], Float64Array]] = {}

    def ask_for(self, item_ids: Iterable[str]) -> None:
        """Have items read that a request or a rule names, where nothing is known of them.

        A process that has started since they came knows those of versions and trends alone.
        """
        for name in item_ids:
            if name not in self.table and len(self.asked_for) < _ASKED_FOR:
                self.asked_for.add(name)

    def make_filter(self, text: str, scope: Scope) -> "ItemFilter":
        """A filter for one request.

        Args:
            scope: what the request brings.

        Raises:
            RuleError: it cannot be used, or asks for what no item, or not this request, has.
        """
        self.check_filter(text)
        return self.apply_filter(text, scope)

    def check_filter(self, text: str) -> None:
        """Refuse a filter that cannot be used, or asks for an attribute that no item has.

        Raises:
            RuleError: with the column.
        """
        compile_filter(text).check_attributes(self.table.attributes)

    def apply_filter(self, text: str, scope: Scope) -> "ItemFilter":
        """A filter that was checked once, for one request: items may have changed since.

        Raises:
            RuleError: the request lacks what it asks for.
        """
        found = compile_filter(text)
        found.check_scope(scope)
        return ItemFilter(self, found, scope)

    def find_mask(self, found: Filter, scope: Scope) -> AllowedMask:
        """What a filter allows now, of the items that are available."""
        asked = found.text, found.describe_scope(scope)
        known = self._masks.get(asked)
        if known is not None and known.revision == self.table.revision:
            return known
        changed = None if known is None else self.table.changed_since(known.revision)
        if known is None or changed is None:
            allowed = _evaluate(found, scope, self.table.view())
            known = self._masks[asked] = AllowedMask(self.table.revision, allowed)
        elif len(changed):
            known.allowed = np.pad(known.allowed, (0, len(self.table) - len(known.allowed)))
            known.allowed[changed] = _evaluate(found, scope, self.table.view(changed))
            known.revision = self.table.revision
            known.by_index.clear()
        return known

    def find_indices(self, route: Route) -> Int64Array:
        """The index that a version gives each item, int64[N], by row; else `UNKNOWN`."""
        address, names = route.version.address, self.table.item_ids
        known = self._indices.get(address, np.zeros(0, np.int64))
        if len(known) < len(names):
            more = route.vocabulary.indices_of(names[len(known) :])
            known = self._indices[address] = np.concatenate([known, more])
        return known

    def find_shifts(self, objective: Objective | None) -> Float64Array | None:
        """What an objective adds to the logarithm of each item's odds: float64[N]; None: nothing.

        As far as it has been read how often items are bought: whoever asks first has it read.
        """
        if objective is None or objective is Objective.CLICKS:
            return None
        is_of = self.table.revision, self.conversions.revision
        if objective not in self._shifts or self._shifts[objective][0] != is_of:
            column, size = self.table.find_column("price"), len(self.table)
            prices = np.full(size, np.nan)
            if column is not None and column.numbers is not None:
                prices = column.numbers[:size]
            self._shifts[objective] = is_of, self.conversions.find_shifts(objective, prices)
        return self._shifts[objective][1]

    def find_new(self, route: Route) -> BoolArray:
        """What a version has not learned, or does not know: bool[N], by row."""
        address, indices = route.version.address, self.find_indices(route)
        known = self._new.get(address, _NOTHING)
        if len(known) < len(indices):
            known = self._new[address] = (indices <= UNKNOWN) | ~route.vocabulary.learned[indices]
        return known

    def forget_versions(self, addresses: Collection[str]) -> None:
        """Forget the indices of all versions but these."""
        self._indices = {name: held for name, held in self._indices.items() if name in addresses}
        self._new = {name: held for name, held in self._new.items() if name in addresses}


def _evaluate(found: Filter, scope: Scope, view: TableView) -> BoolArray:
    return found.mask(view, scope) & _AVAILABLE.mask(view, scope)


class ItemFilter:
    """The filter of one request over the items as they are known now.

    An item that is not in the table is not allowed: nothing is known of it that could be asked.

    Attributes:
        found: the filter as it was compiled.
        among: the only items that it may allow; None: all that there are.
    """

    def __init__(
        self,
        items: FilterableItems,
        found: Filter,
        scope: Scope,
        among: frozenset[str] | None = None,
    ) -> None:
        self._items = items
        self.found = found
        self._scope = scope
        self.among = among
        self._own: AllowedMask | None = None

    @property
    def key(self) -> tuple[str, str, frozenset[str] | None]:
        """The same for filters that allow the same."""
        return self.found.text, self.found.describe_scope(self._scope), self.among

    @property
    def is_named(self) -> bool:
        """Whether it allows no more than some items that are named."""
        return self.among is not None

    def join(self, other: "ItemFilter") -> "ItemFilter":
        """What this filter and another one of the same request allow."""
        named = [each for each in (self.among, other.among) if each is not None]
        among = frozenset.intersection(*named) if named else None
        found = join_filters(self.found, other.found)
        return ItemFilter(self._items, found, self._scope, among)

    def find_rows(self) -> BoolArray:
        """What it allows, by row of the table: bool[N], not to be changed."""
        return self._mask().allowed

    def _mask(self) -> AllowedMask:
        known = self._items.find_mask(self.found, self._scope)
        if self.among is None:
            return known
        # It is of this request alone: no other would find it where masks are kept.
        if self._own is None or self._own.revision != known.revision:
            rows = self._items.table.rows_of(list(self.among))
            if (rows < 0).any():
                self._items.ask_for(self.among)
            rows = rows[rows >= 0]
            allowed = np.zeros(len(known.allowed), np.bool_)
            allowed[rows] = known.allowed[rows]
            self._own = AllowedMask(known.revision, allowed)
        return self._own

    def allow(self, item_ids: Sequence[str]) -> BoolArray:
        """Which of these items are allowed: bool[n]."""
        rows = self._items.table.rows_of(item_ids)
        allowed: BoolArray = np.append(self._mask().allowed, False)[rows]
        return allowed

    def choose(self, item_ids: Sequence[str]) -> set[str]:
        """Those of some items that are allowed."""
        return {
            name for name, allowed in zip(item_ids, self.allow(item_ids), strict=True) if allowed
        }

    def allowed_ids(self) -> Iterator[str]:
        """All items that are allowed."""
        names = self._items.table.item_ids
        return (names[row] for row in np.flatnonzero(self._mask().allowed).tolist())

    def mask_by_index(self, route: Route) -> BoolArray:
        """Which items of a version are allowed: bool[V]."""
        return self._count_allowed(route)[0]

    def find_pool(self, route: Route) -> Int64Array | None:
        """All items of a version that are allowed, int64[p]; None where they are many."""
        allowed, count = self._count_allowed(route)
        most = min(MAX_POOL, _POOL_SHARE * len(allowed))
        return np.flatnonzero(allowed) if count <= most else None

    def _count_allowed(self, route: Route) -> tuple[BoolArray, int]:
        mask, address = self._mask(), route.version.address
        if address not in mask.by_index:
            allowed = np.zeros(len(route.vocabulary), np.bool_)
            allowed[self._items.find_indices(route)[mask.allowed]] = True
            allowed[: UNKNOWN + 1] = False
            mask.by_index[address] = allowed, int(np.count_nonzero(allowed))
        return mask.by_index[address]
