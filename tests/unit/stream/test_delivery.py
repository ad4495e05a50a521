"""An offset is committed once all that its event led to is delivered and on disk."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from faust.types import TP
from headwater_client.errors import ServerError

from stream.pipeline import Commits


class World:
    """A producer, a store and a consumer that write down what is asked of them, in order."""

    def __init__(self, *, durable_after: int = 0, fails: bool = False) -> None:
        self.asked: list[object] = []
        self.consumer = self
        self._durable_after = durable_after
        self._fails = fails

    async def flush(self) -> None:
        self.asked.append("flush")
        if self._fails:
            raise ServerError("Kafka does not take a message")

    async def wait_until_durable(self, timeout_ms: int) -> bool:
        self.asked.append("durable")
        self._durable_after -= 1
        return self._durable_after < 0

    async def _commit(self, offsets: dict[TP, int]) -> None:
        self.asked.append(dict(offsets))


def commits(world: World) -> Commits:
    return Commits(world, world, world, interval_s=1.0)  # type: ignore[arg-type]


def events(*offsets: int, topic: str = "clicks") -> list[SimpleNamespace]:
    tp = TP(topic, 0)
    return [SimpleNamespace(message=SimpleNamespace(tp=tp, offset=offset)) for offset in offsets]


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
    assert world.asked == ["flush", "durable", "durable", "durable", committed]


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
