"""The real store: when it says that rows are on disk, and what each of its refusals becomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest
from headwater_client.errors import SettingsError
from headwater_client.events import Item
from pydantic import SecretStr
from redis import Redis

from deploy import local
from features.columns import (
    ENTRY_COLUMNS,
    DamagedRowError,
    decode_catalogue_entry,
    decode_group,
    decode_pair,
)
from features.kafka import LogIdentity
from features.positions import PositionError, PositionKeeper
from features.schema import FeatureSchema
from features.settings import BrokerSettings, Durability, FeatureSettings, StoreSettings
from features.shown import append_shown, decode_shown
from features.store import (
    CATALOGUE,
    ROWS_MARK,
    SHOWN,
    TRENDING,
    USERS,
    RowRead,
    RowWrite,
    StoreRefusalError,
    StoreRestartedError,
    StoreUnavailableError,
    popularity_table,
)
from features.store.redis import RedisRowStore
from features.store.redis.keys import row_key
from features.topics import hash64, source_hash
from stream.catalogue import ItemUpdate, write_items
from tests.harness.memory_store import MemoryRowStore
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


def test_after_a_full_disk_the_file_is_renewed_though_no_commit_waits_for_it(
    settings: StoreSettings, server: Redis
) -> None:
    lenient = settings.model_copy(update={"durability": Durability.ACKNOWLEDGED})
    before = server.info("persistence")["aof_rewrites"]

    async def commit(store: RedisRowStore) -> None:
        assert await store.wait_until_durable(1)
        assert server.info("persistence")["aof_rewrites"] == before
        # As the answer MISCONF does: test_full_disk.py has a disk that is full.
        store._renewal.note_failure()
        while store._renewal.is_due:
            assert await store.wait_until_durable(1)
            await asyncio.sleep(0.01)

    ask(lenient, commit)
    assert server.info("persistence")["aof_rewrites"] > before


def test_a_script_that_the_server_forgot_is_sent_whole(
    settings: StoreSettings, server: Redis
) -> None:
    async def forget(store: RedisRowStore) -> list[bool]:
        accepted = await store.write([row()])
        server.script_flush()
        accepted += await store.write([row(b"2", b"1"), row(b"3", b"2")])
        return accepted + await store.write([row(b"4", b"2")])

    assert ask(settings, forget) == [True, True, True, False]


@pytest.mark.parametrize("overwrite", ["set", "lpush", "sadd"])
def test_a_key_of_another_kind_is_kept_and_its_row_begun_anew(
    settings: StoreSettings, server: Redis, overwrite: str
) -> None:
    getattr(server, overwrite)(row_key(TRENDING.join_key, PERSON), "somebody's")
    dump = server.dump(row_key(TRENDING.join_key, PERSON))

    async def begin_anew(store: RedisRowStore) -> list[bool]:
        [stored] = await store.read([RowRead(TRENDING, PERSON, ("offsets",))])
        with pytest.raises(DamagedRowError):
            decode_pair(stored["offsets"])
        # Where nothing was read, or another version, nothing is written over it.
        accepted = await store.write([row(b"2"), row(b"2", b"1")])
        accepted += await store.write([row(b"2", stored["offsets"])])
        assert await store.read([RowRead(TRENDING, PERSON, ("offsets",))]) == [{"offsets": b"2"}]
        return accepted + await store.write([row(b"3", stored["offsets"]), row(b"3", b"2")])

    assert ask(settings, begin_anew) == [False, False, True, False, True]
    [kept] = server.keys("headwater:damaged:trending:*")
    assert PERSON not in kept.decode()
    assert server.hgetall(kept) == {b"dump": dump}
    assert server.ttl(kept) > 0


def test_an_item_whose_key_was_overwritten_is_not_on_sale_until_its_topic_says_so(
    settings: StoreSettings, server: Redis
) -> None:
    server.set(row_key(CATALOGUE.join_key, "lamp"), "somebody's")
    popularity, entry = popularity_table(1), RowRead(CATALOGUE, "lamp", ENTRY_COLUMNS)
    column = popularity.columns[0]

    async def count(store: RedisRowStore) -> None:
        [stored] = await store.read([RowRead(popularity, "lamp", (column,))])
        with pytest.raises(DamagedRowError):
            decode_group(stored[column], FeatureSchema(FeatureSettings()))
        write = RowWrite(popularity, "lamp", {column: b""}, 1, column, stored[column])
        assert await store.write([write]) == [True]
        with pytest.raises(DamagedRowError):
            decode_catalogue_entry((await store.read([entry]))[0])
        update = ItemUpdate(Item(item_id="lamp", category=["light"]), source_hash("id", 0), 1, 1)
        await write_items(store, {"lamp": update})
        assert decode_catalogue_entry((await store.read([entry]))[0]).available

    ask(settings, count)


def test_what_is_no_row_and_of_another_kind_is_one_line(
    settings: StoreSettings, server: Redis
) -> None:
    server.set("headwater:positions", "somebody's")
    server.lpush(ROWS_MARK, "somebody's")
    uses: dict[str, Callable[[RedisRowStore], Coroutine[Any, Any, Any]]] = {
        "headwater:positions": RedisRowStore.positions,
        "headwater:positions$": lambda store: store.move_positions({"clicks/0": (b"", b"1")}),
        ROWS_MARK: lambda store: store.read_mark(ROWS_MARK),
        f"{ROWS_MARK}$": lambda store: store.claim(ROWS_MARK, "{}"),
    }
    for key, use in uses.items():
        with pytest.raises(StoreRefusalError, match=rf"than Headwater wrote: DEL {key}"):
            ask(settings, use)
    server.delete("headwater:positions")
    server.hset("headwater:positions", "clicks/0", "somebody's")
    identity = LogIdentity("", {"clicks": "id"}, {"clicks": 1})
    keeper = PositionKeeper(RedisRowStore(settings), BrokerSettings(), "g", identity)
    with pytest.raises(PositionError, match="no position: HDEL"):
        asyncio.run(keeper.move({("clicks", 0): (1, 1)}))


def test_entries_are_added_as_each_writer_says_and_feast_s_fields_stay(
    settings: StoreSettings, server: Redis
) -> None:
    """Against the same in plain Python: both ends of the length's varint, repeats, a bound."""
    memory, random = MemoryRowStore(), Random(1)
    reads = [RowRead(SHOWN, PERSON, ("shown",))]
    appends = [
        append_shown(
            PERSON,
            [f"i{random.randrange(60)}" for _ in range(random.randrange(1, 12))],
            1_700_000_000_000 + 1000 * at,
            random.choice([0, 1, 10, 11, 40]),
        )
        for at in range(120)
    ]

    async def run(store: RedisRowStore) -> None:
        await store.write([row()])
        for at in range(0, len(appends), 3):
            await store.append(appends[at : at + 3])
            await memory.append(appends[at : at + 3])
            (found,), (expected,) = await store.read(reads), await memory.read(reads)
            assert found == expected
            since_ms = appends[at].time_ms
            assert decode_shown(found, since_ms) == decode_shown(expected, since_ms)
        server.script_flush()
        await store.append(appends[:1])
        (other,) = await store.read([RowRead(TRENDING, PERSON, ("offsets",))])
        assert other == {"offsets": b"1"}

    ask(settings, run)


