"""A TCP proxy that slows, holds and cuts connections, in one direction or both."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_CHUNK = 64 * 1024


class ByteFlow:
    """What passes one way: at once, late, or not at all until it is let go."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._open = asyncio.Event()
        self._open.set()

    def hold(self, held: bool) -> None:
        """Let nothing pass, or all again: nothing is lost."""
        if held:
            self._open.clear()
        else:
            self._open.set()

    async def pass_on(self) -> None:
        """Wait until the next bytes may pass."""
        await self._open.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)


class FaultyProxy:
    """Listens on a port of this machine for a server on another one.

    Args:
        port: where it listens.
        target: where the server does.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._requests, self._answers = ByteFlow(), ByteFlow()
        self._connections: set[asyncio.Task[Any]] = set()

    @contextmanager
    def run(self) -> Iterator["FaultyProxy"]:
        """Pass connections on until the end of the block."""
        thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self._port}")
        thread.start()
        server = self._call(asyncio.start_server(self._connect, "127.0.0.1", self._port))
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(server.close)
            self.cut()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    @contextmanager
    def delay(self, seconds: float, inwards: bool) -> Iterator[None]:
        """Let bytes pass so much later, in the block."""
        way = self._way(inwards)
        way.delay_s = seconds
        try:
            yield
        finally:
            way.delay_s = 0.0

    @contextmanager
    def hold(self, inwards: bool) -> Iterator[None]:
        """Let nothing pass one way, in the block; connections stay."""
        way = self._way(inwards)
        self._loop.call_soon_threadsafe(way.hold, True)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(way.hold, False)

    def cut(self) -> None:
        """Break all connections there are."""
        self._call(self._cut())

    def _way(self, inwards: bool) -> ByteFlow:
        return self._requests if inwards else self._answers

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _cut(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there = None
        try:
            with suppress(OSError, asyncio.CancelledError):
                from_server, there = await asyncio.open_connection("127.0.0.1", self._target)
                pumps = [
                    asyncio.create_task(_pump(reader, there, self._requests)),
                    asyncio.create_task(_pump(from_server, writer, self._answers)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._connections.discard(task)
            for each in filter(None, (writer, there)):
                each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: ByteFlow) -> None:
    while chunk := await reader.read(_CHUNK):
        await way.pass_on()
        writer.write(chunk)
        await writer.drain()
