"""What the transports share: a request is counted, timed, and has an answer or a problem."""

import os
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import TypeVar

import structlog
from headwater_client import EventError, HeadwaterError
from headwater_client.errors import mask_logins
from prometheus_client import Counter, Histogram

from stream.api import problems
from stream.api.problems import RequestError, refuse
from stream.tracing import trace_request

REQUESTS = Counter(
    "headwater_api_requests_total", "Requests by operation and status", ["operation", "status"]
)
SECONDS = Histogram(
    "headwater_api_request_seconds",
    "Wall time of a request, from its first byte read to its answer",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
log = structlog.get_logger()
AnswerT = TypeVar("AnswerT")


def explain(error: Exception, operation: str) -> RequestError:
    """The refusal that an error becomes: the caller's fault, a server's that is away, or ours."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EventError):
        return RequestError(problems.describe_field(error))
    if isinstance(error, HeadwaterError | TimeoutError):
        log.warning("api_server_away", operation=operation, error=str(error))
        what = str(error) or "a server does not answer in time"
        wait = str(problems.RETRY_S)
        return refuse("unavailable", what, "send it again in a moment", retry_after=wait)
    reference = os.urandom(4).hex()
    text = mask_logins(f"{type(error).__name__}: {error}")
    log.error("unexpected_error", reference=reference, what=text, exc_info=error)
    return refuse("unexpected", f"its trace is {reference} in the service's log")


async def observe(
    operation: str,
    work: Awaitable[AnswerT],
    headers: Mapping[str, str],
    status_of: Callable[[AnswerT], int] = lambda _: 200,
) -> AnswerT:
    """The answer to a request, counted, timed and traced.

    Args:
        headers: of the request, by their names in lower case.

    Raises:
        RequestError: whatever came in its way.
    """
    # 499, as nginx has it: the caller went before the answer, and the work was cancelled.
    begin, status = perf_counter(), 499
    with trace_request(operation, headers) as span:
        try:
            answer = await work
            status = status_of(answer)
            return answer
        except Exception as error:
            refusal = explain(error, operation)
            status = refusal.problem.status
            raise refusal from error
        finally:
            span.set_attribute("http.response.status_code", status)
            REQUESTS.labels(operation, status).inc()
            SECONDS.labels(operation).observe(perf_counter() - begin)
