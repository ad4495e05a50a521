"""How old what waits is, by offsets alone; and whether services are ready."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from headwater_client.admin.now import ServerState

from deploy.console.board import AgeWatch, OffsetTimes, check_service, find_targets
from deploy.local.process import free_port
from deploy.services.health import ServiceHealth, serve_health
from deploy.settings import Settings
from features.kafka.lag import PartitionPlace

CLICKS = ("clicks", 0)


class Log:
    """Asked for the times of messages; remembers for which."""

    def __init__(self, times: Mapping[tuple[str, int], int]) -> None:
        self.times = times
        self.asked: list[Mapping[tuple[str, int], int]] = []

    def __call__(self, places: Mapping[tuple[str, int], int]) -> Mapping[tuple[str, int], int]:
        self.asked.append(dict(places))
        return self.times


def test_what_is_read_has_no_age() -> None:
    watch = AgeWatch(Log({}))
    assert watch.take({CLICKS: PartitionPlace(0, 9, 9)}, 10.0, 0) == {}


def test_what_came_between_two_looks_is_that_old() -> None:
    watch = AgeWatch(Log({}))
    watch.take({CLICKS: PartitionPlace(0, 10, 10)}, 100.0, 0)
    assert watch.take({CLICKS: PartitionPlace(0, 14, 10)}, 102.0, 0) == {CLICKS: 2000}
    # Of four that came in two seconds, two are read.
    assert watch.take({CLICKS: PartitionPlace(0, 14, 12)}, 104.0, 0) == {CLICKS: 3000}
    assert watch.take({CLICKS: PartitionPlace(0, 14, 14)}, 106.0, 0) == {}


def test_what_waited_before_the_first_look_is_asked_for_once() -> None:
    log = Log({CLICKS: 1_000_000})
    watch = AgeWatch(log)
    place = {CLICKS: PartitionPlace(0, 50, 20)}
    assert watch.take(place, 100.0, 1_060_000) == {CLICKS: 60_000}
    assert watch.take(place, 102.0, 1_062_000) == {CLICKS: 62_000}
    assert log.asked == [{CLICKS: 20}]


def test_where_nobody_knows_no_age_is_made_up() -> None:
    watch = AgeWatch(Log({}))
    assert watch.take({CLICKS: PartitionPlace(0, 50, None)}, 100.0, 0) == {}


def test_no_clock_makes_an_age_negative() -> None:
    watch = AgeWatch(Log({CLICKS: 2_000_000}))
    assert watch.take({CLICKS: PartitionPlace(0, 50, 20)}, 100.0, 1_000_000) == {CLICKS: 0}


def test_a_topic_that_was_made_anew_begins_anew() -> None:
    times = OffsetTimes()
    for at_s, end in ((10.0, 900), (12.0, 5), (14.0, 9)):
        times.note(at_s, end)
    assert times.find(7) == 13.0


def test_a_day_of_looks_is_remembered_in_few_points() -> None:
    times = OffsetTimes()
    for look in range(43_200):
        times.note(2.0 * look, 10 * look)
    assert len(times._points) <= 512
    # Ten messages every two seconds.
    assert times.find(200_000) == pytest.approx(40_000, abs=1.0)


def test_lag_is_what_kafka_still_has() -> None:
    assert PartitionPlace(0, 10, None).lag == 10
    assert PartitionPlace(40, 100, 10).lag == 60
    assert PartitionPlace(0, 5, 90).lag == 0


@pytest.mark.parametrize("missing", ["", "is not read yet"])
def test_a_service_says_whether_it_is_ready(missing: str) -> None:
    port = free_port([])
    health = ServiceHealth({"rollouts": lambda: missing})
    with serve_health("worker", port, "127.0.0.1", health):
        found = check_service("worker", f"http://127.0.0.1:{port}/metrics", is_named=False)
    expected = ServerState.NOT_READY if missing else ServerState.WELL
    assert (found.state, found.detail) == (expected, missing and f"rollouts: {missing}")
    assert found.address == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("is_named", "state"), [(True, ServerState.AWAY), (False, ServerState.NOT_HERE)]
)
def test_a_service_that_does_not_run(is_named: bool, state: ServerState) -> None:
    url = f"http://127.0.0.1:{free_port([])}/metrics"
    assert check_service("trainer", url, is_named=is_named).state is state


def test_the_targets_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_WORKER__METRICS_PORT", "9188")
    monkeypatch.setenv("HEADWATER_WORKER__METRICS_ADDRESS", "::")
    targets = find_targets(Settings())
    assert targets == {
        "worker": "http://[::1]:9188/metrics",
        "api": "http://127.0.0.1:8080/metrics",
    }


def test_the_settings_name_other_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CONSOLE__TARGETS", '["http://w1:9188/metrics"]')
    assert find_targets(Settings()) == {"w1:9188": "http://w1:9188/metrics"}


def test_a_prometheus_has_no_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CONSOLE__PROMETHEUS_URL", "http://prometheus:9090")
    assert find_targets(Settings()) == {}
