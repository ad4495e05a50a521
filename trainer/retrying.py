"""What fails for a while is tried again."""

from threading import Event

import structlog
import tenacity
from prometheus_client import Counter

LONGEST_PAUSE_S = 10.0
RETRIES = Counter(
    "headwater_trainer_retries_total", "What failed for a while and was tried again", ["reason"]
)
log = structlog.get_logger()


def retrying(
    within_s: float,
    *errors: type[Exception],
    longest_pause_s: float = LONGEST_PAUSE_S,
    told: str = "tried_again",
    stop: Event | None = None,
) -> tenacity.Retrying:
    """Calls again what raises one of these, with growing pauses and a line in the log.

    After so long the error is raised.

    Args:
        told: the name of the line.
        stop: set it, from another thread, to end trying again.
    """
    ended = stop or Event()

    def log_attempt(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        RETRIES.labels(type(error).__name__).inc()
        log.warning(told, attempt=state.attempt_number, reason=str(error))

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_exponential(max=longest_pause_s),
        stop=tenacity.stop_after_delay(within_s) | tenacity.stop_when_event_set(ended),
        sleep=tenacity.sleep_using_event(ended),
        before_sleep=log_attempt,
        reraise=True,
    )
