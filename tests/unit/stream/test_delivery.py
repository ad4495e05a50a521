"""An offset is committed once all that its event led to is delivered and on disk."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from faust.types import TP
from headwater_client.errors import ServerError

from stream import metrics
from stream.pipeline import Commits


class World:
    """A producer, a store and a consumer that write down what is asked of them, in order."""

    def __init__(self, *, durable_after: int = 0, fails: bool = False, refusals: int = 0) -> None:
        self.asked: list[object] = []
        self.consumer = self
        self.assigned = {TP("clicks", 0), TP("items", 0)}
        self.answered: dict[tuple[str, int], int] = {}
        self._durable_after = durable_after
        self._fails = fails
        self._refusals = refusals

    def assignment(self) -> set[TP]:
        return self.assigned

    async def move(self, done: dict[TP, tuple[int, int]]) -> None:
        self.asked.append(("move", dict(done)))

    async def flush(self) -> None:
        self.asked.append("flush")
        if self._fails:
            raise ServerError("Kafka does not take a message")

    async def wait_until_durable(self, timeout_ms: int) -> bool:
        self.asked.append("durable")
        self._durable_after -= 1
        return self._durable_after < 0

    async def _commit(self, offsets: dict[TP, int]) -> bool:
        self.asked.append(dict(offsets))
        self._refusals -= 1
        return self._refusals < 0


def commits(world: World) -> Commits:
    return Commits(world, world, world, world, interval_s=1.0)  # type: ignore[arg-type]


def events(*offsets: int, topic: str = "clicks") -> list[SimpleNamespace]:
    tp = TP(topic, 0)
    return [
        SimpleNamespace(message=SimpleNamespace(tp=tp, offset=offset, timestamp=offset / 1000))
        for offset in offsets
    ]


def test_what_is_done_is_committed_after_delivery_and_disk_and_only_once() -> None:
    world = World(durable_after=2)
    found = commits(world)
    found.mark_done(events(3, 4))
    found.mark_done(events(7, topic="items"))  # type: ignore[arg-type]

    async def commit_twice() -> None:
        await found.commit()
        await found.commit()

    asyncio.run(commit_twice())
    # What Kafka wants is the offset to read next.
    committed = {TP("clicks", 0): 5, TP("items", 0): 8}
    # The store learns it with the time of the last message, before the wait for its disk.
    moved = {TP("clicks", 0): (5, 4), TP("items", 0): (8, 7)}
    assert world.asked == ["flush", ("move", moved), "durable", "durable", "durable", committed]


def test_nothing_is_committed_where_a_message_cannot_be_delivered() -> None:
    world = World(fails=True)
    found = commits(world)
    found.mark_done(events(3))  # type: ignore[arg-type]
    with pytest.raises(ServerError):
        asyncio.run(found.commit())
    assert world.asked == ["flush"]


def test_a_quiet_worker_asks_nothing() -> None:
    world = World()
    asyncio.run(commits(world).commit())
    assert world.asked == []


def test_a_commit_that_kafka_refuses_is_made_again_and_not_reported() -> None:
    world = World(refusals=1)
    found = commits(world)
    gauge = metrics.COMMITTED_OFFSET.labels("clicks", 0)
    gauge.set(0)
    found.mark_done(events(3))  # type: ignore[arg-type]
    asyncio.run(found.commit())
    assert gauge._value.get() == 0
    asyncio.run(found.commit())
    assert gauge._value.get() == 4
    assert [each for each in world.asked if isinstance(each, dict)] == 2 * [{TP("clicks", 0): 4}]


def test_what_was_done_of_a_partition_that_others_have_is_theirs_to_commit() -> None:
    world = World()
    found = commits(world)
    found.mark_done(events(3, 4))  # type: ignore[arg-type]
    found.mark_done(events(7, topic="items"))  # type: ignore[arg-type]
    world.assigned = {TP("items", 0)}
    asyncio.run(found.commit())
    assert world.asked[-1] == {TP("items", 0): 8}


def test_what_is_read_again_moves_the_store_and_not_the_group() -> None:
    world = World()
    world.answered = {("clicks", 0): 9}
    found = commits(world)
    found.mark_done(events(3))  # type: ignore[arg-type]
    asyncio.run(found.commit())
    assert world.asked == ["flush", ("move", {TP("clicks", 0): (4, 3)}), "durable"]
    found.mark_done(events(8))  # type: ignore[arg-type]
    asyncio.run(found.commit())
    assert world.asked[-1] == {TP("clicks", 0): 9}
