"""The rules of one request's list, over the items as they are known now.

V items of a version.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from headwater_client import RecommendedItem
from headwater_client.rules import ListRules, Objective
from msgspec.structs import replace

from features.rows import UserRow
from features.rules.arranging import PlacedItem, ScoredItems, arrange_list
from features.rules.conditions import Scope
from features.rules.filters import EVERYTHING, compile_filter, unite_filters
from features.rules.plans import plan_list
from features.schema import BoolArray
from stream.filtering import MAX_POOL, FilterableItems, ItemFilter
from stream.ranking import POPULAR
from stream.routing import Route
from stream.trending import TrendingItems

# The count of a popular item whose logarithm is taken, at least.
_LEAST_COUNT = 1e-9
BOOSTS = "boosts"
"""The part of a score that is of boosts and of the objective."""


class ListSources(NamedTuple):
    """What a list is made of besides what was found for it.

    Attributes:
        row: the person's.
        route: of the version that the list is for; None: there is none.
        trending: what fills lists first.
        is_fallback: whether no version has made the list: its scores are counts, then.
    """

    row: UserRow
    route: Route | None
    trending: TrendingItems
    is_fallback: bool


@dataclass(frozen=True, eq=False)
class RequestRules:
    """The rules of one request.

    Attributes:
        items: the catalogue.
        rules: what they are.
        scope: what the request brings.
        wanted: what may be in the list at all; None: all that is available.
        seed: what is left to chance falls by it.
    """

    items: FilterableItems
    rules: ListRules
    scope: Scope
    wanted: ItemFilter | None
    seed: str
    raised: ItemFilter | None = field(init=False)
    """What stands higher than by its score alone; None: nothing does."""

    def __post_init__(self) -> None:
        self.items.ask_for(pin.item_id for pin in self.rules.pins)
        texts = [boost.filter for boost in self.rules.boosts if boost.factor > 1]
        texts += [promotion.filter for promotion in self.rules.promotions]
        raised = None
        if texts:
            found = unite_filters([compile_filter(text) for text in texts])
            raised = ItemFilter(self.items, found, self.scope)
            if self.wanted is not None:
                raised = self.wanted.join(raised)
        object.__setattr__(self, "raised", raised)

    def needs_raised(self, found: Sequence[RecommendedItem], places: int, bound: float) -> bool:
        """Whether an item that a version was not asked for might get a place.

        With the largest boost it comes into the list only where it passes the last place's score.

        Args:
            found: by score, best first.
            bound: no item that was not found has a higher score.
        """
        factors = [boost.factor for boost in self.rules.boosts if boost.factor > 1]
        last = found[places - 1].score if len(found) >= places else -math.inf
        if factors and bound + math.log(max(factors)) > last:
            return True
        names = [item.item_id for item in found if item.score >= bound]
        rows = self.items.table.rows_of(names)
        return any(
            np.count_nonzero(self._evaluate(promotion.filter)[rows[rows >= 0]])
            < places // promotion.every
            for promotion in self.rules.promotions
        )

    def find_raised(
        self, found: Sequence[RecommendedItem], places: int, bound: float
    ) -> Iterator[ItemFilter]:
        """What a version has to be asked for besides: an item of it might get a place.

        Args:
            found, bound: as of `needs_raised`.
        """
        if self.raised is not None and self.needs_raised(found, places, bound):
            yield self.raised
        shifts = self.items.find_shifts(self.rules.objective)
        if shifts is None:
            return
        # Those that the objective raises most, of all that may be shown.
        rows = np.flatnonzero(self._evaluate_filter())
        if len(rows) > MAX_POOL:
            rows = rows[np.argpartition(-shifts[rows], MAX_POOL)[:MAX_POOL]]
        names = frozenset(self.items.table.item_ids[row] for row in rows.tolist())
        best = ItemFilter(self.items, EVERYTHING, self.scope, names)
        yield best if self.wanted is None else self.wanted.join(best)

    @property
    def raises(self) -> bool:
        """Whether an item may stand higher than by its score alone."""
        return self.raised is not None or self.rules.objective not in (None, Objective.CLICKS)

    def arrange(
        self, found: Sequence[RecommendedItem], places: int, sources: ListSources
    ) -> list[RecommendedItem]:
        """The list by the rules.

        Args:
            found: what may be shown, best first: more than there are places.
        """
        allowed = self._evaluate_filter().copy()
        allowed[self.items.table.rows_of_hashes(sources.row.seen)] = False
        new = None if sources.route is None else self.items.find_new(sources.route)
        plan = plan_list(self.rules, self.items.table, self._evaluate, allowed, new)
        shifts = self.items.find_shifts(self.rules.objective)
        plan = dataclasses.replace(plan, shifts=shifts)
        placed = arrange_list(plan, self._pools(found, allowed, sources), places, self.seed)
        by_id = {item.item_id: item for item in found}
        return [_describe(each, by_id.get(each.item_id), sources.is_fallback) for each in placed]

    def _evaluate(self, text: str) -> BoolArray:
        return self.items.find_mask(compile_filter(text), self.scope).allowed

    def _evaluate_filter(self) -> BoolArray:
        if self.wanted is not None:
            return self.wanted.find_rows()
        return self.items.find_mask(EVERYTHING, self.scope).allowed

    def _pools(
        self, found: Sequence[RecommendedItem], allowed: BoolArray, sources: ListSources
    ) -> Iterator[ScoredItems]:
        """What was found, then what else trends, then all else that may be shown."""
        names = [item.item_id for item in found]
        scores = np.array([item.score for item in found], np.float64)
        if sources.is_fallback:
            scores = np.log(np.maximum(scores, _LEAST_COUNT))
        yield ScoredItems(names, scores)
        table, left = self.items.table, allowed.copy()
        rows = table.rows_of(names)
        left[rows[rows >= 0]] = False
        trending = sources.trending
        rows = table.rows_of(trending.item_ids)
        is_left = np.append(left, False)[rows]
        counts = trending.counts[is_left, trending.ranked_by]
        names = [name for name, each in zip(trending.item_ids, is_left, strict=True) if each]
        yield ScoredItems(names, np.log(np.maximum(counts, _LEAST_COUNT)))
        left[rows[is_left]] = False
        names = [table.item_ids[row] for row in np.flatnonzero(left).tolist()]
        yield ScoredItems(names, np.full(len(names), math.log(_LEAST_COUNT)))


def _describe(
    placed: PlacedItem, found: RecommendedItem | None, is_fallback: bool
) -> RecommendedItem:
    """A place as answers have it."""
    if found is None:
        item = RecommendedItem(placed.item_id, 0.0, POPULAR)
    elif placed.score is None:
        item = found
    else:
        score = math.exp(placed.score) if is_fallback else placed.score
        item = replace(found, score=score)
        if found.parts and score != found.score:
            item = replace(item, parts={**found.parts, BOOSTS: score - found.score})
    told = {"placed_by": placed.placed_by, "label": placed.label}
    return replace(item, **told, probability=placed.probability)
