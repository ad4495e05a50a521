"""The real store: when it says that rows are on disk, and what each of its refusals becomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from typing import Any

import pytest
from headwater_client.errors import SettingsError
from pydantic import SecretStr
from redis import Redis

from deploy import local
from features.settings import StoreSettings
from features.store import (
    TRENDING,
    RowWrite,
    StoreRefusalError,
    StoreRestartedError,
    StoreUnavailableError,
)
from features.store.redis import RedisRowStore
from tests.harness.servers import state_in

pytestmark = pytest.mark.integration

PERSON = "ann@example.com"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    """A store for this module, whose configuration its tests change and put back."""
    with state_in(tmp_path_factory.mktemp("store")) as found:
        yield local.up(found, only=["store"]).store


@pytest.fixture
def server(settings: StoreSettings) -> Iterator[Redis]:
    """The server itself, empty."""
    host, _, port = (settings.address or "").rpartition(":")
    with closing(Redis(host, int(port))) as client:
        client.flushall()
        yield client


def row(value: bytes = b"1", expected: bytes | None = None) -> RowWrite:
    return RowWrite(TRENDING, PERSON, {"offsets": value}, 1, "offsets", expected)


def ask(settings: StoreSettings, use: Callable[[RedisRowStore], Coroutine[Any, Any, Any]]) -> Any:
    """What comes of using a store that is connected anew."""

    async def run() -> Any:
        store = RedisRowStore(settings)
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


def test_rows_are_on_disk_only_after_an_fsync(settings: StoreSettings, server: Redis) -> None:
    """The bundled server's WAITAOF answers before its fsync, of which there is one a second."""

    async def write_and_wait(store: RedisRowStore) -> bool:
        await store.write([row()])
        return await store.wait_until_durable(10_000)

    assert "valkey_version" in server.info()
    start = time.monotonic()
    assert ask(settings, write_and_wait)
    # Not how quick it is: less cannot be true of a server that syncs once a second.
    assert time.monotonic() - start > 1
    server.config_set("appendonly", "no")
    try:
        with pytest.raises(SettingsError, match="appendonly"):
            ask(settings, write_and_wait)
        with pytest.raises(SettingsError, match="appendonly yes"):
            ask(settings, RedisRowStore.check)
        assert ask(settings.model_copy(update={"durability": "acknowledged"}), write_and_wait)
    finally:
        server.config_set("appendonly", "yes")
        while server.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.01)


def test_what_is_wrong_with_a_store_is_said_at_the_start(
    settings: StoreSettings, server: Redis
) -> None:
    ask(settings, RedisRowStore.check)
    server.config_set("maxmemory-policy", "allkeys-lru")
    server.config_set("appendfsync", "no")
    try:
        with pytest.raises(SettingsError) as caught:
            ask(settings, RedisRowStore.check)
    finally:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("appendfsync", "everysec")
    policy, sync = str(caught.value).splitlines()
    assert "maxmemory-policy allkeys-lru" in policy
    assert "appendfsync no" in sync


def test_a_full_store_is_waited_for_and_no_person_is_named(
    settings: StoreSettings, server: Redis
) -> None:
    server.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError, match="is full: raise its maxmemory") as caught:
            ask(settings, lambda store: store.write([row()]))
    finally:
        server.config_set("maxmemory", "0")
    assert caught.value.reason == "full"
    assert PERSON[:4] not in str(caught.value)
    assert ask(settings, lambda store: store.write([row()])) == [True]


def test_after_a_fail_over_the_store_is_connected_anew_and_read_again(
    settings: StoreSettings, server: Redis
) -> None:
    async def fail_over(store: RedisRowStore) -> None:
        assert await store.write([row()]) == [True]
        server.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError, match="takes no writes") as caught:
            await store.write([row(b"2", b"1")])
        assert caught.value.reason == "read_only"
        with pytest.raises(SettingsError, match="takes no writes"):
            await store.check()
        server.replicaof("NO", "ONE")
        assert await store.write([row(b"2", b"1")]) == [True]
        with pytest.raises(StoreRestartedError):
            await store.wait_until_durable(5_000)

    ask(settings, fail_over)


def test_a_login_and_rights_that_do_not_do_end_with_the_remedy(
    settings: StoreSettings, server: Redis
) -> None:
    login = {"username": "reader", "password": SecretStr("right")}
    reader = settings.model_copy(update=login)
    wrong = reader.model_copy(update={"password": SecretStr("wrong")})
    server.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+right"],
        keys=["*"],
        categories=["+@read"],
        commands=["+info"],
    )
    try:
        with pytest.raises(StoreRefusalError, match=r"correct store\.username and store\.password"):
            ask(wrong, RedisRowStore.check)
        with pytest.raises(StoreRefusalError, match=r"grant it .*@scripting") as caught:
            ask(reader, RedisRowStore.check)
        assert PERSON not in str(caught.value)
        # What a managed server forbids and nobody needs is no fault.
        server.acl_setuser(
            "reader",
            enabled=True,
            categories=["+@write", "+@scripting", "-@dangerous"],
            commands=["+info", "+waitaof"],
        )
        ask(reader, RedisRowStore.check)
    finally:
        server.acl_deluser("reader")


def test_a_script_that_the_server_forgot_is_sent_whole(
    settings: StoreSettings, server: Redis
) -> None:
    async def forget(store: RedisRowStore) -> list[bool]:
        accepted = await store.write([row()])
        server.script_flush()
        accepted += await store.write([row(b"2", b"1"), row(b"3", b"2")])
        return accepted + await store.write([row(b"4", b"2")])

    assert ask(settings, forget) == [True, True, True, False]
