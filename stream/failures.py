"""What a worker does about failures: wait for a server that is away, or end the process."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import structlog
from headwater_client import HeadwaterError, ServerError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from features.positions import PositionError
from features.store import StoreRestartedError
from stream import metrics

log = structlog.get_logger()
EXIT_FAILED = 70
_EXCUSE_S = 1.0


def retry_while_unavailable() -> AsyncRetrying:
    """Try again in place for as long as a server is away: consumption pauses, nothing is lost."""
    return AsyncRetrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential_jitter(initial=0.1, max=5),
        before_sleep=_count_retry,
        reraise=True,
    )


def is_transient(error: BaseException) -> bool:
    """Whether to try again in place: a server is away, and what was written is still there."""
    ends = (StoreRestartedError, PositionError)
    return isinstance(error, ServerError) and not isinstance(error, ends)


def _count_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    metrics.RETRIES.labels(getattr(error, "reason", type(error).__name__)).inc()
    log.warning("waiting_for_server", attempt=state.attempt_number, error=str(error))


def critical_task(work: Callable[[], Awaitable[None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """The work as a background task whose failure ends the process instead of being forgotten."""

    async def run() -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  (handed on: it ends the process)
            await end_process(error)

    return run


excuses: list[Callable[[], Awaitable[None]]] = []
"""What is done before the process ends over a server or a setting, and not over a message."""


async def end_process(error: BaseException) -> NoReturn:
    """End at once, as `exit_process`; what no message is to blame for is not put down to one."""
    if isinstance(error, HeadwaterError):
        for excuse in excuses:
            with suppress(Exception):
                async with asyncio.timeout(_EXCUSE_S):
                    await excuse()
    exit_process(error)


def exit_process(error: BaseException) -> NoReturn:
    """End at once: whatever ran on could commit events that this failure has left open.

    Nothing is lost: what is not committed is read again, and rows skip events that they contain.
    """
    if isinstance(error, HeadwaterError):
        log.error("worker_ends", error=str(error))
    else:
        log.error("worker_ends", error=repr(error), exc_info=error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)
