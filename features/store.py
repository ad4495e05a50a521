"""The Feast online store: many rows read in one round trip, each written only if still as read.

Feast's own Redis store reads a row's timestamp and then writes: not atomic, and it drops an event
that is late or of the same instant. Here a row is written by a script that compares one column, the
version, with the bytes that were read. Keys and fields are Feast's own, so plain Feast reads what
is written here.
"""

from __future__ import annotations

from features import feast_import  # noqa: F401  (before anything of Feast)

# isort: split

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RegistryConfig
from google.protobuf.timestamp_pb2 import Timestamp
from headwater_client.errors import ServerError, SettingsError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from features.redis_packing import packed
from features.repo import definitions
from features.settings import Durability, StoreSettings

PROJECT = "headwater"
ENTITY_KEY_VERSION = 3
_DURABLE_MARK = "headwater:durable"
_SCHEMA_MARK = "headwater:layout"
_LOADED_MARK = "headwater:loaded"

# KEYS: the row. ARGV: version field, version that was read ("" for none), then field, value, ...
_WRITE_IF_UNCHANGED = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""


class StoreRestartedError(ServerError):
    """The store was restarted: rows acknowledged but not yet on disk may be gone."""


class StoreTable:
    """A feature view as the store holds it: the Redis field of each column.

    Args:
        view: the Feast feature view.
        entity: its only entity.
    """

    def __init__(self, view: FeatureView, entity: Entity) -> None:
        self.name = view.name
        self.join_key = entity.join_key
        self.columns = tuple(column.name for column in view.schema)
        self.field = {name: _mmh3(f"{view.name}:{name}") for name in self.columns}
        self.time_field = f"_ts:{view.name}".encode()


USERS = StoreTable(definitions.user_activity, definitions.user)
CATALOGUE = StoreTable(definitions.item_catalogue, definitions.item)
TRENDING = StoreTable(definitions.trending, definitions.source)
FEEDBACK = StoreTable(definitions.rollout_feedback, definitions.trial)


def popularity_table(partitions: int) -> StoreTable:
    """The table of item rows for the registered event types' topics of so many partitions."""
    return StoreTable(definitions.item_popularity_view(partitions), definitions.item)


class RowRead(NamedTuple):
    """Columns of one row to read."""

    table: StoreTable
    entity_id: str
    columns: Sequence[str]


class RowWrite(NamedTuple):
    """Columns of one row to write if column `version` still holds `expected` (None: nothing)."""

    table: StoreTable
    entity_id: str
    columns: Mapping[str, bytes]
    time_ms: int
    version: str
    expected: bytes | None


