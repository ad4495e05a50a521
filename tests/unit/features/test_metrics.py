"""Counters that alerts watch are there before anything is counted."""

from __future__ import annotations

import subprocess
import sys

from prometheus_client import CollectorRegistry, generate_latest

from features.metrics import make_counter

# What should never happen, by its first series: an alert asks for its increase.
NEVER = (
    'headwater_rollout_messages_refused_total{reason="unreadable"} 0.0',
    'headwater_placement_messages_ignored_total{reason="not signed"} 0.0',
    'headwater_damaged_rows_total{table="user_activity"} 0.0',
    'headwater_dead_letters_lost_total{topic="clicks"} 0.0',
    'headwater_short_lists_total{filled_by="nothing"} 0.0',
    'headwater_rollout_steps_total{state="rolled_back"} 0.0',
)


def test_a_counter_begins_with_the_series_that_are_known() -> None:
    registry = CollectorRegistry()
    counter = make_counter("faults", "Faults", "kind", ("one", "other"), registry)
    counter.labels("other").inc()
    told = generate_latest(registry).decode()
    assert 'faults_total{kind="one"} 0.0' in told
    assert 'faults_total{kind="other"} 1.0' in told


def test_what_should_never_happen_is_told_from_the_start() -> None:
    """In a process where nothing has happened."""
    code = (
        "import stream.metrics, deploy.rollout.controller, features.placement_topic, "
        "prometheus_client; print(prometheus_client.generate_latest().decode())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line for line in NEVER if line not in told] == []
    assert any(line.startswith("headwater_build_info{") for line in told)
