"""Whether the service may be sent requests: what it lacks before its first answer, and since."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from stream.api.problems import RETRY_S, refuse

LOOK_S = 0.7


class HealthChecks(Protocol):
    """What is known of the service's loops and of what it needs."""

    def stale_loops(self) -> dict[str, str]:
        """The loops that have not turned for too long, and for how long."""

    def missing_parts(self) -> dict[str, str]:
        """What is missing, by name; it may take seconds."""


class Readiness:
    """Says whether the service may be sent requests.

    Attributes:
        starting: what has to be there before the first answer, and is not yet, by name.
    """

    def __init__(self, health: HealthChecks) -> None:
        self.starting = {
            "routing": "it is being read which version answers whom, what trends, and the catalogue"
        }
        self._health = health
        self._was_ready = False
        self._missing = {"servers": "are being looked at"}
        self._looking: asyncio.Task[dict[str, str]] | None = None

    def stale_loops(self) -> Mapping[str, str]:
        """The loops that have not turned for too long: then the service does not live."""
        return self._health.stale_loops()

    def check_started(self) -> None:
        """Refuse a request that comes too early.

        Raises:
            RequestError: it does.
        """
        if self.starting:
            what = "; ".join(f"{name}: {why}" for name, why in self.starting.items())
            raise refuse(
                "unavailable",
                f"the service is starting: {what}",
                "send it again in a moment",
                retry_after=str(RETRY_S),
            )

    async def ask(self) -> tuple[bool, Mapping[str, str]]:
        """Whether it is ready, and what is missing.

        Ready once all was there, and from then on: it answers though a server is away. A service
        that is new and finds no model does not take over from those that have one.
        """
        missing = self.starting or await self._find_missing()
        self._was_ready |= not missing
        return self._was_ready and not self.starting, missing

    async def _find_missing(self) -> Mapping[str, str]:
        """What is missing; what was a moment ago, where a server that hangs holds the look up.

        A prober gives up after a second, and would take the service for one that hangs itself.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(asyncio.to_thread(self._health.missing_parts))
            self._looking.add_done_callback(self._note_missing)
        await asyncio.wait([self._looking], timeout=LOOK_S)
        return self._missing

    def _note_missing(self, looking: asyncio.Task[dict[str, str]]) -> None:
        self._looking = None
        if not looking.cancelled():
            self._missing = looking.result()
