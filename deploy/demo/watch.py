"""Watches what the demo started: servers that die, a worker that gives up, events still open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.topics import DEAD_LETTERS, ITEMS

from deploy import local
from deploy.services.lag import Lag
from deploy.settings import Settings

_EVERY_S = 0.5


class Watch:
    """Looks every half second, in a thread of its own.

    Args:
        check_worker: raises once the worker is given up.
    """

    def __init__(self, settings: Settings, check_worker: Callable[[], None]) -> None:
        self._settings = settings
        self._check_worker = check_worker
        self._lag = Lag(settings.kafka, settings.worker.group, [*EVENT_TYPES.topics, ITEMS])
        self._letters = Lag(settings.kafka, "headwater-demo", [DEAD_LETTERS], partitions=1)
        self._ending = threading.Event()
        self._behind: int | None = None
        self._looks = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.dead_letters = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._lag.close()
        self._letters.close()

    def check(self) -> None:
        """Raise what was found wrong.

        Raises:
            ServerError: a server died, or the worker was given up.
        """
        if self._failure is not None:
            raise self._failure

    def wait(self, meanwhile: Callable[[], object] = lambda: time.sleep(_EVERY_S)) -> None:
        """Wait until all that was sent before this call is committed.

        Raises:
            ServerError: as `check`.
        """
        looks = self._looks
        # A look that was under way at the call does not count: so two more.
        while self._looks < looks + 2 or self._behind != 0:
            meanwhile()
            self.check()

    def _watch(self) -> None:
        while not self._ending.wait(_EVERY_S):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 (`check` raises it in the main thread)
                self._failure = error
                return

    def _look(self) -> None:
        self._check_worker()
        for server in local.status(self._settings):
            if not server.healthy:
                log = local.log_path(self._settings, server.name)
                raise ServerError(f"{server.name} died: see {log}")
        self._behind = self._lag.count_uncommitted()
        self.dead_letters = self._letters.count_uncommitted() or 0
        self._looks += 1
