"""Sends traces to a collector, as OpenTelemetry's own variables (`OTEL_*`) say."""

import os
from importlib.metadata import entry_points, version

from headwater_client.errors import SettingsError
from opentelemetry import trace
from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from structlog.typing import EventDict, WrappedLogger

_GROUP = "opentelemetry_traces_exporter"
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def begin_tracing(process: str) -> None:
    """Trace this process, if `OTEL_TRACES_EXPORTER` or an endpoint of OTLP is set.

    Sampling, limits, batches, and what the exporter connects to are the SDK's own settings.

    Args:
        process: `worker`: the service is `headwater-worker`; `OTEL_SERVICE_NAME` names another.

    Raises:
        SettingsError: there is no such exporter.
    """
    exporters = [_make_exporter(name) for name in _exporter_names()]
    if not exporters:
        return
    resource = Resource.create({SERVICE_VERSION: version("headwater")})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: f"headwater-{process}"}))
    provider = TracerProvider(resource=resource)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _exporter_names() -> list[str]:
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return []
    endpoints = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
    default = "otlp" if any(map(os.environ.get, endpoints)) else ""
    given = os.environ.get(OTEL_TRACES_EXPORTER) or default
    names = [name.strip() for name in given.split(",")]
    return [name for name in names if name not in ("", "none")]


def _make_exporter(name: str) -> SpanExporter:
    """The exporter of a name, as the package that has it calls it."""
    wanted = name
    if name == "otlp":
        variables = (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL)
        given = next(filter(None, map(os.environ.get, variables)), "http/protobuf")
        wanted = _PROTOCOLS.get(given, given)
    for found in entry_points(group=_GROUP, name=wanted):
        exporter: SpanExporter = found.load()()
        return exporter
    known = ", ".join(sorted({each.name for each in entry_points(group=_GROUP)}))
    raise SettingsError(
        f"{OTEL_TRACES_EXPORTER} = {name!r}: no package here has exporter {wanted}: there are "
        f"{known}, and none"
    )


def add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the trace that a line of a log belongs to: a processor of structlog's."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event
