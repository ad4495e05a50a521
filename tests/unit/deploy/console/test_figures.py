"""What a look saw becomes figures, what is missing is said, and a history becomes lines."""

from __future__ import annotations

import math

import pytest
from headwater_client.admin.now import Span
from headwater_client.topics import DEAD_LETTERS

from deploy.console import figures
from deploy.console.board import Look, NowBoard
from deploy.console.history import History, Slot, look_at
from deploy.console.readings import Reading, Readings, TargetReader
from deploy.settings import Settings
from features.kafka.lag import PartitionPlace
from tests.harness.http_api import CONFIG

AWAY = Settings(kafka=CONFIG.kafka, triton=CONFIG.triton)
COUNTS = {
    "events|clicks": 20.0,
    "events|items": 4.0,
    "answers|False|stable": 9.0,
    "answers|True|stable": 1.0,
    "answers|True|fallback": 2.0,
    "requests|recommend|200": 5.0,
    "requests|recommend|400": 2.0,
    "requests|gorse_rank|200": 1.0,
    "requests|tell_metrics|200": 99.0,
    "requests|tell_now|200": 99.0,
}
LOOK = Look(
    time_ms=1,
    totals=COUNTS,
    recent=Slot(10.0, COUNTS),
    hour=Slot(60.0, COUNTS),
    day=Slot(60.0, COUNTS),
    places={
        ("clicks", 0): PartitionPlace(5, 30, 28),
        ("clicks", 1): PartitionPlace(0, 7, None),
        (DEAD_LETTERS, 0): PartitionPlace(0, 3, None),
    },
    waits_ms={("clicks", 0): 40, ("clicks", 1): None},
)


def test_counts_are_told_by_label_and_together() -> None:
    found = figures.Figures(LOOK)
    assert found.count("answers") == {"per_second": 1.2, "hour": 12, "day": 12, "total": 12}
    assert found.count("answers", "True")["total"] == 3
    assert found.labels("answers") == [
        ("False", "stable"),
        ("True", "fallback"),
        ("True", "stable"),
    ]
    assert found.count("dead_letters")["total"] == 0


def test_events_are_told_with_what_kafka_has() -> None:
    found = figures.Figures(LOOK)
    events = {each.topic: (each.type, each.total, each.in_log) for each in _events(found)}
    assert events == {"clicks": ("click", 20, 32), "items": ("", 4, None)}
    assert figures.add_events(LOOK, found).total == 20
    assert figures.count_log(LOOK, DEAD_LETTERS) == 3


def _events(found: figures.Figures) -> list[figures.told.EventsNow]:
    return figures.list_events(LOOK, found)


def test_only_what_callers_ask_for_counts_as_a_request() -> None:
    found = {each.operation: each for each in figures.list_requests(figures.Figures(LOOK))}
    assert set(found) == {"recommend", "gorse_rank"}
    assert (found["recommend"].total, found["recommend"].failed) == (7, 2)


def test_an_age_that_is_not_known_is_not_made_up() -> None:
    places = figures.list_partitions(LOOK)
    assert [(each.lag, each.age_ms) for each in places] == [(2, 40), (7, None)]


def test_without_answers_there_is_no_latency() -> None:
    found = figures.make_latency({})
    assert (found.p50_ms, found.p99_ms, found.count) == (None, None, 0)
    buckets = {"answer_seconds|0.1": 3.0, "answer_seconds|1.0": 4.0, "answer_seconds|+Inf": 4.0}
    found = figures.make_latency(buckets)
    assert (found.p50_ms, found.count) == (pytest.approx(1000 * 0.1 * 2 / 3), 4)
    rows = {name.replace("answer", "row"): count for name, count in buckets.items()}
    assert figures.make_latency(rows, "row_seconds") == found


def test_rates_of_what_was_not_watched_are_not_known() -> None:
    found = figures.Figures(Look(time_ms=1))
    assert found.count("events")["per_second"] is None
    assert figures.add_events(Look(time_ms=1), found).per_second is None


