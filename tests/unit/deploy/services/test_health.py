"""A service says whether it lives and what it is not ready for; a taken port is one line."""

from __future__ import annotations

import json

import pytest
from headwater_client.errors import SettingsError

from deploy.local.process import free_port
from deploy.services.health import STALE_S, ServiceHealth, serve_health
from tests.harness.probes import ask


class Clock:
    """A clock that is set."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_loop_that_does_not_turn_is_not_alive_unless_it_computes() -> None:
    clock = Clock()
    health = ServiceHealth({}, clock)
    assert health.stale_loops() == {}
    health.turn()
    clock.now_s = STALE_S
    assert health.stale_loops() == {}
    with health.busy("loop"):
        clock.now_s += 600
        assert health.stale_loops() == {}
    assert health.stale_loops() == {}
    clock.now_s += STALE_S + 1
    assert health.stale_loops() == {"loop": "has not turned for 31 s"}


def test_probes_and_metrics_are_on_one_port() -> None:
    missing, clock = {"store": "away"}, Clock()
    health = ServiceHealth({"store": lambda: missing.get("store", ""), "model": lambda: ""}, clock)
    port = free_port()
    with serve_health("worker", port, "127.0.0.1", health):
        status, body = ask(port, "/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "missing": {"store": "away"}})
        assert ask(port, "/livez")[0] == 200
        missing.clear()
        assert ask(port, "/readyz?verbose")[0] == 200
        health.turn()
        clock.now_s = STALE_S + 1
        status, body = ask(port, "/livez")
        assert (status, json.loads(body)["live"]) == (503, False)
        assert "loop" in json.loads(ask(port, "/readyz")[1])["missing"]
        status, body = ask(port, "/metrics")
        assert (status, "python_info" in body) == (200, True)


def test_a_port_that_is_taken_is_named() -> None:
    port = free_port()
    with (
        serve_health("worker", port, "127.0.0.1", ServiceHealth({})),
        pytest.raises(SettingsError, match=rf"worker\.metrics_port: .* {port}: Address already in"),
        serve_health("worker", port, "127.0.0.1", ServiceHealth({})),
    ):
        pass


def test_an_address_that_is_none_is_named() -> None:
    with (
        pytest.raises(SettingsError, match=r"rollout\.metrics_port: nowhere\.invalid port 1: "),
        serve_health("rollout", 1, "nowhere.invalid", ServiceHealth({})),
    ):
        pass


def test_without_a_port_nothing_listens() -> None:
    with serve_health("worker", 0, "127.0.0.1", ServiceHealth({})):
        pass


def test_ipv6_is_served() -> None:
    port = free_port()
    try:
        with serve_health("worker", port, "::1", ServiceHealth({})):
            assert ask(port, "/livez", "[::1]")[0] == 200
    except SettingsError:
        pytest.skip("this machine has no IPv6")
