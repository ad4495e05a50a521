"""The trace that a message belongs to: W3C's `traceparent` in its headers, by OpenTelemetry's API.

An app that is traced needs nothing else: `EventProducer` sends the context that is current.
"""

from collections.abc import Iterable, Mapping

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
except ImportError:  # An app that is not traced does not need it.
    propagate = None  # type: ignore[assignment]

Headers = list[tuple[str, str | bytes | None]]
"""As confluent-kafka has them."""


def trace_headers(context: "Context | None" = None) -> Headers:
    """Headers that hand a trace on; none where there is no trace.

    Args:
        context: of OpenTelemetry; None: the current one.
    """
    # Without a trace this costs a third of what an injection of nothing does.
    if propagate is None or not trace.get_current_span(context).get_span_context().is_valid:
        return []
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return [(name, value.encode()) for name, value in carrier.items()]


def read_trace(headers: Iterable[tuple[str, str | bytes | None]]) -> Mapping[str, str]:
    """What headers of a message say, as OpenTelemetry's `propagate.extract` reads it."""
    return {name.lower(): _read_text(value or "") for name, value in headers}


def _read_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
