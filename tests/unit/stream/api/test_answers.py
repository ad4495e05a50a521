"""Requests that arrive together are answered together, and none waits for one that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stream.api import answers
from stream.api.answers import Batching, OverloadedError, RequestBatcher


class Kitchen:
    """Answers batches when it is told to; what it was asked is kept."""

    def __init__(self, size: int, longest_wait_s: float) -> None:
        self.batches: list[list[str]] = []
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None
        self.batcher: RequestBatcher[str, str] = RequestBatcher(
            self._answer, Batching(size, longest_wait_s)
        )

    async def _answer(self, batch: Any) -> None:
        self.batches.append([waiting.question for waiting in batch])
        await self.may_end.wait()
        if self.failure:
            raise self.failure
        for waiting in batch:
            waiting.settle(waiting.question.upper())

    def ask(self, *questions: str) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.batcher.ask(question)) for question in questions]


def run(size: int, longest_wait_s: float, work: Callable[[Kitchen], Awaitable[None]]) -> None:
    async def go() -> None:
        await work(Kitchen(size, longest_wait_s))

    asyncio.run(go())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)


def test_those_who_come_while_a_batch_is_under_way_are_the_next() -> None:
    async def work(kitchen: Kitchen) -> None:
        asked = kitchen.ask("a", "b")
        await settle()
        asked += kitchen.ask("c")
        await settle()
        asked += kitchen.ask("d")
        await settle()
        assert kitchen.batches == [["a", "b"]]
        kitchen.may_end.set()
        assert await asyncio.gather(*asked) == ["A", "B", "C", "D"]
        assert kitchen.batches == [["a", "b"], ["c", "d"]]

    run(8, 60, work)


def test_a_full_batch_waits_for_nothing() -> None:
    async def work(kitchen: Kitchen) -> None:
        asked = kitchen.ask("a")
        await settle()
        asked += kitchen.ask("b", "c", "d")
        await settle()
        assert kitchen.batches == [["a"], ["b", "c"]]
        kitchen.may_end.set()
        assert await asyncio.gather(*asked) == ["A", "B", "C", "D"]

    run(2, 60, work)


def test_nobody_waits_longer_than_the_longest_wait() -> None:
    async def work(kitchen: Kitchen) -> None:
        asked = kitchen.ask("a")
        await settle()
        asked += kitchen.ask("b")
        for _ in range(1000):
            if len(kitchen.batches) == 2:
                break
            await asyncio.sleep(0.005)
        assert kitchen.batches == [["a"], ["b"]]
        kitchen.may_end.set()
        assert await asyncio.gather(*asked) == ["A", "B"]

    run(8, 0.02, work)


def test_who_has_gone_is_not_answered_and_holds_up_nobody() -> None:
    async def work(kitchen: Kitchen) -> None:
        first, gone, last = [*kitchen.ask("a"), *kitchen.ask("b"), *kitchen.ask("c")]
        gone.cancel()
        await settle()
        kitchen.may_end.set()
        assert await asyncio.gather(first, last) == ["A", "C"]
        assert kitchen.batches == [["a", "c"]]

    run(8, 60, work)


def test_a_failure_is_told_to_everyone_in_the_batch_and_the_next_goes_on() -> None:
    async def work(kitchen: Kitchen) -> None:
        kitchen.failure = ValueError("burnt")
        kitchen.may_end.set()
        found = await asyncio.gather(*kitchen.ask("a", "b"), return_exceptions=True)
        assert [repr(each) for each in found] == ["ValueError('burnt')"] * 2
        kitchen.failure = None
        assert await asyncio.gather(*kitchen.ask("c")) == ["C"]

    run(8, 60, work)


def test_a_question_that_cannot_be_answered_fails_by_itself() -> None:
    async def work(kitchen: Kitchen) -> None:
        async def answer(batch: Any) -> None:
            for waiting in batch:
                if waiting.question == "b":
                    raise TypeError("no such dish")
                waiting.settle(waiting.question.upper())

        kitchen.batcher._answer = answer
        found = await asyncio.gather(*kitchen.ask("a", "b", "c"), return_exceptions=True)
        assert [repr(each) for each in found] == ["'A'", "TypeError('no such dish')", "'C'"]

    run(8, 60, work)


def test_too_many_who_wait_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_WAITING", 2)

    async def work(kitchen: Kitchen) -> None:
        found = asyncio.gather(*kitchen.ask("a", "b", "c"), return_exceptions=True)
        await settle()
        kitchen.may_end.set()
        *told, refused = await found
        assert told == ["A", "B"]
        assert isinstance(refused, OverloadedError)

    run(8, 60, work)
