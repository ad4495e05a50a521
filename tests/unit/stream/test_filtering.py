"""What a filter allows follows the catalogue, item by item, and the version that is asked."""

from __future__ import annotations

import asyncio

import pytest
from headwater_client.events import Item

from features.rows import empty_user
from features.rules.errors import RuleError
from features.schema import FIRST_ITEM
from stream.filtering import FilterableItems, ItemFilter
from stream.recommendations import RankedLists, RecommendationRequest
from tests.unit.stream.test_recommender import (
    NOW_MS,
    SCHEMA,
    hide,
    recommender,
    routes_of,
    store_where_trend,
)


def shop(**prices: float) -> FilterableItems:
    items = FilterableItems()
    for name, price in prices.items():
        items.table.put(Item(item_id=name, price=price))
    return items


def cheap(items: FilterableItems, below: float = 10) -> ItemFilter:
    return items.make_filter("item.price < context.budget", {"context": {"budget": below}})


def test_a_filter_knows_an_item_as_it_is_now() -> None:
    items = shop(a=5, b=20)
    found = cheap(items)
    route = routes_of(stable=1.0).answering[0]
    assert found.allow(["b", "a", "nowhere"]).tolist() == [False, True, False]
    assert found.find_pool(route).tolist() == [FIRST_ITEM]  # type: ignore[union-attr]
    items.table.put(Item(item_id="a", price=15))
    items.table.put(Item(item_id="b", price=9))
    items.table.put(Item(item_id="c", price=9))
    items.table.put(Item(item_id="unknown to the version", price=9))
    items.table.put(Item(item_id="d", price=9, available=False))
    assert found.choose(["a", "b", "c", "d"]) == {"b", "c"}
    assert list(found.allowed_ids()) == ["b", "c", "unknown to the version"]
    assert found.mask_by_index(route).tolist() == [False, False, False, True, True, False, False]
    # So many changes that nobody knows any more which items they were of.
    for number in range(5000):
        items.table.put(Item(item_id="a", price=number % 7))
    assert found.choose(["a", "b"]) == {"a", "b"}
    assert cheap(items, below=3).choose(["a", "b"]) == {"a"}


def test_a_filter_for_what_is_not_there_is_refused() -> None:
    items = shop(a=5)
    with pytest.raises(RuleError, match="column 1: no item has an attribute 'x': there are none"):
        items.make_filter("item.attributes.x == 1", {})
    with pytest.raises(RuleError, match=r"column 14: the request has no context\.budget"):
        items.make_filter("item.price < context.budget", {"context": {}})


def fall_back(items: FilterableItems, limit: int | None = None) -> tuple[RankedLists, RankedLists]:
    """A list without any version, and one out of memory; of c, e, d, which trend, and the rest."""
    store = store_where_trend("a", "c", "b", "e", "d")
    hide(store, "d")
    found, row = recommender(store), empty_user(SCHEMA)
    request = RecommendationRequest("ann", NOW_MS, row, limit=limit, wanted=cheap(items))

    async def run() -> tuple[RankedLists, RankedLists]:
        await found.start()
        (call,) = found.prepare([request, request._replace(wanted=None)])
        try:
            lists = await found.execute(call)
            return lists, found.recall(request, "away")
        finally:
            await found.close()

    return asyncio.run(run())


def test_a_fallback_is_full_of_what_is_allowed() -> None:
    prices = dict.fromkeys("cdexyz", 5.0) | {"a": 50, "b": 50}
    for lists in fall_back(shop(**prices)):
        assert [item.item_id for item in lists.items[0]] == ["c", "e", "x"]
        scores = [item.score for item in lists.items[0]]
        assert scores == sorted(scores, reverse=True)
    for lists in fall_back(shop(**prices), limit=5):
        assert [item.item_id for item in lists.items[0]] == ["c", "e", "x", "y", "z"]
    lists, _ = fall_back(shop(**prices))
    # Who asks beside it without a filter is not filtered.
    assert [item.item_id for item in lists.items[1]] == ["a", "c", "b"]


def test_a_fallback_has_nothing_that_is_not_allowed() -> None:
    for lists in fall_back(shop(a=50, b=50, d=5)):
        assert {item.item_id for item in lists.items[0]} <= {"d"}
