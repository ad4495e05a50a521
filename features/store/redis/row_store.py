"""Feature rows in Redis or Valkey, where Feast's own online store keeps them.

Feast's Redis store reads a row's timestamp and then writes: not atomic, and it drops an event that
is late or of the same instant. Here a row is written by a script that compares one column, the
version, with the bytes that were read. Keys and fields are Feast's own, so plain Feast reads what
is written here.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1
from typing import Any

import structlog
from headwater_client.errors import SettingsError
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

from features import store as base
from features.settings import Durability, StoreSettings
from features.store import EntryAppend, RowRead, RowWrite
from features.store.redis.append_file import FileLook, FileRenewal, FileStep, StoreServer
from features.store.redis.connection import (
    ANSWER_S,
    client_options,
    list_nodes,
    sentinel_options,
    with_fast_packing,
)
from features.store.redis.faults import explain_error, find_faults, is_other_kind
from features.store.redis.keys import (
    OTHER_KIND,
    append_arguments,
    field_of,
    row_key,
    write_arguments,
)
from features.topics import hash64

log = structlog.get_logger()
_DURABLE_MARK = "headwater:durable"

# KEYS: the row. ARGV: version field, version that was read ("" for none), then field, value, ...
_WRITE_IF_UNCHANGED = """
local held = redis.pcall('HGET', KEYS[1], ARGV[1]) or ''
local other = type(held) == 'table'
if other then
  if not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
  held = '\\255\\255of another kind'
end
if held ~= ARGV[2] then return 0 end
if other then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
# KEYS: the row. ARGV: field, the tag that a column of bytes begins with, new entries, how many are
# kept, then field and value of the time. A column is the tag, its length as a varint, its entries.
_APPEND = f"""
local held, at = redis.call('HGET', KEYS[1], ARGV[1]) or '', 2
while (string.byte(held, at) or 0) > 127 do at = at + 1 end
local width, time = {base.ENTRY_BYTES}, {base.ENTRY_TIME_BYTES}
local added, new, kept = ARGV[3], {{}}, {{}}
for place = 1, #added, width do new[string.sub(added, place + time, place + width - 1)] = true end
for place = at + 1, #held - width + 1, width do
  local entry = string.sub(held, place, place + width - 1)
  if not new[string.sub(entry, time + 1)] then kept[#kept + 1] = entry end
end
local limit, content = tonumber(ARGV[4]), ''
if limit > 0 then content = string.sub(table.concat(kept) .. added, -width * limit) end
local column, size = ARGV[2], #content
while size > 127 do
  column, size = column .. string.char(size % 128 + 128), math.floor(size / 128)
end
redis.call('HSET', KEYS[1], ARGV[1], column .. string.char(size) .. content, ARGV[5], ARGV[6])
return 1
"""
# KEYS: the positions. ARGV: name, what was read ("" for none), what is to be there, ...
# Those that are as they are to be were written by a call whose answer was lost.
_MOVE_POSITIONS = """
local found, fits = {}, true
for at = 1, #ARGV, 3 do
  local value = redis.call('HGET', KEYS[1], ARGV[at]) or ''
  fits = fits and (value == ARGV[at + 1] or value == ARGV[at + 2])
  found[#found + 1] = value
end
if not fits then return found end
for at = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
  found[(at + 2) / 3] = ARGV[at + 2]
end
return found
"""
_POSITIONS = "headwater:positions"
# A server with `appendfsync everysec` starts an fsync a second after the one before.
_FSYNC_S = 1.1
# How many commands a second any server answers.
_COMMANDS_S = 1_000


# In a script, because redis-py makes a bool of the reply to SET, whatever it is.
_SET = "return redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 2))"


