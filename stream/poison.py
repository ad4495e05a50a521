"""What a worker died on is remembered in the store, and put aside the third time.

A decoder refuses what breaks the contract, so no message should end a worker. This is the net below
it: for the fault that nobody has thought of, in our code or below it, and for a message that the
kernel kills a process over. Two ways lead to the culprit:

- A batch fails with an error that is no server's. Its messages are handled again, each alone.
- A process is killed, and another begins at the same offset: nothing was committed in between. The
  second time that this happens the next messages are handled alone, for a while.

Before a message is handled alone, the store is told. Who finds, before it handles a message alone,
that two processes have ended over it, sends it to the dead-letter topic and goes on behind it.
A server that is away is no message's fault: what was told is taken back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog
from faust.types import EventT
from headwater_client import EventError, HeadwaterError
from headwater_client.documents import DocumentError, read_json

from features.store import RowStore
from features.topics import Hash
from stream.failures import retry_while_unavailable

log = structlog.get_logger()
# Alone a message takes as long as a batch: so many, and no more, after two deaths in a row.
ALONE_AFTER_DEATHS = 2
ALONE_EVENTS = 2_000
DEATHS = 2
Events = Sequence[EventT[bytes]]
Place = tuple[str, int]


class Stage(Protocol):
    """What handles batches of messages."""

    async def start(self) -> None:
        """Make ready for the first batch; nothing once that is done."""

    async def handle(self, events: Events) -> None:
        """Handle a batch; what it leads to may go on in the background."""

    async def skip(self, events: Events) -> None:
        """Take a batch for handled, once all before it is."""

    async def drain(self) -> None:
        """Wait until all that was begun is done."""


class DeathMarks(msgspec.Struct, frozen=True):
    """What the store holds of a partition.

    Attributes:
        begun: the offset at which a process began.
        deaths: how many have begun there and found no message to blame, if this one does not.
        alone: by the offset of a message, how many processes ended while they handled it alone.
    """

    begun: int = -1
    deaths: int = 0
    alone: dict[int, int] = {}


class PoisonNet:
    """Lets batches be handled, and finds the message that ends the process.

    Args:
        sources: the source hash of each topic and partition.
        put_aside: keeps a message in the dead-letter topic.
    """

    def __init__(
        self,
        store: RowStore,
        sources: Mapping[Place, Hash],
        put_aside: Callable[[EventT[bytes], EventError], Awaitable[None]],
    ) -> None:
        self._store = store
        self._sources = sources
        self._put_aside = put_aside
        self._known: set[Place] = set()
        # How many more messages of a partition are to be handled alone, and which in any case.
        self._alone: dict[Place, int] = {}
        self._suspects: dict[Place, set[int]] = {}
        # What the store had of partitions of which a message is being handled alone: each topic has
        # an agent of its own, and one of their processes ends over the message of one of them.
        self._told: dict[Place, DeathMarks] = {}

    async def run(self, stage: Stage, events: Events) -> None:
        """Handle a batch.

        Raises:
            HeadwaterError: a server's fault, or a setting's.
            Exception: the message that was handled alone ends the process.
        """
        # A failure here is no message's.
        await stage.start()
        await self._look_at_new(events)
        together: list[EventT[bytes]] = []
        for event in events:
            if (self._suspects or self._alone) and self._is_suspect(event):
                await self._handle_together(together, stage)
                together = []
                await self._handle_alone(event, stage)
            else:
                together.append(event)
        await self._handle_together(together, stage)

    async def take_back(self) -> None:
        """The process ends, and no message is to blame: see `stream.failures.excuses`."""
        while self._told:
            place, before = self._told.popitem()
            await self._store.claim(self._mark(place), _encode(before), replace=True)

    async def _look_at_new(self, events: Events) -> None:
        """What the store knows of partitions that this process has not seen yet."""
        for event in events:
            place, offset = _place(event), event.message.offset
            if place in self._known:
                continue
            self._known.add(place)
            found = await self._read(place)
            alone = {each: deaths for each, deaths in found.alone.items() if each >= offset}
            deaths = found.deaths if found.begun == offset else 0
            if alone:
                self._suspects[place] = set(alone)
            if deaths >= ALONE_AFTER_DEATHS and min(alone.values(), default=DEATHS) >= DEATHS:
                log.warning("messages_handled_alone", topic=place[0], partition=place[1])
                self._alone[place] = ALONE_EVENTS
            await self._write(place, DeathMarks(offset, deaths + 1, alone))

    def _is_suspect(self, event: EventT[bytes]) -> bool:
        place, offset = _place(event), event.message.offset
        if (left := self._alone.get(place, 0)) > 0:
            self._alone[place] = left - 1
            return True
        self._alone.pop(place, None)
        return offset in self._suspects.get(place, ())

    async def _handle_together(self, events: Events, stage: Stage) -> None:
        if not events:
            return
        try:
            await stage.handle(events)
        except HeadwaterError:
            raise
        except Exception as error:  # noqa: BLE001  (raised again by the message that it is of)
            log.warning("batch_fails", events=len(events), error=repr(error))
            for event in events:
                await self._handle_alone(event, stage)

    async def _handle_alone(self, event: EventT[bytes], stage: Stage) -> None:
        place, offset = _place(event), event.message.offset
        found = await self._read(place)
        deaths = found.alone.get(offset, 0)
        if deaths >= DEATHS:
            log.error("message_put_aside", topic=place[0], partition=place[1], offset=offset)
            reason = f"{deaths} processes ended over it: put aside"
            await self._put_aside(event, EventError("<message>", event.message.value, reason))
            await stage.skip([event])
            return
        await stage.drain()
        self._told[place] = found
        await self._write(place, DeathMarks(found.begun, 0, {**found.alone, offset: deaths + 1}))
        try:
            await stage.handle([event])
            await stage.drain()
        except (HeadwaterError, asyncio.CancelledError):
            await self.take_back()
            raise
        self._told.pop(place, None)
        found.alone.pop(offset, None)
        await self._write(place, found)

    async def _read(self, place: Place) -> DeathMarks:
        async for attempt in retry_while_unavailable():
            with attempt:
                text = await self._store.claim(self._mark(place), "")
        try:
            return read_json(text, DeathMarks)
        except DocumentError:
            # None yet, or of somebody else.
            return DeathMarks()

    async def _write(self, place: Place, marks: DeathMarks) -> None:
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._store.claim(self._mark(place), _encode(marks), replace=True)

    def _mark(self, place: Place) -> str:
        return f"headwater:poison:{self._sources[place]}"


def _place(event: EventT[bytes]) -> Place:
    return event.message.topic, event.message.partition


def _encode(marks: DeathMarks) -> str:
    return msgspec.json.encode(marks).decode()
