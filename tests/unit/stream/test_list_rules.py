"""Rules make lists of what trends, too, out of what the catalogue says now."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from headwater_client import Reason, RecommendedItem
from headwater_client.contract import PlacementRules
from headwater_client.events import Item, encode
from headwater_client.rules import AtMost, Boost, ListRules, Pin, Promotion

from features.placements import PlacementTable
from features.rows import UserRow, empty_user
from features.topics import hash64
from stream.filtering import FilterableItems
from stream.list_rules import RequestRules
from stream.recommendations import RankedLists, RecommendationRequest
from tests.harness.http_api import OfflineApi
from tests.unit.stream.test_recommender import (
    NOW_MS,
    SCHEMA,
    item_ids,
    recommender,
    store_where_trend,
)


def shop(**brands: str) -> FilterableItems:
    items = FilterableItems()
    for name, brand in brands.items():
        items.table.put(Item(item_id=name, brand=brand))
    return items


SHOP = shop(a="x", b="x", c="x", d="y", e="y")


def ask(rules: ListRules, row: UserRow, *, of_memory: bool = False, text: str = "") -> RankedLists:
    """A list of four where these trend, without a version."""
    found = recommender(store_where_trend("a", "b", "c", "d"))
    wanted = SHOP.make_filter(text, {}) if text else None
    bound = RequestRules(SHOP, rules, {}, wanted, "seed")
    request = RecommendationRequest("ann", NOW_MS, row, limit=4, wanted=wanted, rules=bound)

    async def run() -> RankedLists:
        await found.start()
        try:
            if of_memory:
                return found.recall(request, "away")
            (call,) = found.prepare([request])
            return await found.execute(call)
        finally:
            await found.close()

    return asyncio.run(run())


@pytest.mark.parametrize("of_memory", [False, True])
def test_what_trends_is_arranged_by_rules(of_memory: bool) -> None:
    rules = ListRules(
        pins=[Pin(item_id="e", place=1)],
        boosts=[Boost(filter="item.brand == 'y'", factor=2)],
    )
    lists = ask(rules, empty_user(SCHEMA), of_memory=of_memory)
    assert item_ids(lists) == [["e", "a", "b", "c"]] or item_ids(lists) == [["e", "a", "b", "d"]]
    assert [item.placed_by for item in lists.items[0]] == ["pin", "", "", ""]
    # Four times trended a, once d: with the boost it is worth two, as c is.
    counts = {item.item_id: item.score for item in lists.items[0]}
    assert counts["a"] == pytest.approx(2 * counts[item_ids(lists)[0][3]])


@pytest.mark.parametrize("of_memory", [False, True])
def test_a_list_is_filled_with_what_a_rule_lets_in(of_memory: bool) -> None:
    rules = ListRules(at_most=[AtMost(by="brand", items=2)])
    lists = ask(rules, empty_user(SCHEMA), of_memory=of_memory)
    assert item_ids(lists) == [["a", "b", "d", "e"]]
    seen = empty_user(SCHEMA)
    seen.seen.append(hash64("e"))
    assert item_ids(ask(rules, seen, of_memory=of_memory)) == [["a", "b", "d"]]


def test_no_rule_brings_what_may_not_be_shown() -> None:
    rules = ListRules(
        pins=[Pin(item_id="b", place=1), Pin(item_id="nowhere", place=2)],
        promotions=[Promotion(filter="item.brand == 'x'", every=2)],
    )
    lists = ask(rules, empty_user(SCHEMA), text="item.brand == 'y'")
    assert item_ids(lists) == [["d", "e"]]


def test_a_version_is_asked_for_what_could_rise_and_for_nothing_else() -> None:
    def item(name: str, score: float) -> RecommendedItem:
        return RecommendedItem(name, score, Reason("history"))

    found = [item("a", 5.0), item("b", 4.0), item("d", 1.0)]

    def needs(rules: ListRules, bound: float) -> bool:
        return RequestRules(SHOP, rules, {}, None, "").needs_raised(found, 2, bound)

    twice = ListRules(boosts=[Boost(filter="item.brand == 'y'", factor=2)])
    assert not needs(twice, 4.0 - math.log(2) - 0.01)
    assert needs(twice, 4.0 - math.log(2) + 0.01)
    assert RequestRules(SHOP, ListRules(), {}, None, "").raised is None
    down = ListRules(boosts=[Boost(filter="item.brand == 'y'", factor=0.5)])
    assert RequestRules(SHOP, down, {}, None, "").raised is None
    promoted = ListRules(promotions=[Promotion(filter="item.brand == 'y'", every=2)])
    assert not needs(promoted, 1.0)
    # What was found below the bound need not be the best of the promotion.
    assert needs(promoted, 2.0)


def test_rules_of_a_request_hold_besides_the_placements() -> None:
    placements = PlacementTable()
    pins = [Pin(item_id="e", place=1)]
    placements.take("home", PlacementRules(pins=pins, limit=3), 7)
    api = OfflineApi(store_where_trend("a", "b", "c", "d"), items=SHOP, placements=placements)

    def answer(**query: Any) -> Any:
        (found,) = api.ask(("POST", "/v1/recommendations", encode(query)))
        return found.document

    def names(**query: Any) -> list[str]:
        return [item["item_id"] for item in answer(**query)["items"]]

    assert names(placement="home") == ["e", "a", "b"]
    own = {"pins": [{"item_id": "d", "place": 1}, {"item_id": "c", "place": 2}]}
    assert names(placement="home", rules=own) == ["e", "c", "a"]
    assert names(rules=own) == ["d", "c", "a"]
    few = answer(rules={"at_most": [{"by": "brand", "items": 1}]}, limit=5)
    assert [item["item_id"] for item in few["items"]] == ["a", "d"]
    assert few["missing"] == 3
    for rules, field, column in (
        ({"boosts": [{"filter": "item.cost > 1", "factor": 2}]}, "rules.boosts[0].filter", 1),
        ({"boosts": [{"filter": "context.x", "factor": 2}]}, "rules.boosts[0].filter", 1),
        ({"boosts": [{"filter": "segment.x", "factor": 2}]}, "rules.boosts[0].filter", 1),
        ({"at_most": [{"by": "hue", "items": 1}]}, "rules.at_most[0].by", None),
        ({"at_most": [{"by": "brand", "items": 0}]}, "rules.at_most[0].items", None),
    ):
        problem = answer(rules=rules)
        assert (problem["status"], problem["field"], problem.get("column")) == (400, field, column)