class RedisRowStore:
    """A `RowStore` in Redis. A mark is a key of its own beside the rows.

    Args:
        settings: `address` must be set.
        any_server: whether one that was restarted is as good: to who writes no rows it is.
    """

    def __init__(self, settings: StoreSettings, *, any_server: bool = False) -> None:
        self._settings = settings
        self._any_server = any_server
        self._client: Any = None
        self._server: StoreServer | None = None
        self._renewal = FileRenewal()

    @property
    def address(self) -> str:
        """Where the server is, as the settings say."""
        return self._settings.address or ""

    async def check(self) -> None:
        """See `RowStore.check`. Of a cluster only the rights are asked."""
        probe = ("EVAL", _WRITE_IF_UNCHANGED, 1, row_key("user_id", ""), "version", "never written")
        await self._execute([probe])
        needs_disk = self._settings.durability is Durability.AOF
        if not self._settings.cluster:
            (info,) = await self._execute([("INFO",)])
            if faults := list(find_faults(info, await self._ask_config(), needs_disk)):
                lines = (f"the store at {self.address} {each}" for each in faults)
                raise SettingsError("\n".join(lines))
        # One that is full, or whose disk is, still reads.
        await self._execute([("SET", _DURABLE_MARK, 1)])
        if needs_disk:
            await self._look(timeout_ms=1)

    async def _ask_config(self) -> dict[str, str]:
        """What INFO does not tell; nothing where a managed server forbids CONFIG."""
        command = ("CONFIG GET", "appendfsync", "no-appendfsync-on-rewrite")
        (config,) = await self._execute([command], expected=lambda _: True)
        return config if isinstance(config, dict) else {}

    async def read(self, reads: Sequence[RowRead]) -> list[dict[str, bytes | None]]:
        """See `RowStore.read`."""
        if not reads:
            return []
        commands = [
            (
                "HMGET",
                row_key(read.table.join_key, read.entity_id),
                *(field_of(read.table.name, name) for name in read.columns),
            )
            for read in reads
        ]
        replies = await self._execute(commands, expected=is_other_kind)
        rows: list[dict[str, bytes | None]] = []
        for read, reply in zip(reads, replies, strict=True):
            if isinstance(reply, ResponseError):
                await self._keep_dump(read)
                rows.append(dict.fromkeys(read.columns, OTHER_KIND))
            else:
                rows.append(dict(zip(read.columns, reply, strict=True)))
        return rows

    async def _keep_dump(self, read: RowRead) -> None:
        """Keep what stands at a row's key, of whatever kind, before a write takes it away."""
        (dump,) = await self._execute([("DUMP", row_key(read.table.join_key, read.entity_id))])
        if dump is not None:
            await self._keep(read, {"dump": dump})

    async def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        """See `RowStore.write`."""
        calls = [write_arguments(write) for write in writes]
        written = [reply == 1 for reply in await self._run(_WRITE_IF_UNCHANGED, calls)]
        await self._expire(writes)
        return written

    async def append(self, appends: Sequence[EntryAppend]) -> None:
        """See `RowStore.append`."""
        await self._run(_APPEND, [append_arguments(each) for each in appends])
        await self._expire(appends)

    async def _expire(self, changes: Sequence[RowWrite | EntryAppend]) -> None:
        """Let rows of people go by themselves, counted from now, where the settings say so."""
        kept_s = self._settings.expire_people_after_days * 86_400
        people = {each.entity_id for each in changes if each.table.join_key == base.USERS.join_key}
        if kept_s and people:
            keys = [row_key(base.USERS.join_key, name) for name in people]
            await self._execute([("EXPIRE", key, kept_s) for key in keys])

    async def _run(self, script: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies to calls of a script, each with its key first."""
        if not calls:
            return []
        # In a cluster `pipe.evalsha` is blocked; the command itself is not.
        digest = sha1(script.encode(), usedforsecurity=False).hexdigest()
        commands = [("EVALSHA", digest, 1, *call) for call in calls]
        replies = await self._execute(
            commands, expected=lambda error: isinstance(error, NoScriptError)
        )
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # Whole, the script needs no memory of the server's, and is known to it from then on.
            replies = await self._execute([("EVAL", script, 1, *call) for call in calls])
        return replies

    async def wait_until_durable(self, timeout_ms: int) -> bool:
        """See `RowStore.wait_until_durable`: asks WAITAOF, which a server before 7.2 lacks.

        Valkey from 8.0 and Redis 7.4.0 to 7.4.2 answer WAITAOF before the fsync (redis 13793).
        Of a server that is not known to be free of this, an fsync has to be seen: it starts one a
        second after the last one, so one that had nothing open (`FileLook.is_settled`) and has
        again nothing open at a write a second later has synced in between all that came before.
        """
        if self._settings.durability is not Durability.AOF:
            await self._renew_if_due()
            return True
        until = time.monotonic() + timeout_ms / 1000
        first = await self._look(timeout_ms)
        if first.is_on_disk and first.server.tells_truth:
            return True
        while time.monotonic() < until:
            await asyncio.sleep(_FSYNC_S)
            last = await self._look(timeout_ms)
            # A rewrite goes on in a new file: the old one is synced where no look sees it.
            if first.is_settled and last.is_settled and last.rewrites == first.rewrites:
                return True
            if not first.is_settled or last.rewrites != first.rewrites:
                first = last
        return False

    async def _look(self, timeout_ms: int) -> FileLook:
        """What the server says of its file, once it has written to it all that came before."""
        try:
            # WAITAOF speaks of its own connection's writes: this one comes after all others.
            _, (synced, _) = await self._execute(
                [("SET", _DURABLE_MARK, 1), ("WAITAOF", 1, 0, timeout_ms)],
                waits_s=timeout_ms / 1000,
            )
        except base.StoreRefusalError as error:
            if isinstance(error.__cause__, NoPermissionError):
                raise
            raise base.StoreRefusalError(
                f"the store at {self.address} cannot say when rows are on disk "
                f"({error.__cause__}): use Redis 7.2+ or Valkey with appendonly, or set "
                "HEADWATER_STORE__DURABILITY=acknowledged"
            ) from error.__cause__
        (info,) = await self._execute([("INFO",)])
        look = FileLook.from_info(info, synced >= 1)
        self._recognise(look.server)
        if await self._renew_file(info):
            return look
        return look._replace(is_on_disk=False, is_settled=False)

    async def _renew_if_due(self) -> None:
        """Have the file written anew after a full disk, though no commit waits for it."""
        if not self._renewal.is_due:
            return
        if self._settings.cluster:
            self._renewal.give_up()
            self._tell_doubt("of a cluster each primary has to be asked", "run it on each of them")
            return
        (info,) = await self._execute([("INFO",)])
        if info.get("aof_enabled"):
            await self._renew_file(info)
        else:
            # It was its snapshot that it could not write.
            self._renewal.give_up()

    def _tell_doubt(self, reason: str, remedy: str) -> None:
        log.warning(
            "store_file_doubtful",
            store=self.address,
            reason=reason,
            remedy="its disk was full, and its file may not be readable at its next start: "
            f"BGREWRITEAOF writes it anew: {remedy}",
        )

    async def _renew_file(self, info: Mapping[str, Any]) -> bool:
        """Whether the server's file can be relied on; where it had no room it is written anew."""
        step = self._renewal.look(info)
        if step is FileStep.RENEWED:
            log.info("store_file_renewed", store=self.address)
        if step is FileStep.ASK:
            (reply,) = await self._execute([("BGREWRITEAOF",)], expected=lambda _: True)
            if isinstance(reply, ResponseError):
                self._renewal.give_up()
                self._tell_doubt(str(reply)[:80], "run it on the server")
                return True
        return step in (FileStep.NOTHING, FileStep.RENEWED)

    async def keep_damaged(self, read: RowRead, stored: Mapping[str, bytes | None]) -> str:
        """See `RowStore.keep_damaged`. Of a key of another kind `dump` is kept: see DUMP."""
        nothing = (None, OTHER_KIND)
        held = {column: value for column, value in stored.items() if value not in nothing}
        return await self._keep(read, held)

    async def _keep(self, read: RowRead, held: Mapping[str, bytes | None]) -> str:
        name = f"{hash64(read.entity_id) & (1 << 64) - 1:016x}"
        key = f"headwater:damaged:{read.table.name}:{name}"
        parts = [part for column in held.items() for part in column]
        if parts:
            await self._ask(key, "HSET", key, *parts)
        await self._ask(key, "EXPIRE", key, base.DAMAGED_KEPT_S)
        return key

    def _recognise(self, server: StoreServer) -> None:
        if self._server is not None and server.identity != self._server.identity:
            raise base.StoreRestartedError(
                f"the store at {self.address} was restarted or failed over, and may lack its last "
                "second: start again from the committed offsets"
            )
        self._server = server

    async def _meet(self, connection: Any) -> None:
        """Let a new connection do nothing on a server that may lack rows.

        A row that is written there has a late offset, and would pass over what it has lost.
        """
        await connection.on_connect()
        await connection.send_command("INFO")
        text: bytes = await connection.read_response()
        pairs = (line.partition(":") for line in text.decode().splitlines())
        try:
            self._recognise(StoreServer.from_info({name: value for name, _, value in pairs}))
        except base.StoreRestartedError:
            await connection.disconnect()
            raise

    async def close(self) -> None:
        """Close the connections; used again, the store may be another server."""
        await self._disconnect()
        self._server = None

    async def _disconnect(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def claim(self, mark: str, text: str, replace: bool = False) -> str:
        """See `RowStore.claim`."""
        condition = () if replace else ("NX",)
        found = await self._ask(mark, "EVAL", _SET, 1, mark, text, *condition, "GET")
        return text if found is None else str(found.decode(errors="replace"))

    async def read_mark(self, mark: str) -> str | None:
        """See `RowStore.read_mark`."""
        found = await self._ask(mark, "GET", mark)
        return None if found is None else str(found.decode(errors="replace"))

    async def positions(self) -> dict[str, bytes]:
        """See `RowStore.positions`."""
        found = await self._ask(_POSITIONS, "HGETALL", _POSITIONS)
        return {name.decode(errors="replace"): value for name, value in found.items()}

    async def move_positions(self, moves: Mapping[str, tuple[bytes, bytes]]) -> dict[str, bytes]:
        """See `RowStore.move_positions`."""
        if not moves:
            return {}
        parts = [part for name, (before, told) in moves.items() for part in (name, before, told)]
        found = await self._ask(_POSITIONS, "EVAL", _MOVE_POSITIONS, 1, _POSITIONS, *parts)
        return dict(zip(moves, found, strict=True))

    async def _ask(self, key: str, *command: Any) -> Any:
        """The reply to a command about a key that is no row.

        Raises:
            ServerError, StoreRefusalError: as of `_execute`; also, the key holds another kind.
        """
        (reply,) = await self._execute([command], expected=is_other_kind)
        if isinstance(reply, ResponseError):
            raise base.StoreRefusalError(
                f"the store at {self.address} holds something else at {key} than Headwater wrote: "
                f"DEL {key}"
            )
        return reply

    async def _execute(
        self,
        commands: Sequence[tuple[Any, ...]],
        expected: Callable[[ResponseError], bool] = lambda _: False,
        waits_s: float = 0.0,
    ) -> list[Any]:
        """The replies to some commands, in one round trip.

        Args:
            expected: whether an error is a reply.
            waits_s: how long the server may wait with its answers.

        Raises:
            ServerError: the server is away, or cannot do it now.
            StoreRefusalError: it will not do it.
        """
        try:
            pipe = self._redis().pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            async with asyncio.timeout(ANSWER_S + waits_s + len(commands) / _COMMANDS_S):
                # redis-py would put a command, and so a person's id, into the text of its error.
                replies: list[Any] = await pipe.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise await self._failure(error) from error
        for reply in replies:
            if isinstance(reply, Exception) and not (
                isinstance(reply, ResponseError) and expected(reply)
            ):
                raise await self._failure(reply) from reply
        return replies

    def _redis(self) -> Any:
        """The client; it connects when it is first asked."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def _make_client(self) -> Any:
        nodes, options = list_nodes(self._settings), client_options(self._settings)
        if self._settings.cluster:
            startup = [redis.cluster.ClusterNode(host, port) for host, port in nodes]
            return redis.RedisCluster(startup_nodes=startup, **options)
        # `_execute` has a limit for all replies; redis-py would set a timer for each.
        options["socket_timeout"] = None
        # Who asks tries again, and says so: at once, for a connection that was broken, is enough.
        options["retry"] = Retry(NoBackoff(), 1)
        if self._settings.sentinel_service:
            sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
                nodes, sentinel_kwargs=sentinel_options(self._settings)
            )
            client: Any = sentinel.master_for(self._settings.sentinel_service, **options)
        else:
            [(host, port), *_] = nodes
            client = redis.Redis(host=host, port=port, **options)
        pool = client.connection_pool
        pool.connection_class = with_fast_packing(pool.connection_class)
        if self._settings.durability is Durability.AOF and not self._any_server:
            # From the first row that is read: a restart breaks its connections.
            pool.connection_kwargs["redis_connect_func"] = self._meet
        return client

    async def _failure(self, error: Exception) -> Exception:
        """What an error of the server or of its connection means, in words of its own."""
        meaning = explain_error(error)
        if meaning.reason == "disk":
            self._renewal.note_failure()
        if meaning.reason == "read_only":
            # After a fail-over the connection stays on the old primary; its address leads away.
            await self._disconnect()
        text = f"the store at {self.address} {meaning.words}"
        if meaning.waits:
            return base.StoreUnavailableError(text, meaning.reason)
        return base.StoreRefusalError(text)
