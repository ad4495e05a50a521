"""Whether services are ready, and which are asked."""

from __future__ import annotations

import pytest
from headwater_client.admin.now import ServerState

from deploy.console.board import check_service, find_targets
from deploy.local.process import free_port
from deploy.services.health import ServiceHealth, serve_health
from deploy.settings import Settings
from features.kafka.lag import PartitionPlace


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
