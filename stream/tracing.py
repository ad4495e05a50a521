"""What workers and the API tell OpenTelemetry; nothing where no exporter is set.

A worker answers events in batches, so an event's trace and its batch's are two, linked both ways:
the event's has a span from its arrival to its recommendation, and the batch's has the spans of
store and Triton, which many events share. A batch that no app traces has no span.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from headwater_client.events import Recommendation
from headwater_client.tracing import Headers, read_trace, trace_headers
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
)

_TRACER = trace.get_tracer("headwater")
_NANOSECONDS = 1_000_000
"""A millisecond."""


def find_sender(headers: Any) -> SpanContext | None:
    """The span that a message was sent in, by its headers; None for none."""
    if not headers:
        return None
    carrier = read_trace(headers.items() if isinstance(headers, Mapping) else headers)
    found = trace.get_current_span(propagate.extract(carrier, Context())).get_span_context()
    return found if found.is_valid else None


@contextmanager
def trace_batch(senders: Sequence[SpanContext | None]) -> Iterator[None]:
    """A span for what is done to a batch, where an app traces one of its events.

    Args:
        senders: in which span each was sent.
    """
    links = [Link(each) for each in senders if each is not None and each.trace_flags.sampled]
    if not links:
        yield
        return
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.batch.message_count": len(senders),
    }
    with _TRACER.start_as_current_span(
        "process events", Context(), SpanKind.CONSUMER, attributes, links
    ):
        yield


@contextmanager
def trace_part(
    name: str, kind: SpanKind = SpanKind.INTERNAL, **attributes: str | int
) -> Iterator[None]:
    """A span within the current one, if there is one."""
    # Of a batch that is answered later, too: its own span has ended by then.
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        yield
        return
    with _TRACER.start_as_current_span(name, kind=kind, attributes=attributes):
        yield


def trace_answer(
    sender: SpanContext | None, arrived_ms: int | None, answer: Recommendation
) -> Headers:
    """Tell of an event's answer, in the trace of who sent the event.

    Args:
        sender: in which the event was sent; None: nobody traces it.
        arrived_ms: when Kafka took the event; None: now.

    Returns:
        Headers that hand the trace on to whoever reads the answer.
    """
    if sender is None:
        return []
    batch = trace.get_current_span().get_span_context()
    within = trace.set_span_in_context(NonRecordingSpan(sender), Context())
    span = _TRACER.start_span(
        "recommend",
        within,
        SpanKind.PRODUCER,
        {
            "messaging.system": "kafka",
            "headwater.recommendation_id": answer.recommendation_id,
            "headwater.model_version": answer.model_version,
            "headwater.variant": answer.variant,
            "headwater.fallback": answer.fallback,
        },
        [Link(batch)] if batch.is_valid else [],
        None if arrived_ms is None else arrived_ms * _NANOSECONDS,
    )
    headers = trace_headers(trace.set_span_in_context(span, within))
    span.end()
    return headers


@contextmanager
def trace_request(operation: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """A span for a request, in the trace of who asks.

    Args:
        headers: of the request, by their names in lower case.
    """
    is_off = isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
    if is_off and "traceparent" not in headers:
        yield trace.INVALID_SPAN
        return
    within = propagate.extract(headers, Context())
    with _TRACER.start_as_current_span(operation, within, SpanKind.SERVER) as span:
        yield span
