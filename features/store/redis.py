"""Feature rows in Redis or Valkey, where Feast's own online store keeps them.

Feast's Redis store reads a row's timestamp and then writes: not atomic, and it drops an event that
is late or of the same instant. Here a row is written by a script that compares one column, the
version, with the bytes that were read. Keys and fields are Feast's own, so plain Feast reads what
is written here. This is the only file that touches what Feast does not call public.
"""

from features import feast_import  # noqa: F401  (before anything of Feast)

# isort: split

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from feast import RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RegistryConfig
from google.protobuf.timestamp_pb2 import Timestamp
from headwater_client.errors import ServerError, SettingsError
from hiredis import pack_command
from redis.asyncio.connection import Connection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from features.settings import Durability, StoreSettings
from features.store import RowRead, RowWrite, StoreRestartedError, StoreTable
from features.topics import hash64

PROJECT = "headwater"
ENTITY_KEY_VERSION = 3
_DURABLE_MARK = "headwater:durable"
_DAMAGED_KEPT_S = 30 * 86_400

# KEYS: the row. ARGV: version field, version that was read ("" for none), then field, value, ...
_WRITE_IF_UNCHANGED = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""


class RedisRowStore(RedisOnlineStore):
    """A `RowStore` on Feast's Redis store. A mark is a key of its own beside the rows.

    Args:
        settings: `address` must be set.
    """

    def __init__(self, settings: StoreSettings) -> None:
        super().__init__()
        self._settings = settings
        self._config = RedisOnlineStoreConfig(
            redis_type=RedisType.redis_cluster if settings.cluster else RedisType.redis,
            connection_string="",
        )
        self._script: str | None = None
        self._run_id: str | None = None

    @property
    def address(self) -> str:
        """Where the server is, as the settings say."""
        return self._settings.address or ""

    def _parse_connection_string(  # type: ignore[override]  # Feast's is static, and has less
        self, _: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The settings, in place of Feast's string, which has no place for an IPv6 address."""
        nodes = [{"host": host, "port": port} for host, port in _nodes(self._settings)]
        return nodes, _options(self._settings)

    async def read(self, reads: Sequence[RowRead]) -> list[dict[str, bytes | None]]:
        """See `RowStore.read`."""
        if not reads:
            return []
        try:
            pipe = (await self._redis()).pipeline(transaction=False)
            for read in reads:
                fields = [_field(read.table.name, name) for name in read.columns]
                pipe.hmget(_key(read.table.join_key, read.entity_id), fields)
            replies = await pipe.execute()
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error
        return [
            dict(zip(read.columns, reply, strict=True))
            for read, reply in zip(reads, replies, strict=True)
        ]

    async def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        """See `RowStore.write`."""
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

    async def wait_until_durable(self, timeout_ms: int) -> bool:
        """See `RowStore.wait_until_durable`: asks WAITAOF, which a server before 7.2 lacks."""
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

    async def keep_damaged(self, read: RowRead, stored: Mapping[str, bytes | None]) -> str:
        """See `RowStore.keep_damaged`."""
        name = f"{hash64(read.entity_id) & (1 << 64) - 1:016x}"
        key = f"headwater:damaged:{read.table.name}:{name}"
        held = {column: value for column, value in stored.items() if value is not None}
        try:
            pipe = (await self._redis()).pipeline(transaction=False)
            pipe.hset(key, mapping=held)
            pipe.expire(key, _DAMAGED_KEPT_S)
            await pipe.execute()
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error
        return key

    async def close(self) -> None:
        """Close the connections."""
        if self._client_async is not None:
            await self._client_async.aclose()
            self._client_async = None

    async def claim(self, mark: str, text: str, replace: bool = False) -> str:
        """See `RowStore.claim`."""
        try:
            found = await (await self._redis()).set(mark, text, nx=not replace, get=True)
        except (RedisError, OSError) as error:
            raise self._unreachable(error) from error
        return text if found is None else str(found.decode(errors="replace"))

    async def _redis(self) -> Any:
        client = await self._get_client_async(self._config)
        if not self._settings.cluster:
            pool = client.connection_pool
            pool.connection_class = _with_fast_packing(pool.connection_class)
        if self._run_id is None and self._settings.durability is Durability.AOF:
            # Before the first row is read: a restart from here on is noticed.
            self._run_id = (await client.info("server"))["run_id"]
        return client

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(f"the store at {self._settings.address} does not answer: {error}")


def connection_string(settings: StoreSettings) -> str:
    """The store's address and login as Feast reads them: host:port,name=value,...

    Feast splits it at commas and reads each value as JSON, so that a password `1e5` or `true` would
    become something else; and it replaces `$NAME` by variables. As JSON texts without either they
    come through as they are.

    Raises:
        SettingsError: an address is one that Feast cannot read.
    """
    nodes = _nodes(settings)
    if any(":" in host for host, _ in nodes):
        raise SettingsError(
            f"store.address: {settings.address}: Feast reads no IPv6 address: give it a name"
        )
    options = (f"{name}={_as_json(value)}" for name, value in _options(settings).items())
    return ",".join([*(f"{host}:{port}" for host, port in nodes), *options])


def _as_json(value: object) -> str:
    return json.dumps(value).replace(",", "\\u002c").replace("$", "\\u0024")


def _nodes(settings: StoreSettings) -> list[tuple[str, int]]:
    if not settings.nodes:
        raise ServerError(
            "the store has no address: run `headwater up`, or set HEADWATER_STORE__ADDRESS"
        )
    return settings.nodes


def _options(settings: StoreSettings) -> dict[str, Any]:
    """What redis-py is given besides the address."""
    options: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 5}
    if settings.username:
        options["username"] = settings.username
    if settings.password:
        options["password"] = settings.password.get_secret_value()
    if settings.tls:
        options["ssl"] = True
    files = {
        "ssl_ca_certs": settings.tls_ca_file,
        "ssl_certfile": settings.tls_certificate_file,
        "ssl_keyfile": settings.tls_key_file,
    }
    return options | {name: path for name, path in files.items() if path}


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


@lru_cache(maxsize=10_000)
def _field(view: str, column: str) -> bytes:
    """The field of a row's hash that Feast keeps a column in."""
    field: bytes = _mmh3(f"{view}:{column}")
    return field


def _time_field(table: StoreTable) -> bytes:
    return f"_ts:{table.name}".encode()


def _arguments(write: RowWrite) -> list[bytes]:
    view = write.table.name
    seconds, rest = divmod(write.time_ms, 1000)
    time = Timestamp(seconds=seconds, nanos=rest * 1_000_000).SerializeToString()
    arguments = [
        _key(write.table.join_key, write.entity_id),
        _field(view, write.version),
        write.expected or b"",
        _time_field(write.table),
        time,
    ]
    for name, value in write.columns.items():
        arguments += (_field(view, name), value)
    return arguments


class _PackedByHiredis:
    """Packs a connection's commands in C: in Python, as redis-py does here, a row takes 20 µs."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        # A command of two words, such as CLIENT SETINFO, goes over the wire as two arguments.
        name = arguments[0]
        words = tuple(name.split()) if isinstance(name, str) else (name,)
        return [pack_command((*words, *arguments[1:]))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(part for command in commands for part in self.pack_command(*command))]


@lru_cache
def _with_fast_packing(kind: type[Connection]) -> type[Connection]:
    """The connection class with hiredis' packing; a class that has it already as it is."""
    if issubclass(kind, _PackedByHiredis):
        return kind
    return type(f"Packed{kind.__name__}", (_PackedByHiredis, kind), {})
