"""Figures as they change: made once for all browsers, and only while somebody looks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic

from headwater_client import encode
from msgspec import Struct

from features.events import current_ms
from stream.api.guard import explain

Sampler = Callable[[], Awaitable[Struct]]
# A session that has ended meanwhile is found when a browser asks again.
STREAM_S = 300.0


class LiveFeed:
    """What browsers follow. Nothing in it is hidden from anyone who may look: no person's id.

    Args:
        samplers: what each area says, by its name.
        every_s: between samples.
    """

    def __init__(self, samplers: Mapping[str, Sampler], every_s: float) -> None:
        self._samplers = samplers
        self._every_s = every_s
        self._watchers = 0
        self._ended = False
        self._wanted = asyncio.Event()
        self._tick = asyncio.Event()
        self._frame = b""

    async def run(self) -> None:
        """Make samples, for ever."""
        while True:
            await self._wanted.wait()
            said = await asyncio.gather(
                *(_ask(name, sampler) for name, sampler in self._samplers.items())
            )
            sample = {"time": current_ms(), **dict(zip(self._samplers, said, strict=True))}
            self._frame = b"data: " + encode(sample) + b"\n\n"
            self._wake()
            await asyncio.sleep(self._every_s)

    async def follow(self) -> AsyncIterator[bytes]:
        """The frames of a stream, which ends after a while; a browser then asks again."""
        until_s = monotonic() + STREAM_S
        # What stands here is as old as the one who looked last.
        frame = self._frame if self._watchers else b""
        self._watchers += 1
        self._wanted.set()
        try:
            yield b"retry: 2000\n\n" + frame
            while monotonic() < until_s:
                await self._tick.wait()
                if self._ended:
                    return
                yield self._frame
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._wanted.clear()

    def close(self) -> None:
        """End all streams."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()


async def _ask(name: str, sampler: Sampler) -> Struct:
    """What an area says, or why it does not: the others are shown all the same."""
    try:
        return await sampler()
    except Exception as error:  # noqa: BLE001 (explained, as to whoever asks for it)
        return explain(error, f"live_{name}").problem
