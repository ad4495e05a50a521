"""Makes a list of scored items by rules: greedily, place by place.

    scores -> boosts -> order      pin? -> promotion due? -> exploring? -> best that is left
                                   `----- at each place, within `at_most` ------'

A score is the logarithm of an item's odds, up to a constant that all share: a factor on the odds
adds its logarithm, whatever the constant and the sign. So how likely an item is beside the
likeliest is the exponential of the difference of their scores.

All of it is a function of the plan, the scores and the seed: it knows no Kafka, no store, no clock.

n items of a pool, k places of the list.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from features.rules.likeness import AttributeLikeness
from features.rules.limits import LimitCounts, PromotedPlaces, RowSet
from features.rules.plans import ListPlan
from features.schema import Float64Array

PIN, PROMOTION, EXPLORATION = "pin", "promotion", "exploration"


class ScoredItems(NamedTuple):
    """Items that may be shown, and the logarithm of each one's odds: float64[n]."""

    item_ids: Sequence[str]
    scores: Float64Array


class PlacedItem(NamedTuple):
    """An item and its place.

    Attributes:
        score: the logarithm of its odds, boosts added; None where no pool has it.
        placed_by: the rule that gave it the place; "" where it is the best that was left.
        label: of the promotion.
        probability: of this item at this place, after those before it; None: nothing is left to
            chance.
    """

    item_id: str
    score: float | None
    placed_by: str = ""
    label: str = ""
    probability: float | None = None


def arrange_list(
    plan: ListPlan, pools: Iterable[ScoredItems], places: int, seed: str = ""
) -> list[PlacedItem]:
    """The list: full as long as the pools have items that the rules let in.

    Args:
        pools: items by their scores; a later pool is asked for only where those before it do not
            fill the list, and its items stand below theirs.
        places: of the list, at most.
        seed: what is left to chance falls alike for the same seed.
    """
    making = _ListInTheMaking(plan, pools, places)
    chance = random.Random(seed) if plan.rules.exploration else None
    while (offer := making.offer()) is not None:
        item_id = offer.item_id
        if chance is not None and offer.tried and chance.random() < offer.share:
            item_id = making.draw(int(chance.random() * offer.tried))
        making.take(item_id, offer)
    return making.placed


def find_probabilities(
    plan: ListPlan, pools: Iterable[ScoredItems], places: int, logged: Sequence[str]
) -> list[float]:
    """With which probability a plan puts each item of a logged list at its place.

    Each after the items that stood before it in the logged list: what off-policy estimates weigh
    (`trainer.policies.off_policy`). 0 from the place on at which the plan's list ends.

    Args:
        pools, places: as of `arrange_list`.
    """
    making = _ListInTheMaking(plan, pools, places)
    found: list[float] = []
    for item_id in logged:
        if (offer := making.offer()) is None:
            break
        found.append(making.find_probability(item_id, offer))
        making.take(item_id, offer)
    return [*found, *[0.0] * (len(logged) - len(found))]


def find_offers(
    plan: ListPlan, pools: Iterable[ScoredItems], places: int, logged: Sequence[str]
) -> list[tuple[str, float]]:
    """What a plan would have put at each place of a logged list, after the items before it there.

    Each with its probability, below 1 where the place may try something else out. Shorter than the
    logged list where the plan's ends.

    Args:
        pools, places: as of `arrange_list`.
    """
    making = _ListInTheMaking(plan, pools, places)
    found: list[tuple[str, float]] = []
    for item_id in logged:
        if (offer := making.offer()) is None:
            break
        found.append((offer.item_id, making.find_probability(offer.item_id, offer)))
        making.take(item_id, offer)
    return found


@dataclass(frozen=True)
class _Offer:
    """What a place goes to, unless it tries something out.

    Attributes:
        share: with which probability it tries something out.
        tried: how many items could be tried.
    """

    item_id: str
    placed_by: str = ""
    label: str = ""
    share: float = 0.0
    tried: int = 0


