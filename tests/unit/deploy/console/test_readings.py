"""Metrics of real endpoints become readings; counters become what happened since."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from deploy.console.figures import make_latency
from deploy.console.readings import (
    BEGAN,
    CounterWatch,
    PrometheusReader,
    Reading,
    TargetReader,
    find_figures,
    read_text,
    sum_counters,
)

Answer = Callable[[str, str], tuple[int, bytes]]


@contextmanager
def endpoint(answer: Answer) -> Iterator[str]:
    """An HTTP server: given the path and the header `Authorization`, its status and its body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def worker() -> tuple[CollectorRegistry, Counter, Histogram]:
    registry = CollectorRegistry()
    events = Counter("headwater_events_total", "read", ["topic"], registry=registry)
    seconds = Histogram(
        "headwater_event_to_answer_seconds", "time", buckets=(0.1, 1.0), registry=registry
    )
    Counter("python_other_total", "of no interest", registry=registry).inc()
    return registry, events, seconds


def say(count: float, began_s: float | None = None, process: str = "w") -> list[Reading]:
    reading = Reading(process, "headwater_events_total", {"topic": "clicks"}, count)
    began = [] if began_s is None else [Reading(process, BEGAN, {}, began_s)]
    return [*began, reading]


def test_a_target_is_read_as_prometheus_reads_it(
    worker: tuple[CollectorRegistry, Counter, Histogram],
) -> None:
    registry, events, seconds = worker
    events.labels('a "b" \\ {c}').inc(3)
    seconds.observe(0.5)
    own = CollectorRegistry()
    with endpoint(lambda *_: (200, generate_latest(registry))) as url:
        said = TargetReader({"worker": f"{url}/metrics"}, None, own).read()
    assert said.problems == {"worker": ""}
    totals = sum_counters(said.samples)
    assert find_figures(totals, "events") == {('a "b" \\ {c}',): 3.0}
    assert find_figures(totals, "answer_seconds") == {("0.1",): 0.0, ("1.0",): 1.0, ("+Inf",): 1.0}
    assert {each.process for each in said.samples} == {"worker"}


def test_a_quantile_lies_in_its_bucket_though_all_below_are_empty(
    worker: tuple[CollectorRegistry, Counter, Histogram],
) -> None:
    registry, _, seconds = worker
    watch, reader = CounterWatch(), TargetReader({}, None, registry)
    watch.take(reader.read().samples)
    assert watch.take(reader.read().samples) == {}
    for _ in range(4):
        seconds.observe(0.5)
    grown = watch.take(reader.read().samples)
    assert find_figures(grown, "answer_seconds") == {("0.1",): 0.0, ("1.0",): 4.0, ("+Inf",): 4.0}
    # From .1 to 1 they lie evenly: not from 0 on.
    assert make_latency(grown).p50_ms == pytest.approx(550.0)


def test_this_process_is_read_from_memory(
    worker: tuple[CollectorRegistry, Counter, Histogram],
) -> None:
    registry, events, _ = worker
    events.labels("clicks").inc(2)
    said = TargetReader({}, None, registry).read()
    assert find_figures(sum_counters(said.samples), "events") == {("clicks",): 2.0}


def test_a_target_is_asked_with_the_key() -> None:
    heard = []
    with endpoint(lambda _, key: (heard.append(key), (200, b""))[1]) as url:
        TargetReader({"api": f"{url}/metrics"}, "hw_secret", CollectorRegistry()).read()
    assert heard == ["Bearer hw_secret"]


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b"", "Unauthorized"),
        (500, b"", "Internal Server Error"),
        (200, b"headwater_events_total{topic=clicks} many\n", "answers no metrics"),
        (200, b"\xff\xfe", "answers no metrics"),
    ],
)
def test_a_target_that_tells_nothing_says_why(status: int, body: bytes, why: str) -> None:
    with endpoint(lambda *_: (status, body)) as url:
        said = TargetReader({"worker": f"{url}/metrics"}, None, CollectorRegistry()).read()
    assert said.samples == []
    assert why in said.problems["worker"]


def test_one_target_that_is_away_leaves_the_others(
    worker: tuple[CollectorRegistry, Counter, Histogram],
) -> None:
    registry, events, _ = worker
    events.labels("clicks").inc()
    with endpoint(lambda *_: (200, generate_latest(registry))) as url:
        targets = {"away": "http://127.0.0.1:9/metrics", "worker": f"{url}/metrics"}
        said = TargetReader(targets, None, CollectorRegistry()).read()
    assert "does not answer" in said.problems["away"]
    assert find_figures(sum_counters(said.samples), "events") == {("clicks",): 1.0}


