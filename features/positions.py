"""Where rows stand in Kafka's log: kept in the store beside them, and compared with Kafka.

Kafka's committed offsets say how far the group has come, not what the rows hold: a store that was
lost, restored or failed over holds less. So the store keeps a position of each source, written
before offsets are committed. Where it is behind, the log is read again from there; where the log is
not the one that was read, the process ends with a line that says what to do. Nothing is skipped.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import structlog
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import ServerError, SettingsError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.topics import IDENTITIES, ITEMS

from features import kafka
from features.settings import BrokerSettings
from features.store import ROWS_MARK, RowStore, StoreRestartedError

Source = tuple[str, int]
"""A topic, and the number of a partition."""

WATCH_S = 5.0
PAUSE_S, QUIET_S = 0.2, 10.0
_FORMAT, _CLUSTER, _OVERWRITTEN = "format", "cluster", "overwritten"
_REMEDY = (
    "put Kafka's data back from a copy, or empty the store and run `headwater backfill rows`, "
    "which counts what Kafka has"
)
log = structlog.get_logger()


class PositionError(ServerError):
    """The log is not the one that was read, or lacks what has to be read again."""


class LogPosition(msgspec.Struct, frozen=True, array_like=True):
    """How far rows hold one source.

    Attributes:
        topic_id: of the topic, as `features.kafka.LogIdentity` has it.
        offset: the first that is not in rows.
        time_ms: Kafka's time of the message before it, which tells a log that was cut and written
            anew; -1 where it is not known.
    """

    topic_id: str
    offset: int
    time_ms: int = -1


class PartitionLog(NamedTuple):
    """What Kafka has of a source: the first offset, the one after the last.

    `time_ms` is that of the message before the store's position; None where it is gone.
    """

    topic_id: str
    first: int
    end: int
    time_ms: int | None = None


def find_start(
    source: Source, stored: LogPosition | None, committed: int | None, found: PartitionLog
) -> int:
    """Where to go on reading a source.

    Args:
        stored: what the store says; None where rows hold nothing.
        committed: by the group; None where it has committed nothing.
        found: what Kafka has.

    Raises:
        PositionError: the log is not the one that rows hold, or lacks what they have lost.
    """
    name = f"{source[0]}/{source[1]}"
    absorbed, time_ms = 0, -1
    if stored is not None and stored.topic_id == found.topic_id:
        absorbed, time_ms = stored.offset, stored.time_ms
    if found.end < absorbed:
        raise PositionError(
            f"Kafka: {name} ends at offset {found.end}, but rows have it up to {absorbed}: Kafka "
            f"has lost messages: {_REMEDY}"
        )
    if found.time_ms is not None and time_ms not in (-1, found.time_ms):
        raise PositionError(
            f"Kafka: {name} has another message at offset {absorbed - 1} than the one that rows "
            f"have: its log was cut, or put back from a copy: {_REMEDY}"
        )
    if committed is not None and committed > absorbed and found.first > absorbed:
        raise PositionError(
            f"the store: rows have {name} up to offset {absorbed}, the workers had come to "
            f"{committed}, and Kafka begins at {found.first}: the store was lost or put back from "
            "a copy: put back a newer one, or empty the store and run `headwater backfill rows`, "
            "which counts what Kafka has"
        )
    start = absorbed if committed is None else min(committed, absorbed)
    if found.first > start and absorbed:
        log.warning("events_gone", source=name, events=found.first - start)
    return max(start, found.first)


def find_missing_items(
    stored: Mapping[str, bytes], committed: Mapping[Source, int]
) -> dict[str, int]:
    """Up to which offset the store lacks items that workers had come to, by partition's name.

    Of all partitions: another worker reads them again, and a person's events need any item.

    >>> position = _encode(LogPosition("id", 5))
    >>> find_missing_items({"items/0": position}, {("items", 0): 5, ("items", 1): 7})
    {'items/1': 7}
    """
    return {
        _name(source): offset
        for source, offset in committed.items()
        if source[0] == ITEMS
        and ((position := _decode(stored.get(_name(source)))) is None or position.offset < offset)
    }


async def claim_positions(
    store: RowStore, settings: BrokerSettings, group: str, identity: kafka.LogIdentity | None
) -> None:
    """Check the store, and mark it as one that keeps positions in this cluster's log.

    Rows of a release that kept none are taken to hold what its workers have committed. Before
    `claim_rows`: the mark of rows tells such a store from an empty one.

    Args:
        identity: of the log; None where rows are of no log, but of files.

    Raises:
        SettingsError: the store does not keep rows, or its rows hold the log of another cluster.
        ServerError: the store or Kafka does not answer.
    """
    await store.check()
    has_rows = await store.read_mark(ROWS_MARK) is not None
    there = await store.positions()
    if _OVERWRITTEN in there:
        raise PositionError(
            f"the store at {store.address} was emptied or put back while workers wrote to it: some "
            "of its rows hold new events and lack older ones: empty it (FLUSHALL), or put it back "
            "again, and start the workers then"
        )
    if _FORMAT not in there and (identity or not has_rows):
        moves = {_FORMAT: (b"", b"1")}
        if identity and has_rows:
            committed = await asyncio.to_thread(kafka.group_offsets, settings, group, identity)
            moves |= {
                _name(source): (b"", _encode(LogPosition(identity.topics[source[0]], offset)))
                for source, offset in committed.items()
            }
            log.info("positions_adopted", sources=len(committed))
        await store.move_positions(moves)
    if not identity or not identity.cluster:
        return
    cluster = identity.cluster.encode()
    found = (await store.move_positions({_CLUSTER: (b"", cluster)}))[_CLUSTER]
    if found != cluster:
        raise SettingsError(
            f"the store at {store.address} holds rows of the Kafka cluster "
            f"{found.decode(errors='replace')}, and this one is {identity.cluster}: what was "
            "copied from there would count twice: use an empty store and `headwater backfill "
            "rows`; where nothing was copied, HDEL headwater:positions cluster"
        )


async def raise_positions(
    store: RowStore, identity: kafka.LogIdentity, ends: Mapping[Source, int]
) -> None:
    """Say that rows hold all of the log before some offsets: a backfill has read it.

    Raises:
        ServerError: the store does not answer.
    """
    there = await store.positions()
    moves = {}
    for source, end in ends.items():
        told, found = LogPosition(identity.topics[source[0]], end), there.get(_name(source), b"")
        position = _decode(found)
        if not position or position.topic_id != told.topic_id or position.offset < end:
            moves[_name(source)] = (found, _encode(told))
    await store.move_positions(moves)


def check_identity(settings: BrokerSettings, identity: kafka.LogIdentity) -> None:
    """Compare the log with what a process has named its sources by.

    Raises:
        PositionError: a topic was made anew, or has more partitions; or it is another cluster.
        ServerError: Kafka does not answer.
    """
    if change := identity.find_change(kafka.describe_log(settings)):
        raise PositionError(change)


async def watch_identity(settings: BrokerSettings, identity: kafka.LogIdentity) -> None:
    """`check_identity` now and then, for ever, for a process that keeps no positions.

    Raises:
        PositionError: likewise.
    """
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            await asyncio.to_thread(check_identity, settings, identity)
        except PositionError:
            raise
        except ServerError as error:
            log.warning("kafka_away", reason=str(error))


class PositionKeeper:
    """Keeps the positions of the sources that a worker reads.

    Args:
        identity: of the log, as it was when the worker named its sources.

    Attributes:
        answered: by source, the offset below which all was answered and delivered before the
            source was assigned: what is read again from below changes rows and is not answered.
        resumed: sources of which the group had committed nothing, though rows hold them: where.
    """

    def __init__(
        self, store: RowStore, settings: BrokerSettings, group: str, identity: kafka.LogIdentity
    ) -> None:
        self._store = store
        self._settings = settings
        self._group = group
        self._identity = identity
        self._stored: dict[str, bytes] = {}
        self._catalogue: dict[str, int] = {}
        # What is read again: in the order in which it has to be in rows.
        self._identities: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self._unread: dict[Source, int] = {}
        self.answered: dict[Source, int] = {}
        self.resumed: dict[Source, int] = {}

    async def find_starts(self, committed: Mapping[Source, int | None]) -> dict[Source, int]:
        """Where to go on reading each source; asked at the start, and at each assignment.

        Raises:
            PositionError: nothing may be read: the line says why, and what to do.
            ServerError: the store or Kafka does not answer.
        """
        await asyncio.to_thread(self._check_identity)
        self._stored = await self._store.positions()
        stored = {source: _decode(self._stored.get(_name(source))) for source in committed}
        known = {source: each for source, each in stored.items() if each}
        found = await asyncio.to_thread(self._ask_kafka, committed, known)
        starts = {}
        for source, offset in committed.items():
            start = starts[source] = find_start(source, stored[source], offset, found[source])
            position = stored[source]
            if position and position.topic_id != found[source].topic_id:
                # The topic was made anew: nothing of it was answered, whatever its group says.
                self.answered[source] = 0
                continue
            answered = max(position.offset if position else 0, offset or 0)
            # Committed of a log that was longer: what comes at those offsets now is new.
            self.answered[source] = min(answered, found[source].end)
            if offset is None and position:
                self.resumed[source] = start
            if offset is not None and start < offset:
                log.warning("store_behind", source=_name(source), start=start, committed=offset)
        self._note_behind(stored, found)
        if any(starts[source] < (offset or 0) for source, offset in committed.items()):
            self._catalogue = find_missing_items(self._stored, await self._group_offsets())
        return starts

    def _note_behind(
        self,
        stored: Mapping[Source, LogPosition | None],
        found: Mapping[Source, PartitionLog],
    ) -> None:
        """Take note of what rows lack though it had been answered."""
        behind = {
            source: self.answered[source]
            for source, position in stored.items()
            if (position.offset if position else 0) < self.answered[source]
        }
        known = {each: at for each, at in behind.items() if each[0] == IDENTITIES}
        self._identities = {_name(each): at for each, at in known.items()}
        self._unread = {each: at for each, at in behind.items() if each[0] in EVENT_TYPES.topics}
        self._events = {_name(each): at for each, at in self._unread.items()}
        ends = {each: log.end for each, log in found.items() if each[0] == IDENTITIES and log.end}
        again = bool(self._identities or self._events)
        self._requests = {_name(each): end for each, end in ends.items()} if again else {}

    async def find_all_starts(self) -> None:
        """Compare all sources before anything is read; arguments and errors as of `find_starts`."""
        committed = await self._group_offsets()
        await self.find_starts({source: committed.get(source) for source in self._sources()})

    async def _group_offsets(self) -> dict[Source, int]:
        return await asyncio.to_thread(
            kafka.group_offsets, self._settings, self._group, self._identity
        )

    async def move(self, done: Mapping[Source, tuple[int, int]]) -> None:
        """Let the store know how far its rows hold some sources; before that is committed.

        Args:
            done: by source, the first offset that is not in rows, and the time of the message
                before it.

        Raises:
            StoreRestartedError: the store has lost rows since it was told last.
            PositionError: another worker has met a topic that was made anew.
            ServerError: it does not answer.
        """
        moves = {}
        for source, told in done.items():
            before = self._stored.get(_name(source), b"")
            position = _encode(LogPosition(self._identity.topics[source[0]], *told))
            # A partition that went and came back: another worker has come further meanwhile.
            if _is_before(before, position) or _differs(before, position):
                moves[_name(source)] = (before, position)
        while moves:
            found = await self._store.move_positions(moves)
            self._stored |= found
            if all(found[name] == told for name, (_, told) in moves.items()):
                return
            if any(_has_lost(found[name], before) for name, (before, _) in moves.items()):
                # Since then this worker has given rows late offsets, by which they would pass over
                # what they have lost.
                await self._store.move_positions({_OVERWRITTEN: (b"", b"1")})
                raise StoreRestartedError(
                    f"the store at {self._store.address} says of its rows less than it did: it was "
                    "emptied, put back from a copy, or failed over, while this worker wrote to it"
                )
            others = {
                name: found[name] for name, (before, _) in moves.items() if found[name] != before
            }
            if anew := [n for n, there in others.items() if _differs(there, moves[n][1])]:
                raise PositionError(
                    f"the store at {self._store.address} has {', '.join(anew)} of another topic of "
                    "this name: start again"
                )
            moves = {
                name: (found[name], told)
                for name, (_, told) in moves.items()
                if name not in others or _is_before(found[name], told)
            }

    async def wait_for_items(self) -> None:
        """Wait until items are in rows again: events that are read again need their categories."""
        await self._wait_until_read(self._catalogue)

    async def wait_for_catalogue(self) -> None:
        """Wait for items, and until it is known who has become whom, and who was forgotten."""
        await self.wait_for_items()
        await self._wait_until_read(self._identities)

    @property
    def is_reading_again(self) -> bool:
        """Whether rows lack what had been answered when this worker took its partitions over."""
        return bool(self._unread or self._requests)

    def split_answered(self, source: Source, offset: int) -> bool:
        """Take note of an event that is to be handled; whether it had been answered before."""
        answered = self.answered.get(source, 0)
        if offset + 1 >= answered:
            self._unread.pop(source, None)
        return offset < answered

    @property
    def lacks_events(self) -> bool:
        """Whether events have still to come that had been answered."""
        return bool(self._unread)

    @property
    def has_events_to_store(self) -> bool:
        """Whether rows may still lack events that had been answered."""
        return bool(self._events)

    async def wait_for_events(self) -> None:
        """Wait until rows hold all events again that had been answered."""
        while self._events:
            await self._take_read(self._events)
            if self._events:
                await asyncio.sleep(PAUSE_S)

    async def wait_for_identities(self) -> None:
        """Wait until what was asked of rows by now is done."""
        await self._wait_until_read(self._requests)

    async def _wait_until_read(self, wanted: dict[str, int]) -> None:
        """Wait until rows hold sources again.

        Not for what does not come: the last messages of a compacted topic may be gone.
        """
        seen: dict[str, bytes | None] = {}
        still_s = 0.0
        while wanted:
            stored = await self._take_read(wanted)
            now = {name: stored.get(name) for name in wanted}
            still_s = still_s + PAUSE_S if now == seen else 0.0
            seen = now
            if still_s > QUIET_S:
                log.warning("sources_read_no_further", sources=sorted(wanted))
                wanted.clear()
            elif wanted:
                await asyncio.sleep(PAUSE_S)

    async def _take_read(self, wanted: dict[str, int]) -> dict[str, bytes]:
        """Take out what rows hold by now; what the store says of all sources."""
        stored = await self._store.positions()
        for name, offset in list(wanted.items()):
            position = _decode(stored.get(name))
            if position and position.offset >= offset:
                del wanted[name]
        return stored

    async def watch(self) -> None:
        """Look for ever whether the log is still the one that is read.

        Raises:
            PositionError: a topic was made anew, has more partitions, or lost messages.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            positions = {
                source: position
                for source in self._sources()
                if (position := _decode(self._stored.get(_name(source))))
            }
            try:
                await asyncio.to_thread(self._check_log, positions)
            except PositionError:
                raise
            except ServerError as error:
                log.warning("kafka_away", reason=str(error))

    def _sources(self) -> list[Source]:
        return [
            (topic, partition)
            for topic in kafka.log_topics()
            for partition in range(self._identity.partitions[topic])
        ]

    def _check_identity(self) -> None:
        check_identity(self._settings, self._identity)

    def _check_log(self, positions: Mapping[Source, LogPosition]) -> None:
        self._check_identity()
        for source, bounds in kafka.partition_bounds(self._settings, positions).items():
            # The store may still have the position of a topic that was there before.
            found = PartitionLog(self._identity.topics[source[0]], *bounds)
            find_start(source, positions[source], None, found)

    def _ask_kafka(
        self, committed: Mapping[Source, int | None], known: Mapping[Source, LogPosition]
    ) -> dict[Source, PartitionLog]:
        last = {source: each.offset - 1 for source, each in known.items() if each.offset}
        bounds = kafka.partition_bounds(self._settings, committed)
        there = {
            source: offset
            for source, offset in last.items()
            if bounds[source][0] <= offset < bounds[source][1]
        }
        times = kafka.message_times(self._settings, there)
        return {
            source: PartitionLog(self._identity.topics[source[0]], *at, times.get(source))
            for source, at in bounds.items()
        }


def _name(source: Source) -> str:
    return f"{source[0]}/{source[1]}"


def _has_lost(found: bytes, before: bytes) -> bool:
    """Whether the store says less than it did."""
    there, last = _decode(found), _decode(before)
    if last is None or (there and there.topic_id != last.topic_id):
        return False
    return there is None or there.offset < last.offset


def _differs(found: bytes, told: bytes) -> bool:
    """Whether another worker has met the topic of this name that was made anew."""
    there, mine = _decode(found), _decode(told)
    return there is not None and mine is not None and there.topic_id != mine.topic_id


def _is_before(found: bytes, told: bytes) -> bool:
    """Whether the store is still to be told; not where a later owner of the partition did."""
    there, mine = _decode(found), _decode(told)
    return there is None or mine is None or there.offset < mine.offset


def _encode(position: LogPosition) -> bytes:
    return msgspec.json.encode(position)


def _decode(text: bytes | None) -> LogPosition | None:
    try:
        return read_json(text, LogPosition) if text else None
    except DocumentError as error:
        raise PositionError(
            f"the store: headwater:positions holds {text!r:.80}, which is no position: HDEL the "
            "field that holds it (see HGETALL), and its source is read again; rows keep what they "
            "hold"
        ) from error