class _ListInTheMaking:
    """The places that are taken, and what the next one may go to."""

    def __init__(self, plan: ListPlan, pools: Iterable[ScoredItems], places: int) -> None:
        self.placed: list[PlacedItem] = []
        self._plan = plan
        self._places = places
        self._waiting = iter(pools)
        self._pools: list[_Pool] = []
        self._pins = _find_pins(plan, places)
        self._gone = set(self._pins.values())
        self._limits = LimitCounts(plan)
        rows = {place: self._row(item_id) for place, item_id in self._pins.items()}
        for place, row in rows.items():
            self._limits.count(row, place)
        self._promotions = PromotedPlaces(plan, rows)
        self._promoted: dict[int, RowSet] = {}
        self._tried = RowSet(plan, plan.tried, self._gone)

    def _row(self, item_id: str) -> int:
        return self._plan.table.row_of(item_id)

    def offer(self) -> _Offer | None:
        """What the next place goes to; None where the list has ended."""
        place = len(self.placed)
        if place >= self._places:
            return None
        if (pinned := self._pins.pop(place, None)) is not None:
            return _Offer(pinned, PIN)
        for number in self._promotions.find_due(place, self._pins, self._places):
            if (best := self._find_promoted(number, place)) is not None:
                return _Offer(best, PROMOTION, self._plan.rules.promotions[number].label)
        if (found := self._find_best(place)) is None:
            # A list that is shorter than a pin's place ends with the pin.
            after = min(self._pins, default=None)
            return None if after is None else _Offer(self._pins.pop(after), PIN)
        exploration = self._plan.rules.exploration
        if exploration is None:
            return _Offer(found)
        tried = self._tried.keep_within(self._limits.find_full(place))
        return _Offer(found, share=exploration.share, tried=tried)

    def _find_best(self, place: int) -> str | None:
        """The best item that is left; pools are opened as they are needed."""
        number, phase = 0, self._limits.phase(place)
        while number < len(self._pools) or self._open_pool():
            found = self._pools[number].find_best(partial(self._may_take, place), phase)
            if found is not None:
                return found
            number += 1
        return None

    def _may_take(self, place: int, item_id: str, row: int) -> bool:
        return item_id not in self._gone and self._limits.allow(row, place)

    def _open_pool(self) -> bool:
        scored = next(self._waiting, None)
        if scored is None:
            return False
        varied = None if self._pools else self._plan.rules.diversity
        pool = _Pool(self._plan, scored, varied.strength if varied else 0.0)
        self._pools.append(pool)
        for placed in self.placed:
            pool.note(self._row(placed.item_id))
        return True

    def _find_promoted(self, number: int, place: int) -> str | None:
        """The best item of a promotion: by score, else the first in the order of the catalogue."""
        mask = self._plan.promoted[number]
        if self._pools or self._open_pool():
            pool = self._pools[0]
            for at in pool.order():
                item_id, row = pool.item_ids[at], pool.row(at)
                if row >= 0 and mask[row] and self._may_take(place, item_id, row):
                    return item_id
        if number not in self._promoted:
            rows = np.flatnonzero(mask & self._plan.allowed)
            self._promoted[number] = RowSet(self._plan, rows, self._gone)
        left = self._promoted[number]
        if not left.keep_within(self._limits.find_full(place)):
            return None
        return self._plan.table.item_ids[left.pick(0)]

    def draw(self, number: int) -> str:
        """One of the items that the last offer could try, by its number."""
        return self._plan.table.item_ids[self._tried.pick(number)]

    def find_probability(self, item_id: str, offer: _Offer) -> float:
        """With which probability the last offer goes to an item."""
        if not offer.tried:
            return float(item_id == offer.item_id)
        by_chance = offer.share / offer.tried if self._tried.has(self._row(item_id)) else 0.0
        return (1 - offer.share) * (item_id == offer.item_id) + by_chance

    def take(self, item_id: str, offer: _Offer) -> None:
        """Give the next place to an item."""
        place, row = len(self.placed), self._row(item_id)
        exploring = self._plan.rules.exploration is not None
        self.placed.append(
            PlacedItem(
                item_id,
                self._find_score(item_id),
                offer.placed_by if item_id == offer.item_id else EXPLORATION,
                offer.label if item_id == offer.item_id else "",
                self.find_probability(item_id, offer) if exploring else None,
            )
        )
        if offer.placed_by != PIN:
            self._limits.count(row, place)
        self._gone.add(item_id)
        self._promotions.note(row, place)
        for rows in (self._tried, *self._promoted.values()):
            rows.remove(row)
        for pool in self._pools:
            pool.note(row)

    def _find_score(self, item_id: str) -> float | None:
        scores = (pool.score(item_id) for pool in self._pools)
        return next((score for score in scores if score is not None), None)


def _find_pins(plan: ListPlan, places: int) -> dict[int, str]:
    """The pinned items that may be shown, by place from 0."""
    return {
        pin.place - 1: pin.item_id
        for pin in sorted(plan.rules.pins, key=lambda pin: pin.place)
        if pin.place <= places and plan.may_show(plan.table.row_of(pin.item_id))
    }


class _Pool:
    """Scored items: boosted, and in the order in which places go to them.

    Args:
        strength: of diversity.
    """

    def __init__(self, plan: ListPlan, scored: ScoredItems, strength: float) -> None:
        self.item_ids = scored.item_ids
        rows = plan.table.rows_of(scored.item_ids)
        self._rows: list[int] = rows.tolist()
        is_shifted = plan.boosts or plan.shifts is not None
        self._scores = scored.scores + plan.boost(rows) if is_shifted else scored.scores
        self._places = {item_id: at for at, item_id in enumerate(scored.item_ids)}
        self._strength = strength
        # No pool is looked through twice for the same places: it may be the whole catalogue.
        self._start = self._phase = 0
        self._order: list[int] = np.argsort(-self._scores, kind="stable").tolist()
        if strength and plan.rules.diversity:
            self._likeness = AttributeLikeness(plan.table, rows, plan.rules.diversity.by)
            best = self._scores.max(initial=-np.inf)
            self._odds: Float64Array = np.exp(self._scores - best)
            self._alike = np.zeros(len(rows))

    def row(self, at: int) -> int:
        """The row of an item; -1 where nothing is known of it."""
        return self._rows[at]

    def score(self, item_id: str) -> float | None:
        """An item's score; None where it is not in the pool."""
        at = self._places.get(item_id)
        return None if at is None else float(self._scores[at])

    def find_best(self, may_take: Callable[[str, int], bool], phase: int) -> str | None:
        """The best item that may be taken.

        Args:
            phase: while it stays, what may not be taken will not be later, either.
        """
        if self._strength:
            ids, rows = self.item_ids, self._rows
            return next((ids[at] for at in self.order() if may_take(ids[at], rows[at])), None)
        if phase != self._phase:
            self._phase, self._start = phase, 0
        while self._start < len(self._order):
            at = self._order[self._start]
            if may_take(self.item_ids[at], self._rows[at]):
                return self.item_ids[at]
            self._start += 1
        return None

    def order(self) -> Sequence[int]:
        """The items, best first, those that are taken too."""
        if not self._strength:
            return self._order
        value = (1 - self._strength) * self._odds - self._strength * self._alike
        order: list[int] = np.argsort(-value, kind="stable").tolist()
        return order

    def note(self, row: int) -> None:
        """An item has got a place: what is like it is worth less."""
        if self._strength and row >= 0:
            np.maximum(self._alike, self._likeness.compare(row), out=self._alike)
