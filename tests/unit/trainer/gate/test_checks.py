"""The verdict, from numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from trainer.gate import GateMeasurements, Verdict, verdict
from trainer.gate.checks import Foresight, GateCheck, MethodRanking, WeightGrowth
from trainer.settings import GateSettings

SETTINGS = GateSettings()
HALF = np.tile([0.0, np.inf], 100)
FAIR = GateMeasurements(
    version=8,
    live=7,
    time_ms=1_700_000_000_000,
    people=np.arange(200) // 4,
    candidate=MethodRanking(HALF, 300),
    reference=MethodRanking(HALF, 320),
    catalogue=1000,
    foresight=Foresight(np.arange(200) // 4, HALF, np.full(200, np.inf)),
    broken_weights=0,
    broken_scores=0,
    growth=WeightGrowth("items.weight", 1.1),
    mismatch=None,
    latency_ms=4.0,
    live_latency_ms=3.9,
)
# A hit less than popularity has.
BLIND = Foresight(FAIR.people, np.where(np.arange(200) == 0, np.inf, HALF), HALF)


def failed_checks(found: Verdict) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def find_check(found: Verdict, name: str) -> GateCheck:
    (check,) = [check for check in found.checks if check.name == name]
    return check


def test_what_was_foreseen_of_the_window_is_kept() -> None:
    found = verdict(FAIR, SETTINGS).foresight
    assert found
    assert (found.events, found.live, found.popularity) == (200, 0.5, 0.0)
    assert verdict(replace(FAIR, foresight=None), SETTINGS).foresight is None


def test_a_verdict_of_the_release_before_is_read() -> None:
    told = msgspec.to_builtins(verdict(FAIR, SETTINGS))
    del told["foresight"], told["without"]
    again = msgspec.json.decode(msgspec.json.encode(told), type=Verdict)
    assert (again.foresight, again.without) == (None, {})


def test_a_fair_candidate_passes_with_every_check_said() -> None:
    found = verdict(FAIR, SETTINGS)
    assert found.passed
    assert not found.refusals
    assert (found.version, found.live, found.events, found.people) == (8, 7, 200, 50)
    assert found.candidate.ndcg_at_10 == found.reference.ndcg_at_10 == 0.5
    names = [check.name for check in found.checks]
    assert names == ["quality", "finite", "norms", "coverage", "latency", "parity", "window"]
    assert all(check.reason and "\n" not in check.reason for check in found.checks)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        (
            "quality",
            {"candidate": MethodRanking(np.full(200, 50.0), 300)},
            "live version 7 0.5000: below",
        ),
        ("finite", {"broken_weights": 3}, "3 weights and 0 scores"),
        ("finite", {"broken_scores": 9}, "0 weights and 9 scores"),
        ("norms", {"growth": WeightGrowth("items.weight", 3.1)}, "items.weight has 3.1 times"),
        ("norms", {"growth": WeightGrowth("items.weight", float("inf"))}, "inf times"),
        ("coverage", {"candidate": MethodRanking(HALF, 159)}, "15.90% of the catalogue"),
        ("latency", {"latency_ms": 100.1, "live_latency_ms": None}, "100.10 ms a batch"),
        ("latency", {"latency_ms": 5.9}, "5.90 ms a batch, the live version 3.90 ms"),
        ("latency", {"latency_ms": None}, "not run"),
        ("parity", {"mismatch": "model.onnx: not as trained"}, "model.onnx: not as trained"),
        (
            "window",
            {"foresight": BLIND},
            "0.4950, decayed popularity 0.5000: below",
        ),
    ],
)
def test_each_check_stops_what_it_is_for(name: str, changes: dict[str, Any], says: str) -> None:
    found = verdict(replace(FAIR, **changes), SETTINGS)
    assert not found.passed
    assert failed_checks(found) == [name]
    assert says in find_check(found, name).reason
    assert found.refusals == [f"{name}: {find_check(found, name).reason}"]


def test_just_within_the_limits_passes() -> None:
    edge = replace(
        FAIR,
        candidate=MethodRanking(HALF, 160),
        growth=WeightGrowth("items.weight", SETTINGS.max_growth),
        latency_ms=SETTINGS.max_slowdown * 3.9,
    )
    assert verdict(edge, SETTINGS).passed


def test_the_limits_are_those_of_the_settings() -> None:
    lenient = GateSettings(
        margin=0.99, min_coverage=0.01, max_growth=1e9, max_latency_ms=1e9, max_slowdown=1e9
    )
    ranks = HALF.copy()
    ranks[10:] = np.inf
    bad = replace(
        FAIR,
        candidate=MethodRanking(ranks, 4),
        growth=WeightGrowth("items.weight", 1e6),
        latency_ms=9e4,
    )
    assert failed_checks(verdict(bad, SETTINGS)) == ["quality", "norms", "coverage", "latency"]
    assert verdict(bad, lenient).passed


def test_a_window_is_not_judged_where_there_is_nothing_to_judge_it_by() -> None:
    blind = replace(FAIR, foresight=BLIND)
    assert verdict(blind, GateSettings(max_doubt=1.0)).passed
    few = Foresight(BLIND.people[:49], BLIND.live[:49], BLIND.popularity[:49])
    assert verdict(replace(FAIR, foresight=few), SETTINGS).passed
    assert verdict(replace(FAIR, live=None, foresight=None), SETTINGS).passed


@pytest.mark.parametrize("events", [0, 1, SETTINGS.min_events - 1])
def test_of_too_few_events_nothing_is_concluded(events: int) -> None:
    few = replace(
        FAIR,
        people=FAIR.people[:events],
        candidate=MethodRanking(HALF[:events], 10),
        reference=MethodRanking(HALF[:events], 10),
    )
    found = verdict(few, SETTINGS)
    assert failed_checks(found) == ["quality"]
    assert f"{events} held-out events, fewer than 50" in find_check(found, "quality").reason
    assert verdict(few, GateSettings(min_events=max(1, events))).passed == (events > 0)


def test_without_a_live_version_it_is_set_beside_popularity() -> None:
    first = replace(FAIR, live=None, growth=None, live_latency_ms=None)
    found = verdict(first, SETTINGS)
    assert found.passed
    assert "decayed popularity" in find_check(found, "quality").reason
    assert "decayed popularity" in find_check(found, "coverage").reason
    assert find_check(found, "norms").reason == "no live version to compare with"
    worse = replace(first, candidate=MethodRanking(np.full(200, np.inf), 300))
    assert failed_checks(verdict(worse, SETTINGS)) == ["quality"]
