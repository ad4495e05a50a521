"""Tries again in place while a server is away."""

from __future__ import annotations

import structlog
from headwater_client.errors import ServerError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from features.store import StoreRestartedError
from stream import metrics

log = structlog.get_logger()


def is_passing(error: BaseException) -> bool:
    """Whether to try again in place: a server is away, and what was written is still there."""
    return isinstance(error, ServerError) and not isinstance(error, StoreRestartedError)


def patiently() -> AsyncRetrying:
    """Tries again in place for as long as a server is away: consumption pauses, nothing is lost."""
    return AsyncRetrying(
        retry=retry_if_exception(is_passing),
        wait=wait_exponential_jitter(initial=0.1, max=5),
        before_sleep=_warn,
        reraise=True,
    )


def _warn(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    metrics.RETRIES.labels(type(error).__name__).inc()
    log.warning("waiting_for_server", attempt=state.attempt_number, error=str(error))
