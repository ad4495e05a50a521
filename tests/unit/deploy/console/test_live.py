"""Figures are made once for all who look, and not at all while nobody does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from headwater_client.errors import ServerError
from msgspec import Struct

from deploy.console.live import LiveFeed


class Sample(Struct):
    events: int


class Counted:
    """A sampler that counts how often it is asked, and may fail."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked = 0
        self._failure = failure

    async def __call__(self) -> Sample:
        self.asked += 1
        if self._failure:
            raise self._failure
        return Sample(self.asked)


async def take(stream: AsyncIterator[bytes], count: int) -> list[Any]:
    """So many samples of a stream."""
    found: list[Any] = []
    async for chunk in stream:
        lines = chunk.decode().splitlines()
        found += [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        if len(found) >= count:
            break
    return found


def run(feed: LiveFeed, work: Any) -> Any:
    async def all_of_it() -> Any:
        running = asyncio.create_task(feed.run())
        try:
            return await asyncio.wait_for(work(), 20)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    return asyncio.run(all_of_it())


def test_all_who_look_are_told_the_same() -> None:
    now = Counted()
    feed = LiveFeed({"now": now}, 0.01)

    async def work() -> list[list[Any]]:
        return await asyncio.gather(*(take(feed.follow(), 3) for _ in range(10)))

    told = run(feed, work)
    assert all(each == told[0] for each in told)
    assert [each["now"]["events"] for each in told[0]] == [1, 2, 3]
    assert now.asked <= 5


def test_nothing_is_made_while_nobody_looks() -> None:
    now = Counted()
    feed = LiveFeed({"now": now}, 0.001)

    async def work() -> None:
        await asyncio.sleep(0.05)
        assert now.asked == 0
        stream = feed.follow()
        await take(stream, 1)
        await stream.aclose()  # type: ignore[attr-defined]
        asked = now.asked
        await asyncio.sleep(0.05)
        assert now.asked <= asked + 1

    run(feed, work)


def test_what_fails_is_told_beside_the_rest() -> None:
    feed = LiveFeed({"now": Counted(), "other": Counted(ServerError("Kafka: away"))}, 0.01)

    async def work() -> list[Any]:
        return await take(feed.follow(), 1)

    (told,) = run(feed, work)
    assert told["now"]["events"] == 1
    assert (told["other"]["status"], told["other"]["detail"]) == (503, "Kafka: away")


def test_all_streams_end_when_the_console_does() -> None:
    feed = LiveFeed({"now": Counted()}, 0.01)

    async def work() -> int:
        async def follow() -> int:
            return sum([1 async for _ in feed.follow()])

        following = [asyncio.create_task(follow()) for _ in range(3)]
        await asyncio.sleep(0.05)
        feed.close()
        return min(await asyncio.gather(*following))

    assert run(feed, work) >= 1
