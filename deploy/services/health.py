"""Whether a service lives and is ready: /livez and /readyz beside /metrics, on the metrics port.

A service lives while its loops turn. It is ready once nothing is missing that it needs to do its
work: what is missing stands in the answer, which has status 503 then. What is missing is no reason
to start a service again, so only /livez is for a liveness probe.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from typing import cast

from headwater_client.errors import HeadwaterError, SettingsError
from prometheus_client import MetricsHandler

from deploy import local
from deploy.settings import Settings
from features.rollout_messages import Variant
from features.settings import StoreSettings
from features.store import USERS, VERSION, RowRead
from features.store.redis import RedisRowStore
from stream.routing import Routes

STALE_S = 30.0
ANSWER_S = 3.0

MissingPart = Callable[[], str]
"""What a service is not ready for, in one line; "" where nothing is missing. Asked from a thread
of its own, so that a loop that hangs does not hang the answer."""


class ServiceHealth:
    """What is known of a service's loops and of what it needs.

    Args:
        parts: what it is asked for /readyz, by name.
        clock: seconds, never going back.
    """

    def __init__(
        self, parts: Mapping[str, MissingPart], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._turned_s: dict[str, float] = {}
        self._busy: set[str] = set()

    def turn(self, loop: str = "loop") -> None:
        """A loop has turned."""
        self._turned_s[loop] = self._clock()

    @contextmanager
    def busy(self, loop: str) -> Iterator[None]:
        """For the block, a loop is known to turn later: it computes."""
        self._busy.add(loop)
        try:
            yield
        finally:
            self._busy.discard(loop)
            self.turn(loop)

    def stale_loops(self) -> dict[str, str]:
        """The loops that have not turned for too long, and for how long."""
        ages = {name: self._clock() - turned for name, turned in list(self._turned_s.items())}
        return {
            name: f"has not turned for {age:.0f} s"
            for name, age in ages.items()
            if age > STALE_S and name not in self._busy
        }

    def missing_parts(self) -> dict[str, str]:
        """What the service is not ready for, by name; all that hangs, too."""
        # At the same time: a server that sleeps is waited for, and a probe does not wait long.
        with ThreadPoolExecutor(len(self._parts) or 1) as pool:
            asked = list(pool.map(lambda ask: ask(), self._parts.values()))
        found = dict(zip(self._parts, asked, strict=True))
        return {name: missing for name, missing in found.items() if missing} | self.stale_loops()


class HealthServer(ThreadingHTTPServer):
    """Answers on one port, of an IPv4 or an IPv6 address.

    Raises:
        OSError: it cannot listen there.
    """

    daemon_threads = True

    def __init__(self, address: str, port: int, health: ServiceHealth) -> None:
        self.health = health
        self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((address, port), HealthHandler)


class HealthHandler(MetricsHandler):
    """Answers /livez and /readyz; anything else as prometheus_client does, with metrics."""

    def do_GET(self) -> None:  # noqa: N802  (http.server's name)
        """Answer a request."""
        health = cast("HealthServer", self.server).health
        match self.path.partition("?")[0]:
            case "/livez":
                self._answer("live", health.stale_loops())
            case "/readyz":
                self._answer("ready", health.missing_parts())
            case _:
                super().do_GET()

    def _answer(self, name: str, missing: Mapping[str, str]) -> None:
        body = json.dumps({name: not missing, "missing": missing}).encode() + b"\n"
        self.send_response(503 if missing else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve_health(section: str, port: int, address: str, health: ServiceHealth) -> Iterator[None]:
    """Serve a service's metrics and health for the block; nothing where the port is 0.

    Args:
        section: of the settings that have the port.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    if not port:
        yield
        return
    try:
        server = HealthServer(address, port, health)
    except OSError as error:
        raise SettingsError(
            f"{section}.metrics_port: {address} port {port}: {error.strerror or error}: choose "
            "another, or 0 for none"
        ) from error
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def ask_servers(settings: Settings, *names: str) -> dict[str, MissingPart]:
    """Parts that are missing while a server, which every client needs, does not answer."""
    return {name: partial(local.find_ailment, settings, name) for name in names}


def store_problem(settings: StoreSettings) -> str:
    """Why rows cannot be read; "" where they can."""

    async def read() -> None:
        store = RedisRowStore(settings)
        try:
            async with asyncio.timeout(ANSWER_S):
                await store.read([RowRead(USERS, "headwater:probe", (VERSION,))])
        finally:
            await store.close()

    try:
        asyncio.run(read())
    except HeadwaterError as error:
        return " ".join(str(error).split())
    except TimeoutError:
        return f"the store at {settings.address} does not answer in {ANSWER_S:.0f} s"
    return ""


def routing_problem(routes: Routes) -> str:
    """Why no version answers; "" where one does."""
    if routes.stable is not None:
        return ""
    problem = routes.problems.get(Variant.STABLE)
    return problem or "no version is routed: train one: headwater train"