def test_only_what_is_kept_is_read() -> None:
    text = 'python_info 1\nheadwater_events_total{topic="a"} 4\nheadwater_events_created 1\n'
    assert list(read_text("w", text)) == [
        Reading("w", "headwater_events_total", {"topic": "a"}, 4.0)
    ]


def test_what_a_process_had_counted_before_is_not_new() -> None:
    watch = CounterWatch()
    assert watch.take(say(500, 10.0), now_s=100.0) == {}
    assert watch.take(say(503, 10.0)) == {"events|clicks": 3.0}


def test_what_a_process_counts_that_begins_meanwhile_is_new() -> None:
    watch = CounterWatch()
    assert watch.take([], now_s=100.0) == {}
    assert watch.take(say(5, 101.0)) == {"events|clicks": 5.0}
    assert watch.take([*say(5, 101.0), *say(9, 50.0, "old")]) == {}


def test_a_counter_that_begins_again_is_no_negative_rate() -> None:
    watch = CounterWatch()
    watch.take(say(500), now_s=100.0)
    assert watch.take(say(4)) == {"events|clicks": 4.0}
    assert watch.take(say(4)) == {}


def test_a_process_that_was_away_is_counted_over_all_of_it() -> None:
    watch = CounterWatch()
    watch.take(say(500, 10.0), now_s=100.0)
    watch.take([])
    assert watch.take(say(520, 10.0)) == {"events|clicks": 20.0}


def test_made_up_labels_do_not_fill_the_memory() -> None:
    watch = CounterWatch()
    watch.take([], now_s=100.0)
    many = [
        Reading("w", "headwater_events_total", {"topic": f"t{number}"}, 1.0)
        for number in range(5000)
    ]
    assert len(watch.take([Reading("w", BEGAN, {}, 101.0), *many])) == 400


def prometheus(results: list[object], status: str = "success", error: str = "") -> Answer:
    def answer(path: str, _: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        assert parts.path == "/api/v1/query"
        assert "headwater_events_total" in parse_qs(parts.query)["query"][0]
        document = {"status": status, "data": {"resultType": "vector", "result": results}}
        return 200, json.dumps(document | ({"error": error} if error else {})).encode()

    return answer


def test_a_prometheus_is_asked_for_all_processes() -> None:
    """The answer is one of Prometheus' own, of an instant query."""
    labels = {
        "__name__": "headwater_events_total",
        "job": "hw",
        "instance": "w1",
        "topic": "clicks",
    }
    results = [
        {"metric": labels, "value": [1.0, "7"]},
        {"metric": {"__name__": "up", "job": "hw", "instance": "w1"}, "value": [1.0, "1"]},
        {"metric": {"__name__": "up", "job": "node", "instance": "n1"}, "value": [1.0, "0"]},
        {"metric": {"__name__": BEGAN, "job": "node", "instance": "n1"}, "value": [1.0, "5"]},
    ]
    with endpoint(prometheus(results)) as url:
        said = PrometheusReader(url, None).read()
    assert said.samples == [Reading("hw w1", "headwater_events_total", {"topic": "clicks"}, 7.0)]
    assert said.problems == {"prometheus": "", "hw w1": ""}


def test_a_process_that_prometheus_lost_is_told() -> None:
    labels = {"__name__": "headwater_events_total", "job": "hw", "instance": "w1", "topic": "c"}
    up = {"__name__": "up", "job": "hw", "instance": "w1"}
    results: list[object] = [{"metric": labels, "value": [1.0, "7"]}]
    with endpoint(prometheus(results)) as url:
        reader = PrometheusReader(url, None)
        reader.read()
        results[:] = [{"metric": up, "value": [1.0, "0"]}]
        said = reader.read()
    assert said.problems == {"prometheus": "", "hw w1": "Prometheus cannot read it"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda *_: (200, b"<html>"), "answers no query"),
        (lambda *_: (503, b""), "Service Unavailable"),
        (prometheus([], "error", "too many samples"), "too many samples"),
    ],
)
def test_a_prometheus_that_tells_nothing_says_why(answer: Answer, why: str) -> None:
    with endpoint(answer) as url:
        said = PrometheusReader(url, None).read()
    assert said.samples == []
    assert why in said.problems["prometheus"]


def test_no_prometheus_at_all() -> None:
    said = PrometheusReader("http://127.0.0.1:9", None).read()
    assert "does not answer" in said.problems["prometheus"]
