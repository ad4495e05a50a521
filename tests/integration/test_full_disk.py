"""A store whose disk had no room, on a small disk of its own: what it held is there again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from bench.harness.disks import Disk, can_mount
from deploy import local
from deploy.local.process import StateFolder
from deploy.settings import Settings
from features.settings import StoreSettings
from features.store import TRENDING, RowRead, RowWrite, StoreUnavailableError
from features.store.redis import RedisRowStore
from tests.harness.servers import state_in
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

ROW = "x" * 20_000
UNREADABLE = "Bad file format"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    with state_in(tmp_path) as settings:
        yield settings


@pytest.fixture
def disk(own: Settings) -> Iterator[Disk]:
    state = own.local.state_dir
    state.mkdir(parents=True, exist_ok=True)
    if not can_mount(state):
        pytest.skip("this user may not mount a disk")
    small = Disk(state / "store", 128 << 20)
    with small.mount():
        try:
            yield small
        finally:
            local.down(own)


@asynccontextmanager
async def connected_store(settings: StoreSettings) -> AsyncIterator[RedisRowStore]:
    store = RedisRowStore(settings)
    try:
        yield store
    finally:
        await store.close()


async def write_until_full(store: RedisRowStore) -> None:
    with pytest.raises(StoreUnavailableError, match="free its disk"):
        await write_many(store)


async def write_many(store: RedisRowStore) -> None:
    for number in range(2000):
        await store.write([make_row(f"filler {number % 50}")])


async def write_once_there_is_room(store: RedisRowStore, name: str) -> None:
    for _ in range(200):
        try:
            assert await store.write([make_row(name)]) == [True]
            return
        except StoreUnavailableError:
            await asyncio.sleep(0.1)
    pytest.fail("it takes no writes again")


def make_row(name: str) -> RowWrite:
    return RowWrite(TRENDING, name, {"offsets": ROW.encode()}, 1, "version", None)


def renew(settings: StoreSettings) -> None:
    """Have the file written anew once: from then on a full disk is what damages it."""
    host, _, port = (settings.address or "").rpartition(":")
    client = Redis(host, int(port))
    client.bgrewriteaof()
    wait_until(lambda: client.info("persistence")["aof_rewrites"] > 0)
    wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    client.close()


def kill_and_start(own: Settings) -> tuple[Settings, list[str]]:
    record = StateFolder(own.local.state_dir).records()["store"]
    os.kill(record.process.pid, signal.SIGKILL)
    wait_until(lambda: local.status(own)[1].detail == "died")
    told: list[str] = []
    settings = local.up(own, only=["store"], progress=lambda _, text: told.append(text))
    return settings, told


async def count_rows(settings: StoreSettings, names: list[str]) -> int:
    async with connected_store(settings) as store:
        rows = await store.read([RowRead(TRENDING, name, ("offsets",)) for name in names])
    return sum(row["offsets"] == ROW.encode() for row in rows)


def test_rows_are_durable_only_once_the_file_was_written_anew(own: Settings, disk: Disk) -> None:
    settings = local.up(own, only=["store"]).store

    async def fill() -> None:
        async with connected_store(settings) as store:
            await store.write([make_row("before")])
            assert await store.wait_until_durable(10_000)
            renew(settings)
            with disk.fill():
                await write_until_full(store)
            await write_once_there_is_room(store, "after")
            deadline = time.monotonic() + 60
            while not await store.wait_until_durable(5_000):
                assert time.monotonic() < deadline

    asyncio.run(fill())
    again, told = kill_and_start(own)
    assert not [text for text in told if "a full disk" in text]
    assert asyncio.run(count_rows(again.store, ["before", "after"])) == 2


def test_a_file_that_a_full_disk_has_broken_is_mended_at_the_start(
    own: Settings, disk: Disk
) -> None:
    settings = local.up(own, only=["store"]).store

    async def fill() -> None:
        async with connected_store(settings) as store:
            await store.write([make_row("before")])
            renew(settings)
            with disk.fill():
                await write_until_full(store)
            await write_once_there_is_room(store, "after")

    asyncio.run(fill())
    # Longer than the server may take to sync its file.
    time.sleep(2)
    again, told = kill_and_start(own)
    assert UNREADABLE in StateFolder(own.local.state_dir).log("store").read_text()
    assert [text for text in told if "bytes that a full disk had left unfinished" in text]
    assert asyncio.run(count_rows(again.store, ["before", "after"])) == 2
