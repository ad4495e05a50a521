"""What people were shown: remembered by whichever process, within bounds, and never an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from headwater_client import ServerError

from features.shown import append_shown, decode_shown
from features.store import SHOWN, EntryAppend, RowRead
from features.topics import hash64
from stream.shown import LOST, ShownItems, ShownSettings
from tests.harness.memory_store import MemoryRowStore

NOW_MS = 1_700_000_000_000


def hashes(*names: str) -> set[int]:
    return {hash64(name) for name in names}


async def shown_since(store: MemoryRowStore, since_ms: int) -> set[int]:
    (row,) = await store.read([RowRead(SHOWN, "ann", ("shown",))])
    return set(decode_shown(row, since_ms))


def test_the_newest_items_are_remembered_each_once_with_its_newest_time() -> None:
    async def run() -> None:
        store = MemoryRowStore()
        for second, names in enumerate(["ab", "bc", "da"]):
            await store.append([append_shown("ann", names, NOW_MS + 1000 * second, 3)])
        assert await shown_since(store, 0) == hashes("c", "d", "a")
        assert await shown_since(store, NOW_MS + 2000) == hashes("d", "a")
        assert await shown_since(store, NOW_MS + 3000) == set()

    asyncio.run(run())


def remember(work: Callable[[MemoryRowStore], Awaitable[None]]) -> None:
    asyncio.run(work(MemoryRowStore()))


def test_another_process_knows_it_at_once() -> None:
    async def run(store: MemoryRowStore) -> None:
        one, other = (ShownItems(store, ShownSettings(9, 60.0, 1.0)) for _ in range(2))  # type: ignore[arg-type]
        await asyncio.gather(one.add("ann", ["a"]), one.add("bob", ["b"]), one.add("ann", ["c"]))
        assert await other.read(["ann"]) == hashes("a", "c")
        assert await other.read(["ann", "bob"]) == hashes("a", "b", "c")
        assert await other.read(["cleo"]) == set()

    remember(run)


class Away(MemoryRowStore):
    """A store that does not answer."""

    asked = 0

    async def append(self, appends: Sequence[EntryAppend]) -> None:
        self.asked += 1
        raise ServerError("away")

    async def read(self, reads: Sequence[RowRead]) -> list[dict[str, bytes | None]]:
        raise ServerError("away")


def test_a_store_that_is_away_is_left_alone_and_what_is_lost_is_counted() -> None:
    async def run() -> None:
        store = Away()
        shown = ShownItems(store, ShownSettings(9, 60.0, 1.0))  # type: ignore[arg-type]
        before = LOST._value.get()
        for _ in range(3):
            await shown.add("ann", ["a"])
        assert store.asked == 1
        assert LOST._value.get() - before == 3
        assert await shown.read(["ann"]) is None

    asyncio.run(run())


@pytest.mark.parametrize(("items", "names"), [(0, ["a"]), (9, [])])
def test_nothing_is_written_where_nothing_is_to_be_remembered(items: int, names: list[str]) -> None:
    async def run() -> None:
        store = Away()
        shown = ShownItems(store, ShownSettings(items, 60.0, 1.0))  # type: ignore[arg-type]
        await shown.add("ann", names)
        assert not store.asked
        assert shown.is_on == bool(items)

    asyncio.run(run())
