"""What fails for a while is tried again."""

from __future__ import annotations

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
)

LONGEST_PAUSE_S = 10.0
log = structlog.get_logger()


def retrying(within_s: float, *errors: type[Exception]) -> Retrying:
    """Calls again what raises one of these, with growing pauses and a line in the log.

    After so long the error is raised.
    """
    return Retrying(
        retry=retry_if_exception_type(errors),
        wait=wait_exponential(max=LONGEST_PAUSE_S),
        stop=stop_after_delay(within_s),
        before_sleep=_log_attempt,
        reraise=True,
    )


def _log_attempt(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("tried_again", attempt=state.attempt_number, reason=str(error))
