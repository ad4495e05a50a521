"""HTTP requests as fast as they are answered, or at a rate: on connections that stay open."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import numpy as np
from headwater_client.errors import ServerError

_MILLISECONDS = 1e3


@dataclass(frozen=True)
class Target:
    """Where requests go, and with which key."""

    port: int
    secret: str

    def encode(self, path: str, body: Any) -> bytes:
        """A request as it stands on the wire."""
        raw = msgspec.json.encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.secret}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        return head.encode() + raw

    def encode_get(self, path: str) -> bytes:
        """A request that reads, as it stands on the wire; without a key."""
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


@dataclass
class HttpAnswers:
    """What came of requests.

    Attributes:
        seconds: of each, from when it was due to its last byte.
        statuses: how often there was each status.
        fallbacks: answers that no version has made.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    fallbacks: int = 0
    took_s: float = 0.0

    def note(self, seconds: float, status: int, body: bytes) -> None:
        """Count one."""
        self.seconds.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.fallbacks += b'"fallback":true' in body

    def add(self, other: "HttpAnswers") -> None:
        """Count those of another round, too."""
        self.seconds += other.seconds
        self.statuses = dict(Counter(self.statuses) + Counter(other.statuses))
        self.fallbacks += other.fallbacks
        self.took_s += other.took_s

    @property
    def requests_per_second(self) -> float:
        """How many were answered in a second."""
        return len(self.seconds) / self.took_s

    def summarise(self) -> dict[str, Any]:
        """The figures."""
        if set(self.statuses) != {200}:
            raise ServerError(f"the service has answered {self.statuses}")
        p50, p99 = (float(v) for v in np.percentile(self.seconds, (50, 99)) * _MILLISECONDS)
        return {
            "requests_per_second": self.requests_per_second,
            "p50_ms": p50,
            "p99_ms": p99,
            "requests": len(self.seconds),
            "fallbacks": self.fallbacks,
        }


async def send_all(
    target: Target, requests: Sequence[bytes], seconds: float, connections: int, rate: float | None
) -> HttpAnswers:
    """Send requests again and again for so long.

    Args:
        rate: requests a second, each due at its time however long those before take; None: the
            next on a connection once the one before is answered.
    """
    answers, begin = HttpAnswers(), time.perf_counter()
    due: Iterator[float] = (
        itertools.repeat(0.0) if rate is None else (begin + n / rate for n in itertools.count())
    )
    turns = itertools.cycle(requests)

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        try:
            while (now_s := time.perf_counter()) < begin + seconds:
                at_s = max(next(due), now_s if rate is None else 0.0)
                if at_s >= begin + seconds:
                    return
                await asyncio.sleep(max(0.0, at_s - now_s))
                writer.write(next(turns))
                status, body = await _read_answer(reader)
                answers.note(time.perf_counter() - at_s, status, body)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    answers.took_s = time.perf_counter() - begin
    return answers


def wait_until_answered(ask: Callable[[], Any], seconds: float, otherwise: str) -> None:
    """Wait until a service that starts answers with something true.

    Raises:
        ServerError: it does not in time; `otherwise` says so.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ask():
                return
        except httpx.HTTPError:
            # Not yet.
            pass
        time.sleep(0.2)
    raise ServerError(f"{otherwise} in {seconds:.0f} s")


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
