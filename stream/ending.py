"""Ends a worker that must not go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

import structlog
from headwater_client.errors import HeadwaterError

log = structlog.get_logger()
EXIT_FAILED = 70


def end_process(error: BaseException) -> NoReturn:
    """End at once: whatever ran on could commit events that this failure has left open.

    Nothing is lost: what is not committed is read again, and rows skip what they have absorbed.
    """
    if isinstance(error, HeadwaterError):
        log.error("worker_ends", error=str(error))
    else:
        log.error("worker_ends", error=repr(error), exc_info=error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def forever(work: Callable[[], Awaitable[None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """The work as a background task whose failure ends the process instead of being forgotten."""

    async def run() -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  (handed on: it ends the process)
            end_process(error)

    return run
