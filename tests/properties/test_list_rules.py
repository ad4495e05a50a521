"""A list that rules have made is full, and each rule holds, whatever the catalogue and the rules.

The other side is plain Python: what a rule promises is worked out item by item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from headwater_client.events import Item
from headwater_client.rules import AtMost, Boost, Diversity, Exploration, ListRules, Pin, Promotion
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from features.rules.arranging import (
    EXPLORATION,
    PlacedItem,
    ScoredItems,
    arrange_list,
    find_probabilities,
)
from features.rules.filters import compile_filter
from features.rules.likeness import AttributeLikeness
from features.rules.plans import ListPlan, plan_list
from features.rules.table import CatalogueTable

BRANDS = ["", "a", "b", "c"]
CONDITIONS = [
    "item.brand == 'a'",
    "item.price < 3",
    "'x' in item.category",
    "item.attributes.size == 1",
]
items = st.builds(
    Item,
    item_id=st.just(""),
    brand=st.sampled_from(BRANDS),
    price=st.none() | st.sampled_from([1.0, 2.0, 5.0]),
    category=st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
    attributes=st.sampled_from([{}, {"size": 1}, {"size": 2}, {"size": "1"}, {"size": True}]),
)
conditions = st.sampled_from(CONDITIONS)
names = st.sampled_from(["brand", "category", "attributes.size", "price"])
limits = st.builds(AtMost, by=names, items=st.integers(1, 3), places=st.none() | st.integers(1, 8))
rules = st.builds(
    ListRules,
    boosts=st.lists(st.builds(Boost, filter=conditions, factor=st.floats(0.01, 100)), max_size=2),
    pins=st.lists(
        st.builds(Pin, item_id=st.integers(0, 13).map(lambda n: f"i{n}"), place=st.integers(1, 9)),
        max_size=3,
        unique_by=(lambda pin: pin.item_id, lambda pin: pin.place),
    ),
    at_most=st.lists(limits, max_size=2),
    diversity=st.none()
    | st.builds(Diversity, strength=st.floats(0.01, 1), by=st.lists(names, min_size=1, max_size=2)),
    exploration=st.none()
    | st.builds(Exploration, share=st.floats(0.01, 0.5), filter=st.none() | conditions),
    promotions=st.lists(
        st.builds(Promotion, filter=conditions, every=st.integers(1, 5), label=st.just("sale")),
        max_size=2,
    ),
)


@dataclass
class Shop:
    """A catalogue, and pools of what may be shown of it."""

    items: dict[str, Item]
    table: CatalogueTable
    allowed: list[str]
    pools: list[ScoredItems]

    def plan(self, made: ListRules) -> ListPlan:
        def evaluate(text: str) -> Any:
            return compile_filter(text).mask(self.table.view(), {})

        mask = np.isin(self.table.item_ids, self.allowed)
        return plan_list(made, self.table, evaluate, mask)

    def arrange(self, made: ListRules, places: int, seed: str = "") -> list[PlacedItem]:
        return arrange_list(self.plan(made), iter(self.pools), places, seed)

    def matches(self, condition: str, item_id: str) -> bool:
        row = self.table.row_of(item_id)
        return bool(compile_filter(condition).mask(self.table.view(), {})[row])

    def values(self, name: str, item_id: str) -> set[Any]:
        item = self.items[item_id]
        if name == "category":
            return set(item.category)
        value = item.attributes.get("size") if name == "attributes.size" else getattr(item, name)
        # To Python `True` and 1 are the same.
        return set() if value in (None, "") else {(isinstance(value, bool), value)}


@st.composite
def shops(draw: Any) -> Shop:
    made = {
        f"i{at}": Item(
            item_id=f"i{at}",
            brand=each.brand,
            price=each.price,
            category=each.category,
            attributes=each.attributes,
        )
        for at, each in enumerate(draw(st.lists(items, min_size=1, max_size=14)))
    }
    table = CatalogueTable()
    for item in made.values():
        table.put(item)
    allowed = [name for name in draw(st.permutations(list(made))) if draw(st.booleans())]
    cut = draw(st.integers(0, len(allowed)))
    scores = draw(st.lists(st.integers(-9, 9), min_size=len(allowed), max_size=len(allowed)))
    pools = [
        ScoredItems(allowed[begin:end], np.array(scores[begin:end], np.float64))
        for begin, end in ((0, cut), (cut, len(allowed)))
    ]
    return Shop(made, table, allowed, pools)


def breaks(shop: Shop, limit: AtMost, placed: list[str]) -> bool:
    """Whether there are too many of a value, pins and all."""
    first = placed[: limit.places]
    held = [value for name in first for value in shop.values(limit.by, name)]
    return any(held.count(value) > limit.items for value in held)


@settings(max_examples=200, deadline=None)
@given(shops(), rules, st.integers(1, 10), st.text(max_size=3))
def test_every_rule_holds_and_the_list_is_full(
    shop: Shop, made: ListRules, places: int, seed: str
) -> None:
    found = shop.arrange(made, places, seed)
    placed = [each.item_id for each in found]
    assert len(set(placed)) == len(placed) <= places
    assert set(placed) <= set(shop.allowed)
    assert found == shop.arrange(made, places, seed)
    for pin in made.pins:
        if pin.item_id in shop.allowed and pin.place <= places:
            assert pin.item_id in placed[: pin.place]
            assert placed.index(pin.item_id) == min(pin.place, len(placed)) - 1 or (
                # Several pins end a list that is too short for all of them.
                len(placed) < max(each.place for each in made.pins)
            )
    if not made.pins:
        assert not any(breaks(shop, limit, placed) for limit in made.at_most)
        if len(placed) < places:
            left = set(shop.allowed) - set(placed)
            assert all(
                any(breaks(shop, limit, [*placed, name]) for limit in made.at_most) for name in left
            )
    for promotion in made.promotions if not made.at_most and len(made.promotions) == 1 else ():
        matching = [name for name in shop.allowed if shop.matches(promotion.filter, name)]
        pinned = {pin.place for pin in made.pins}
        for begin in range(0, len(placed) - promotion.every + 1, promotion.every):
            block = range(begin, begin + promotion.every)
            is_taken = all(place + 1 in pinned for place in block)
            assert (
                is_taken
                or set(placed[begin : begin + promotion.every]) & set(matching)
                or set(matching) <= set(placed[:begin]) | {pin.item_id for pin in made.pins}
            )


@settings(max_examples=100, deadline=None)
@given(shops(), st.sampled_from(["brand", "price"]), st.integers(1, 3), st.integers(1, 10))
def test_with_one_limit_a_list_is_as_full_as_any_could_be(
    shop: Shop, name: str, most: int, places: int
) -> None:
    found = shop.arrange(ListRules(at_most=[AtMost(by=name, items=most)]), places)
    held = [value for each in shop.allowed for value in shop.values(name, each)]
    free = sum(not shop.values(name, each) for each in shop.allowed)
    room = free + sum(min(most, held.count(value)) for value in set(held))
    assert len(found) == min(places, room)


@settings(max_examples=100, deadline=None)
@given(shops(), rules, st.integers(1, 6), st.text(max_size=3))
def test_what_is_left_to_chance_has_the_probability_that_is_told(
    shop: Shop, made: ListRules, places: int, seed: str
) -> None:
    assume(made.exploration)
    found = shop.arrange(made, places, seed)
    plan = shop.plan(made)
    placed = [each.item_id for each in found]
    told = find_probabilities(plan, iter(shop.pools), places, placed)
    assert [each.probability for each in found] == pytest.approx(told)
    assert all(0 < each <= 1 for each in told)
    for place in range(len(placed)):
        each = [
            find_probabilities(plan, iter(shop.pools), places, [*placed[:place], name])[place]
            for name in shop.allowed
            if name not in placed[:place]
        ]
        assert sum(each) == pytest.approx(1)


def test_items_are_tried_as_often_as_is_told() -> None:
    table = CatalogueTable()
    for at in range(10):
        table.put(Item(item_id=f"i{at}", price=at))
    scored = ScoredItems(table.item_ids[:6], -np.arange(6.0))
    made = ListRules(exploration=Exploration(share=0.4, filter="item.price >= 5"))
    everything = np.ones(10, np.bool_)

    def evaluate(text: str) -> Any:
        return compile_filter(text).mask(table.view(), {})

    plan = plan_list(made, table, evaluate, everything)
    firsts = [arrange_list(plan, [scored], 3, str(seed))[0] for seed in range(4000)]
    shares = {name: sum(each.item_id == name for each in firsts) / 4000 for name in table.item_ids}
    (best,) = {each.probability for each in firsts if each.item_id == "i0"}
    assert best == pytest.approx(0.6)
    assert shares["i0"] == pytest.approx(0.6, abs=0.03)
    tried = [each for each in firsts if each.placed_by == EXPLORATION]
    assert {each.item_id for each in tried} == {"i5", "i6", "i7", "i8", "i9"}
    assert [each.probability for each in tried] == pytest.approx([0.08] * len(tried))
    for name in ("i5", "i9"):
        assert shares[name] == pytest.approx(0.08, abs=0.02)


def jaccard(shop: Shop, by: list[str], one: str, other: str) -> float:
    first, second = ({(n, v) for n in by for v in shop.values(n, each)} for each in (one, other))
    return len(first & second) / len(first | second) if first | second else 0.0


@settings(max_examples=100, deadline=None)
@given(
    shops(),
    st.floats(0.01, 1),
    st.lists(names, min_size=1, max_size=2, unique=True),
    st.lists(st.builds(Boost, filter=conditions, factor=st.floats(0.1, 10)), max_size=2),
)
def test_diversity_is_maximal_marginal_relevance_of_boosted_odds(
    shop: Shop, strength: float, by: list[str], boosts: list[Boost]
) -> None:
    pool = shop.pools[0]
    assume(len(pool.item_ids))
    scores = {
        name: score
        + sum(math.log(each.factor) for each in boosts if shop.matches(each.filter, name))
        for name, score in zip(pool.item_ids, pool.scores.tolist(), strict=True)
    }
    best = max(scores.values())
    made = ListRules(boosts=boosts, diversity=Diversity(strength=strength, by=by))
    found = arrange_list(shop.plan(made), [pool], 10)
    placed: list[str] = []
    for each in found:
        left = {
            name: (1 - strength) * math.exp(score - best)
            - strength * max((jaccard(shop, by, name, other) for other in placed), default=0.0)
            for name, score in scores.items()
            if name not in placed
        }
        assert left[each.item_id] == pytest.approx(max(left.values()), abs=1e-9)
        assert each.score == pytest.approx(scores[each.item_id])
        placed.append(each.item_id)
    assert len(placed) == min(10, len(scores))


def test_boosts_alone_sort_by_the_product_of_odds_and_factors() -> None:
    table = CatalogueTable()
    for name, brand in (("a", "x"), ("b", "y"), ("c", "x")):
        table.put(Item(item_id=name, brand=brand))
    scored = ScoredItems(["a", "b", "c"], np.array([-5.0, -5.5, -6.0]))
    boosts = [Boost(filter="item.brand == 'y'", factor=2.0)]
    plan = plan_list(
        ListRules(boosts=boosts),
        table,
        lambda text: compile_filter(text).mask(table.view(), {}),
        np.ones(3, np.bool_),
    )
    found = arrange_list(plan, [scored], 3)
    assert [each.item_id for each in found] == ["b", "a", "c"]
    # Twice the odds, whatever the sign of the score.
    assert found[0].score == pytest.approx(-5.5 + math.log(2))


@pytest.mark.parametrize(("pool", "places"), [(50, 10), (200, 10), (200, 40)])
def test_a_varied_list_compares_each_place_once_with_the_pool(
    pool: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy re-ranking costs k rows of likeness, not one of each pair of items."""
    table = CatalogueTable()
    for at in range(pool):
        table.put(Item(item_id=f"i{at}", brand=f"b{at % 7}", category=[f"c{at % 11}"]))
    rows: list[int] = []
    compare = AttributeLikeness.compare

    def count(likeness: AttributeLikeness, row: int) -> Any:
        rows.append(row)
        return compare(likeness, row)

    monkeypatch.setattr(AttributeLikeness, "compare", count)
    scored = ScoredItems(table.item_ids, -np.arange(pool) / 10)
    made = ListRules(diversity=Diversity(strength=0.5))
    plan = plan_list(made, table, lambda text: np.zeros(pool, np.bool_), np.ones(pool, np.bool_))
    found = arrange_list(plan, [scored], places)
    assert len(found) == len(rows) == places
