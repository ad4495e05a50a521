"""Item messages become item rows, and a worker's view of those is kept for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import numpy as np
import pytest
from headwater_client.errors import EventError, ServerError
from headwater_client.events import Item, encode

from features.columns import ENTRY_COLUMNS, CatalogueEntry, encode_item
from features.schema import PADDING, UNKNOWN, Vocabulary
from features.store import RowWrite
from features.topics import hash64
from stream.catalogue import (
    LOADED_ITEMS,
    AllowedItems,
    CatalogueCache,
    ItemUpdate,
    parse_item,
    write_items,
)
from tests.harness.memory_store import MemoryRowStore

NOW_MS = 1_700_000_000_000


def update(offset: int, *, source: int = 1, available: bool = True) -> ItemUpdate:
    return ItemUpdate(Item(item_id="i", available=available), source, offset, NOW_MS)  # type: ignore[arg-type]


def write(store: MemoryRowStore, *updates: ItemUpdate) -> bool:
    """Write one update after another; whether the item is then available."""

    async def run() -> bool:
        for each in updates:
            await write_items(store, {"i": each})  # type: ignore[arg-type]
        return (await CatalogueCache(store, 1.0).get(["i"]))["i"].available  # type: ignore[arg-type]

    return asyncio.run(run())


def test_a_cached_entry_is_used_until_it_is_too_old() -> None:
    now = [0.0]
    catalogue = CatalogueCache(MemoryRowStore(), 5.0, clock=lambda: now[0])  # type: ignore[arg-type]
    assert catalogue.get_cached(["i"]) == {"i": None}
    stored = encode_item(Item(item_id="i", category=["c"], available=False), 1, 1)
    entry = catalogue.put("i", {name: stored[name] for name in ENTRY_COLUMNS})
    assert entry == CatalogueEntry((hash64("c"),), available=False)
    now[0] = 4.9
    assert catalogue.get_cached(["i"]) == {"i": entry}
    now[0] = 5.0
    assert catalogue.get_cached(["i"]) == {"i": None}


def test_entries_are_read_in_one_call_and_an_item_without_a_row_is_available() -> None:
    store = MemoryRowStore()
    write(store, update(0, available=False))
    store.reads = 0
    catalogue = CatalogueCache(store, 5.0)  # type: ignore[arg-type]
    entries = asyncio.run(catalogue.get(["i", "j", "k"]))
    assert {name: entry.available for name, entry in entries.items()} == {
        "i": False,
        "j": True,
        "k": True,
    }
    assert asyncio.run(catalogue.get(["k", "i"])) == {"k": entries["k"], "i": entries["i"]}
    assert store.reads == 1


def test_what_a_version_may_be_asked_for_is_read_whole_and_then_slice_by_slice() -> None:
    hidden, slices = {"i3", "i2400"}, list[int]()

    async def check(item_ids: Iterable[str]) -> dict[str, bool]:
        names = list(item_ids)
        slices.append(len(names))
        return {name: name not in hidden for name in names}

    view = AllowedItems(Vocabulary([f"i{number}" for number in range(2500)]), check)
    assert np.flatnonzero(~asyncio.run(view.read())).tolist() == [PADDING, UNKNOWN, 5, 2402]
    assert sum(slices) == 2500
    hidden.clear()
    # Each later use reads one slice again: the first ones, then the next.
    assert [len(np.flatnonzero(~asyncio.run(view.read()))) for _ in range(3)] == [3, 3, 2]
    assert sum(slices) == 5000


def test_the_newest_message_of_an_item_counts_however_often_one_is_read() -> None:
    store = MemoryRowStore()
    assert write(store, update(3), update(7, available=False)) is False
    assert write(store, update(3), update(7, available=True)) is False
    assert write(store, update(8)) is True


def test_an_item_that_was_removed_is_not_available() -> None:
    assert write(MemoryRowStore(), update(3), ItemUpdate(None, 1, 4, NOW_MS)) is False  # type: ignore[arg-type]


def test_items_from_a_file_are_older_than_any_message() -> None:
    loaded = ItemUpdate(Item(item_id="i"), LOADED_ITEMS, 99, NOW_MS)
    assert write(MemoryRowStore(), loaded) is True
    assert write(MemoryRowStore(), update(0, available=False), loaded) is False
    assert write(MemoryRowStore(), loaded, update(0, available=False)) is False


def test_a_row_that_another_worker_wrote_meanwhile_is_an_error_to_try_again() -> None:
    store = MemoryRowStore()

    def intrude(writes: list[RowWrite]) -> None:
        store.before_write = lambda writes: None
        store.rows["item_catalogue", "i"] = dict(encode_item(Item(item_id="i"), 1, 5))

    store.before_write = intrude  # type: ignore[assignment]
    with pytest.raises(ServerError, match="another worker"):
        write(store, update(6, available=False))
    assert write(store, update(6, available=False)) is False


def test_a_message_names_its_item_by_its_key() -> None:
    item = Item(item_id="i", title="Item")
    assert parse_item(b"i", encode(item)) == ("i", item)
    assert parse_item(b"i", None) == ("i", None)
    wrong = [(b"j", encode(item)), (None, encode(item)), (b"i", b"{")]
    for key, value in (*wrong, (None, None), (b"i" * 257, None)):
        with pytest.raises(EventError):
            parse_item(key, value)
