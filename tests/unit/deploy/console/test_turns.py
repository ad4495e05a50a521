"""Threads whose work nobody waits for any more keep their turn until they are done."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from deploy.console.parts import ThreadTurns


def test_who_gives_up_makes_no_room_for_another_thread() -> None:
    most, at_once, go_on = 0, 0, threading.Event()
    lock = threading.Lock()

    def work() -> str:
        nonlocal most, at_once
        with lock:
            at_once += 1
            most = max(most, at_once)
        go_on.wait(10)
        with lock:
            at_once -= 1
        return "done"

    async def reload() -> str:
        turns = ThreadTurns(2)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await turns.run(work)
        go_on.set()
        return await turns.run(work)

    assert asyncio.run(reload()) == "done"
    assert most == 2


def test_what_a_thread_raises_is_raised() -> None:
    def fail() -> None:
        time.sleep(0.01)
        raise ValueError("told")

    async def ask() -> None:
        turns = ThreadTurns(1)
        for _ in range(2):
            with pytest.raises(ValueError, match="told"):
                await turns.run(fail)

    asyncio.run(ask())
