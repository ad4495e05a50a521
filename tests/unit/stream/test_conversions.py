"""How often items are bought is read from their rows, once anybody wants to know."""

from __future__ import annotations

import asyncio
import math

import pytest
from headwater_client import EVENT_TYPES, Item
from headwater_client.rules import Objective

from features.columns import encode_group
from features.rows import ItemGroup
from features.settings import BrokerSettings
from stream.conversions import ConversionFollower
from stream.filtering import FilterableItems
from tests.harness.memory_store import MemoryRowStore
from tests.harness.waiting import wait_until
from tests.unit.stream.test_recommender import NOW_MS, SCHEMA


def group(count: float) -> bytes:
    values = [count] * len(SCHEMA.item_half_lives)
    return encode_group(ItemGroup(values, 1, 0, NOW_MS))


def make_row(**counts: float) -> dict[str, bytes]:
    """A row of an item, of one partition: what was done with it, by type."""
    return {f"{EVENT_TYPES[name].topic}_0": group(count) for name, count in counts.items()}


def shop(*names: str) -> tuple[FilterableItems, ConversionFollower]:
    items, store = FilterableItems(), MemoryRowStore()
    for name in names:
        items.table.put(Item(item_id=name))
    # A cart counts as a click, and a return is a purchase that was none; a dislike says nothing.
    store.rows["item_popularity", "a"] = make_row(
        click=50, add_to_cart=30, purchase=30, **{"return": 10}
    )
    store.rows["item_popularity", "b"] = make_row(click=100)
    store.rows["item_popularity", "c"] = {"clicks_0": b"damaged"}
    kafka = BrokerSettings(partitions=1)
    follower = ConversionFollower(kafka, store, SCHEMA, items, 0.01)  # type: ignore[arg-type]
    return items, follower


EXPECTED = [math.log((20 + 2) / 120 / 0.1), math.log(2 / 120 / 0.1), 0, 0]


def test_events_and_purchases_are_those_of_the_rows() -> None:
    items, follower = shop("a", "b", "c", "d")
    asyncio.run(follower.read_all())
    assert items.find_shifts(Objective.PURCHASES) == pytest.approx(EXPECTED)
    assert items.find_shifts(Objective.CLICKS) is None
    assert items.find_shifts(None) is None


def test_nothing_is_read_before_anybody_asks() -> None:
    items, follower = shop("a", "b", "c", "d")

    async def run() -> None:
        following = asyncio.create_task(follower.run())
        await asyncio.sleep(0.05)
        assert items.conversions.revision == 0
        assert items.find_shifts(Objective.PURCHASES) == pytest.approx([0, 0, 0, 0])
        await asyncio.to_thread(wait_until, lambda: items.conversions.revision > 0)
        following.cancel()

    asyncio.run(run())
    assert items.find_shifts(Objective.PURCHASES) == pytest.approx(EXPECTED)
    # What came into the catalogue since is as all are, until it is read.
    items.table.put(Item(item_id="e", price=2.0))
    found = items.find_shifts(Objective.REVENUE)
    assert found == pytest.approx([*EXPECTED, 0])
