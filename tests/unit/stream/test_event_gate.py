"""What is new waits for what is read again, and is handled in batches all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

from features.positions import PositionKeeper
from features.settings import BrokerSettings
from stream.identity_stage import HELD_BATCHES, EventGate


def events_of(partition: int, offsets: range) -> list[Any]:
    return [
        SimpleNamespace(message=SimpleNamespace(topic="clicks", partition=partition, offset=offset))
        for offset in offsets
    ]


class Flow:
    """Which partitions nothing is fetched of."""

    def __init__(self) -> None:
        self.paused: set[tuple[str, int]] = set()

    def pause(self, places: Collection[tuple[str, int]]) -> None:
        self.paused |= set(places)

    def resume(self, places: Collection[tuple[str, int]]) -> None:
        self.paused -= set(places)


def test_what_was_held_back_is_handled_in_batches_of_the_size_that_is_set() -> None:
    # The other parts of a keeper ask Kafka and the store, which nothing here has to wait for.
    positions = PositionKeeper(None, BrokerSettings(), "group", None)  # type: ignore[arg-type]
    lost = ("clicks", 0)
    positions.answered, positions._unread = {lost: 3}, {lost: 3}
    handled: list[list[tuple[int, int]]] = []

    async def handle(events: Sequence[Any]) -> None:
        handled.append([(each.message.partition, each.message.offset) for each in events])

    async def run() -> None:
        gate = EventGate(positions, handle, 4, Flow())
        await gate.handle(events_of(1, range(4)))
        await gate.handle(events_of(1, range(4, 8)))
        await gate.handle(events_of(0, range(2)) + events_of(1, range(8, 9)))
        assert handled == [[(0, 0), (0, 1)]]
        await gate.handle(events_of(0, range(2, 4)))

    asyncio.run(run())
    new = [(1, offset) for offset in range(9)] + [(0, 3)]
    assert handled == [[(0, 0), (0, 1)], [(0, 2)], new[:4], new[4:8], new[8:]]


def test_of_a_partition_of_which_many_wait_nothing_more_is_fetched() -> None:
    positions = PositionKeeper(None, BrokerSettings(), "group", None)  # type: ignore[arg-type]
    lost, flow = ("clicks", 0), Flow()
    positions.answered, positions._unread = {lost: 1}, {lost: 1}
    handled: list[Any] = []

    async def handle(events: Sequence[Any]) -> None:
        handled.extend(events)

    async def run() -> None:
        gate = EventGate(positions, handle, 4, flow)
        for begin in range(0, 4 * HELD_BATCHES, 4):
            assert flow.paused == set()
            some = events_of(1, range(begin, begin + 4))
            await gate.handle(some + events_of(2, range(begin, begin + 1)))
        assert flow.paused == {("clicks", 1)}
        await gate.handle(events_of(0, range(1)))
        assert flow.paused == set()
        assert len(handled) == 5 * HELD_BATCHES + 1

    asyncio.run(run())