def settings_with(**console: object) -> Settings:
    return AWAY.model_copy(update={"console": AWAY.console.model_copy(update=console)})


def told_port(port: int) -> Settings:
    worker = AWAY.worker.model_copy(update={"metrics_port": port})
    return AWAY.model_copy(update={"worker": worker})


SAID = (Reading("worker", "headwater_events_total", {"topic": "clicks"}, 1.0),)


@pytest.mark.parametrize(
    ("settings", "look", "part", "remedy"),
    [
        (AWAY, Look(time_ms=1), "events", "set worker.metrics_port"),
        (
            told_port(9188),
            Look(time_ms=1, problems={"worker": "away"}),
            "events",
            "headwater worker",
        ),
        (told_port(9188), Look(time_ms=1), "events", "headwater worker"),
        (
            settings_with(prometheus_url="http://p:9090"),
            Look(time_ms=1, problems={"prometheus": "does not answer"}),
            "events",
            "console.prometheus_url",
        ),
        (settings_with(prometheus_url="http://p:9090"), Look(time_ms=1), "events", "scrape"),
        (
            told_port(9188),
            Look(time_ms=1, samples=SAID, problems={"kafka": "away"}),
            "partitions",
            "headwater status",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    settings: Settings, look: Look, part: str, remedy: str
) -> None:
    missing = figures.find_missing(look, settings)
    assert list(missing) == [part]
    assert remedy in missing[part].remedy


def test_where_all_is_there_nothing_is_missing() -> None:
    assert figures.find_missing(Look(time_ms=1, samples=SAID), told_port(9188)) == {}


def test_a_history_is_told_as_lines_with_gaps() -> None:
    counts = {"events|clicks": 20.0, "answers|True|stable": 2.0, "answer_seconds|0.1": 1.0}
    counts |= {"answer_seconds|1.0": 2.0, "answer_seconds|+Inf": 2.0, "dead_letters|items": 4.0}
    steps = [
        (100, Slot(10.0, counts, {"lag|clicks": look_at(7.0), "age": look_at(30.0)})),
        (110, Slot()),
    ]
    found = figures.make_history(Span.HOUR, steps)
    lines = {each.name: (each.unit, each.values) for each in found.series}
    assert found.times == [100_000, 110_000]
    assert lines == {
        "answers.all": ("per_second", [0.2, None]),
        "answers.stable": ("per_second", [0.2, None]),
        "dead_letters": ("per_second", [0.4, None]),
        "events.click": ("per_second", [2.0, None]),
        "fallbacks": ("per_second", [0.2, None]),
        "knowledge.age": ("ms", [30.0, None]),
        "lag.clicks": ("count", [7.0, None]),
        "latency.p50": ("ms", [100.0, None]),
        "latency.p99": ("ms", [pytest.approx(982.0), None]),
    }


def test_an_empty_history_has_no_times() -> None:
    found = figures.make_history(Span.DAY, [])
    assert found.times == []
    assert {tuple(each.values) for each in found.series} == {()}


def test_a_look_is_taken_though_every_server_is_away() -> None:
    board = NowBoard(AWAY, TargetReader({"worker": "http://127.0.0.1:9/metrics"}, None), {})
    board.history = History(None)
    board.look()
    assert board.newest is not None
    assert set(board.newest.problems) == {"worker", "kafka"}
    assert board.newest.places == {}
    assert math.isclose(board.newest.recent.seconds, board.history.total(Span.HOUR).seconds)
    board.history.close()


def test_a_process_that_does_not_answer_for_a_moment_is_not_forgotten() -> None:
    class Source:
        answers = True

        def read(self) -> Readings:
            return Readings(
                SAID if self.answers else (), {"worker": "" if self.answers else "away"}
            )

    source = Source()
    board = NowBoard(AWAY, source, {})
    board.history = History(None)
    board.look()
    source.answers = False
    board.look()
    assert board.newest is not None
    assert board.newest.totals == {"events|clicks": 1.0}
    assert "worker" in board.newest.problems
    board.history.close()