class RowStore(RedisOnlineStore):
    """Feast's Redis store with batched reads and conditional writes.

    Args:
        settings: `address` must be set.
    """

    def __init__(self, settings: StoreSettings) -> None:
        super().__init__()
        self._settings = settings
        self._config = RedisOnlineStoreConfig(
            redis_type=RedisType.redis_cluster if settings.cluster else RedisType.redis,
            connection_string=connection_string(settings),
        )
        self._script: str | None = None
        self._run_id: str | None = None

    async def read(self, reads: Sequence[RowRead]) -> list[dict[str, bytes | None]]:
        """The raw columns of each row, in one round trip; None for a column without a value.

        Raises:
            ServerError: the store does not answer.
        """
        if not reads:
            return []
        try:
            pipe = (await self._redis()).pipeline(transaction=False)
            for read in reads:
                fields = [read.table.field[name] for name in read.columns]
                pipe.hmget(_key(read.table.join_key, read.entity_id), fields)
            replies = await pipe.execute()
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error
        return [
            dict(zip(read.columns, reply, strict=True))
            for read, reply in zip(reads, replies, strict=True)
        ]

    async def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        """Write each row that is still as it was read; False where another has written since.

        A row is written whole or not at all; the batch is not atomic, and its order is kept.

        Raises:
            ServerError: the store does not answer. Some rows may have been written: read again.
        """
        if not writes:
            return []
        try:
            return await self._write(writes)
        except NoScriptError:
            self._script = None
            return await self.write(writes)
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error

    async def _write(self, writes: Sequence[RowWrite]) -> list[bool]:
        client = await self._redis()
        if self._script is None:
            self._script = await client.script_load(_WRITE_IF_UNCHANGED)
        pipe = client.pipeline(transaction=False)
        for write in writes:
            # In a cluster `pipe.evalsha` is blocked; the command itself is not.
            pipe.execute_command("EVALSHA", self._script, 1, *_arguments(write))
        return [reply == 1 for reply in await pipe.execute()]

    async def durable(self, timeout_ms: int) -> bool:
        """Wait until all that was written so far is on disk, as the settings ask.

        Returns:
            False when the time ran out.

        Raises:
            StoreRestartedError: the server is not the one that took the earlier writes.
            ServerError: it does not answer, or does not know WAITAOF.
        """
        if self._settings.durability is not Durability.AOF:
            return True
        try:
            pipe = (await self._redis()).pipeline(transaction=False)
            # WAITAOF speaks of its own connection's writes: this one comes after all others.
            pipe.set(_DURABLE_MARK, 1)
            pipe.execute_command("WAITAOF", 1, 0, timeout_ms)
            pipe.info("server")
            _, (synced, _), server = await pipe.execute()
        except ResponseError as error:
            raise ServerError(
                f"the store cannot say when rows are on disk ({error}): use Redis 7.2+ or Valkey "
                "with appendonly, or set HEADWATER_STORE__DURABILITY=acknowledged"
            ) from error
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error
        self._check_same_server(server["run_id"])
        return bool(synced >= 1)

    def _check_same_server(self, run_id: str) -> None:
        if self._run_id not in (None, run_id):
            raise StoreRestartedError(
                "the store was restarted and may have lost its last second: "
                "start again from the committed offsets"
            )
        self._run_id = run_id

    async def close(self) -> None:
        """Close the connections."""
        if self._client_async is not None:
            await self._client_async.aclose()
            self._client_async = None

    async def claim(self, schema: str) -> None:
        """Check that the rows in the store are laid out so; whoever comes first decides.

        Args:
            schema: describes the schema, the same for the same settings.

        Raises:
            SettingsError: rows of another schema are there.
            ServerError: the store does not answer.
        """
        found = await self._marked(_SCHEMA_MARK, schema)
        if found != schema:
            raise SettingsError(
                f"features: the store at {self._settings.address} holds rows of other settings, "
                f"{found}: set these, or use an empty store"
            )

    async def claim_log(self, fingerprint: str) -> None:
        """Check that this is the log that was loaded from files; whoever comes first decides.

        Rows know what they have absorbed of it by its place alone.

        Raises:
            SettingsError: another log was loaded.
            ServerError: the store does not answer.
        """
        if await self._marked(_LOADED_MARK, fingerprint) != fingerprint:
            raise SettingsError(
                f"--data: another log was loaded into the store at {self._settings.address}: "
                "load that one again, or use an empty store"
            )

    async def _marked(self, mark: str, text: str) -> str:
        """What the store is marked with: `text` where it was not marked yet."""
        try:
            found = await (await self._redis()).set(mark, text, nx=True, get=True)
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error
        return text if found is None else str(found.decode())

    async def _redis(self) -> Any:
        client = await self._get_client_async(self._config)
        if not self._settings.cluster:
            pool = client.connection_pool
            pool.connection_class = packed(pool.connection_class)
        if self._run_id is None and self._settings.durability is Durability.AOF:
            # Before the first row is read: a restart from here on is noticed.
            self._run_id = (await client.info("server"))["run_id"]
        return client

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(f"the store at {self._settings.address} does not answer: {error}")


def connection_string(settings: StoreSettings) -> str:
    """The store's address and login as Feast writes them: host:port,name=value,..."""
    if not settings.address:
        raise ServerError(
            "the store has no address: run `headwater up`, or set HEADWATER_STORE__ADDRESS"
        )
    options: dict[str, object] = {"socket_timeout": 5, "socket_connect_timeout": 5}
    if settings.username:
        options["username"] = settings.username
    if settings.password:
        options["password"] = settings.password.get_secret_value()
    if settings.tls:
        options["ssl"] = "true"
    if settings.tls_ca_file:
        options["ssl_ca_certs"] = settings.tls_ca_file
    return ",".join([settings.address, *(f"{name}={value}" for name, value in options.items())])


def repo_config(settings: StoreSettings, registry: str) -> RepoConfig:
    """A plain Feast configuration of this store: what `feature_store.yaml` says."""
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry=RegistryConfig(path=registry),
        online_store=RedisOnlineStoreConfig(
            redis_type=RedisType.redis_cluster if settings.cluster else RedisType.redis,
            connection_string=connection_string(settings),
        ),
        entity_key_serialization_version=ENTITY_KEY_VERSION,
    )


@lru_cache(maxsize=100_000)
def _key(join_key: str, entity_id: str) -> bytes:
    entity = EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity_id)])
    return _redis_key(PROJECT, entity, ENTITY_KEY_VERSION)


def _arguments(write: RowWrite) -> list[bytes]:
    field = write.table.field
    seconds, rest = divmod(write.time_ms, 1000)
    time = Timestamp(seconds=seconds, nanos=rest * 1_000_000).SerializeToString()
    arguments = [
        _key(write.table.join_key, write.entity_id),
        field[write.version],
        write.expected or b"",
        write.table.time_field,
        time,
    ]
    for name, value in write.columns.items():
        arguments += (field[name], value)
    return arguments