def test_two_writers_of_one_row_take_nothing_from_each_other(
    settings: StoreSettings, server: Redis
) -> None:
    async def write(store: RedisRowStore, first: int) -> None:
        for number in range(first, first + 50):
            await store.append([append_shown(PERSON, [f"i{number}"], 1_700_000_000_000, 200)])

    async def run(store: RedisRowStore) -> None:
        other = RedisRowStore(settings)
        try:
            await asyncio.gather(write(store, 0), write(other, 50))
            (found,) = await store.read([RowRead(SHOWN, PERSON, ("shown",))])
            assert decode_shown(found, 0) == {hash64(f"i{number}") for number in range(100)}
        finally:
            await other.close()

    ask(settings, run)


def test_a_person_of_whom_nothing_is_written_goes_by_itself(
    settings: StoreSettings, server: Redis
) -> None:
    kept = settings.model_copy(update={"expire_people_after_days": 40})
    key = row_key(USERS.join_key, PERSON)

    async def run(store: RedisRowStore) -> None:
        shown = append_shown(PERSON, ["i1"], 1_700_000_000_000, 10)
        await store.append([shown])
        assert server.ttl(key) == pytest.approx(40 * 86_400, abs=60)
        # Counted from the newest write, whatever it is of.
        server.expire(key, 5)
        await store.write([RowWrite(USERS, PERSON, {"offsets": b"1"}, 1, "offsets", None)])
        assert server.ttl(key) == pytest.approx(40 * 86_400, abs=60)
        other = popularity_table(1)
        await store.write([RowWrite(other, "lamp", {other.columns[0]: b"1"}, 1, "x", None)])
        assert server.ttl(row_key(other.join_key, "lamp")) == -1

    ask(kept, run)
    server.flushall()

    async def run_forever(store: RedisRowStore) -> None:
        await store.append([append_shown(PERSON, ["i1"], 1_700_000_000_000, 10)])
        assert server.ttl(key) == -1

    ask(settings, run_forever)
