"""What ends a worker again and again is put aside, and nothing else is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from headwater_client import EventError, ServerError

from stream.poison import PoisonNet
from tests.harness.memory_store import MemoryRowStore

SOURCES = {("clicks", 0): 11, ("clicks", 1): 12, ("items", 0): 13}


class KilledError(BaseException):
    """The kernel ends the process: nothing in it can do anything about that."""


class World:
    """Processes, one after another, that handle one log over one store.

    `fails` has what handling a message, by offset, raises; `background`, what answering it raises.
    """

    def __init__(self, messages: int = 20) -> None:
        self.store = MemoryRowStore()
        self.handled: list[int] = []
        self.letters: list[int] = []
        self.fails: dict[int, BaseException] = {}
        self.background: dict[int, BaseException] = {}
        self.batches: list[int] = []
        self._open: list[int] = []
        self._log = [
            SimpleNamespace(
                message=SimpleNamespace(topic="clicks", partition=0, offset=offset, value=b"{}")
            )
            for offset in range(messages)
        ]

    async def start(self) -> None: ...

    async def handle(self, events: Sequence[Any]) -> None:
        self.batches.append(len(events))
        offsets = [event.message.offset for event in events]
        for offset in offsets:
            if offset in self.fails:
                raise self.fails[offset]
        self._open += offsets

    async def skip(self, events: Sequence[Any]) -> None:
        await self.drain()

    async def drain(self) -> None:
        """All that was begun is answered."""
        while self._open:
            if (offset := self._open[0]) in self.background:
                raise self.background[offset]
            self.handled.append(self._open.pop(0))

    async def put_aside(self, event: Any, error: EventError) -> None:
        assert "ended over it" in str(error)
        self.letters.append(event.message.offset)

    async def live(self, first: int, size: int) -> None:
        """One process, from the committed offset on."""
        self._open = []
        net = PoisonNet(self.store, SOURCES, self.put_aside)  # type: ignore[arg-type]
        for start in range(first, len(self._log), size):
            await net.run(self, self._log[start : start + size])  # type: ignore[arg-type]
        await self.drain()

    def deaths(self, first: int = 0, size: int = 5) -> int:
        """How many processes end before one gets through."""
        for count in range(20):
            try:
                asyncio.run(self.live(first, size))
            except (KilledError, RuntimeError, MemoryError):
                continue
            return count
        raise AssertionError("no process gets through")


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), MemoryError()])
def test_a_message_that_raises_is_put_aside_the_third_time(error: Exception) -> None:
    world = World()
    world.fails[7] = error
    assert world.deaths() == 2
    assert world.letters == [7]
    assert set(world.handled) == set(range(20)) - {7}


def test_a_message_over_which_the_process_is_killed_is_found_and_put_aside() -> None:
    world = World()
    world.fails[7] = KilledError()
    assert world.deaths() == 4
    assert world.letters == [7]
    assert set(world.handled) == set(range(20)) - {7}


def test_one_whose_answer_ends_the_process_is_found_too() -> None:
    world = World()
    world.background[7] = KilledError()
    assert world.deaths() == 4
    assert world.letters == [7]
    assert set(world.handled) == set(range(20)) - {7}


def test_several_are_found_one_after_another() -> None:
    world = World()
    world.fails |= {3: RuntimeError(), 4: RuntimeError(), 12: RuntimeError()}
    world.deaths()
    assert world.letters[-3:] == [3, 4, 12]
    assert set(world.handled) == set(range(20)) - {3, 4, 12}


def test_who_was_killed_twice_by_chance_handles_messages_alone_and_loses_none() -> None:
    world = World()
    world.fails[7] = KilledError()
    for _ in range(2):
        with pytest.raises(KilledError):
            asyncio.run(world.live(0, 5))
    del world.fails[7]
    world.batches.clear()
    assert world.deaths() == 0
    assert set(world.batches) == {1}
    world.batches.clear()
    assert world.deaths(first=5) == 0
    assert set(world.batches) == {5}
    assert world.letters == []


def test_a_server_that_is_away_is_no_messages_fault() -> None:
    world = World()
    world.fails[0] = ServerError("away")
    for _ in range(8):
        with pytest.raises(ServerError):
            asyncio.run(world.live(0, 5))
    del world.fails[0]
    assert world.deaths() == 0
    assert world.letters == []
    assert world.handled == list(range(20))


def test_what_was_told_is_taken_back_when_a_server_ends_the_process_from_behind() -> None:
    world = World()

    async def end_over_a_server() -> None:
        net = PoisonNet(world.store, SOURCES, world.put_aside)  # type: ignore[arg-type]
        world.fails[0] = RuntimeError()
        try:
            await net.run(world, world._log[:1])  # type: ignore[arg-type]
        except RuntimeError:
            # A task of the same moment ends the process instead.
            await net.take_back()

    for _ in range(5):
        asyncio.run(end_over_a_server())
    del world.fails[0]
    assert world.deaths() == 0
    assert world.letters == []


def test_messages_of_two_topics_that_are_handled_alone_at_once_keep_their_marks_apart() -> None:
    """Each topic has its agent: one of them ends over the store while the other one works."""
    world, working = World(), asyncio.Event()

    class TwoTopics:
        async def start(self) -> None: ...
        async def drain(self) -> None: ...
        async def skip(self, events: Sequence[Any]) -> None: ...

        async def handle(self, events: Sequence[Any]) -> None:
            if len(events) > 1:
                raise RuntimeError("of two")
            if events[0].message.topic == "clicks":
                working.set()
                await asyncio.sleep(0.05)
                raise ServerError("the store was restarted")
            await working.wait()

    async def live() -> None:
        sources = {**SOURCES, ("purchases", 0): 14}
        net = PoisonNet(world.store, sources, world.put_aside)  # type: ignore[arg-type]
        others = [
            SimpleNamespace(message=SimpleNamespace(**{**vars(each.message), "topic": "purchases"}))
            for each in world._log[:2]
        ]
        clicks = asyncio.create_task(net.run(TwoTopics(), world._log[:2]))  # type: ignore[arg-type]
        await net.run(TwoTopics(), others)  # type: ignore[arg-type]
        with pytest.raises(ServerError):
            await clicks

    asyncio.run(live())
    kept = [json.loads(text) for text in world.store.marks.values()]
    assert [mark.get("alone", {}) for mark in kept] == [{}, {}]


def test_a_mark_that_cannot_be_read_is_none() -> None:
    world = World()
    world.store.marks["headwater:poison:11"] = "\ud83d{"
    assert world.deaths() == 0
    assert world.handled == list(range(20))
