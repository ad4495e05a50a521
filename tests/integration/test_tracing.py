"""A trace goes from an app through the API, Kafka and a worker to the recommendation."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import Consumer, Message
from headwater_client import EventProducer
from headwater_client.topics import RECOMMENDATIONS
from headwater_client.tracing import read_trace
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from features.kafka import client_config
from tests.harness.api_service import Service, serving_api
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OTHER = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Collector:
    """What takes traces by OTLP over HTTP, as any collector does."""

    url: str
    spans: list[tuple[str, Span]] = field(default_factory=list)

    def find(self, service: str, name: str, trace_id: str | None = None) -> list[Span]:
        """The spans of a name, of one trace or of all."""
        wanted = None if trace_id is None else bytes.fromhex(trace_id)
        return [
            span
            for told, span in list(self.spans)
            if (told, span.name) == (service, name) and wanted in (None, span.trace_id)
        ]

    def wait_for(self, service: str, name: str, trace_id: str) -> Span:
        wait_until(lambda: bool(self.find(service, name, trace_id)), 20)
        return self.find(service, name, trace_id)[0]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            for group in ExportTraceServiceRequest.FromString(raw).resource_spans:
                about = {each.key: each.value.string_value for each in group.resource.attributes}
                told = [span for scope in group.scope_spans for span in scope.spans]
                found.spans.extend((about["service.name"], span) for span in told)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield found
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with serving_api(tmp_path_factory.mktemp("traced")) as service:
            yield service


def read_answer(service: Service, event_id: str) -> Message:
    """The message of the recommendation that an event led to."""
    config = client_config(service.settings.kafka)
    consumer = Consumer({**config, "group.id": event_id, "auto.offset.reset": "earliest"})
    consumer.subscribe([RECOMMENDATIONS])
    found: list[Message] = []

    def look() -> bool:
        message = consumer.poll(1.0)
        if message is not None and event_id.encode() in (message.value() or b""):
            found.append(message)
        return bool(found)

    try:
        wait_until(look, 30)
    finally:
        consumer.close()
    return found[0]


def ids_of(links: Sequence[Span.Link]) -> list[bytes]:
    return [link.span_id for link in links]


def test_a_request_is_traced_from_the_app_to_its_recommendation(
    service: Service, collector: Collector
) -> None:
    event = {"type": "click", "event_id": "traced", "user_id": "ann", "item_id": "i1"}
    request = urllib.request.Request(
        f"{service.url}/v1/events",
        json.dumps(event).encode(),
        {
            "Authorization": f"Bearer {service.secret}",
            "Content-Type": "application/json",
            "traceparent": f"00-{TRACE}-{SPAN}-01",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200

    handed_on = read_trace(read_answer(service, "traced").headers() or [])["traceparent"]
    taken = collector.wait_for("headwater-api", "send_events", TRACE)
    answered = collector.wait_for("headwater-worker", "recommend", TRACE)
    assert taken.parent_span_id.hex() == SPAN
    assert answered.parent_span_id == taken.span_id
    assert handed_on == f"00-{TRACE}-{answered.span_id.hex()}-01"
    assert answered.start_time_unix_nano < answered.end_time_unix_nano

    (linked,) = answered.links
    batch = collector.wait_for("headwater-worker", "process events", linked.trace_id.hex())
    assert taken.span_id in ids_of(batch.links)
    for part in ("absorb", "answer", "ModelInfer", "deliver"):
        collector.wait_for("headwater-worker", part, linked.trace_id.hex())


def test_what_a_traced_app_sends_by_kafka_is_in_its_trace_and_nothing_else_is_traced(
    service: Service, collector: Collector
) -> None:
    before = len(collector.find("headwater-worker", "process events"))
    context = trace.SpanContext(int(OTHER, 16), int(SPAN, 16), is_remote=False, trace_flags=1)
    with EventProducer(service.settings.kafka.client_settings) as producer:
        plain = producer.click(user_id="bob", item_id="i2")
        producer.flush()
        assert not read_answer(service, plain.event_id).headers()
        assert len(collector.find("headwater-worker", "process events")) == before
        with trace.use_span(trace.NonRecordingSpan(context)):
            traced = producer.click(user_id="bob", item_id="i3")
    headers = read_trace(read_answer(service, traced.event_id).headers() or [])
    assert headers["traceparent"].startswith(f"00-{OTHER}-")
    answered = collector.wait_for("headwater-worker", "recommend", OTHER)
    assert answered.parent_span_id.hex() == SPAN
