"""The catalogue as columns follows the store: what is newer stays, other changes are found."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from headwater_client.events import Item

from features.columns import encode_item
from features.rules.filters import EVERYTHING
from features.settings import BrokerSettings
from features.topics import Hash
from stream.catalogue import LOADED_ITEMS
from stream.filtering import ItemFilter
from stream.item_follower import ItemFollower
from tests.harness.memory_store import MemoryRowStore

TOPIC = Hash(11)


def write(store: MemoryRowStore, item: Item | None, source: int, offset: int, name: str) -> None:
    store.rows["item_catalogue", name] = dict(encode_item(item, source, offset))


def priced_item(name: str, price: float) -> Item:
    return Item(item_id=name, price=price, attributes={"n": 1})


def cheap(follower: ItemFollower) -> set[str]:
    names = follower.items.table.item_ids
    return follower.items.make_filter("!has(item.price) || item.price < 10", {}).choose(names)


def test_rows_are_read_once_and_what_changes_is_found() -> None:
    store = MemoryRowStore()
    nothing: Any = None
    follower = ItemFollower(BrokerSettings(), store, nothing, nothing, 1.0)  # type: ignore[arg-type]
    follower._sources = {0: TOPIC}
    write(store, priced_item("a", 5), TOPIC, 3, "a")
    write(store, priced_item("b", 50), LOADED_ITEMS, 1, "b")
    write(store, None, TOPIC, 4, "gone")
    write(store, priced_item("odd", 5), TOPIC, 5, "odd")
    store.rows["item_catalogue", "odd"]["price"] = b"\xff\xff"

    async def run() -> None:
        await follower._read(["a", "b", "gone", "odd", "without a row"])
        assert cheap(follower) == {"a", "without a row"}
        reads = store.reads
        await follower._compare_slice()
        await follower._compare_slice()
        assert store.reads <= reads + 3
        # A message that the worker has not written yet stays; one that it has written is the same.
        follower._put(priced_item("a", 70), (TOPIC, 9))
        follower._next = 0
        await follower._compare_slice()
        assert cheap(follower) == {"without a row"}
        # What came by another way, or before this process followed the topic, is found.
        write(store, priced_item("b", 7), TOPIC, 6, "b")
        write(store, priced_item("without a row", 90), TOPIC, 7, "without a row")
        write(store, priced_item("a", 1), TOPIC, 10, "a")
        follower._next = 0
        await follower._compare_slice()
        assert cheap(follower) == {"a", "b"}

    asyncio.run(run())


def test_what_a_request_names_is_read_where_this_process_has_started_since_it_came() -> None:
    store = MemoryRowStore()
    nothing = SimpleNamespace(answering=[], items=SimpleNamespace(item_ids=[]))
    follower = ItemFollower(BrokerSettings(), store, nothing, nothing, 1.0)  # type: ignore[arg-type]
    follower._sources = {0: TOPIC}
    write(store, priced_item("new", 5), TOPIC, 3, "new")
    wanted = ItemFilter(follower.items, EVERYTHING, {}, frozenset(["new", "made up"]))

    async def run() -> None:
        assert wanted.choose(["new"]) == set()
        await follower._read_missing()
        assert wanted.choose(["new", "made up"]) == {"new"}
        assert follower.items.table.item_ids == ["new"]

    asyncio.run(run())
