"""A guard is an entry, its limit a setting, and what it counts an entry too."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.event_types import CLICK

from deploy.rollout import RolloutSettings, decide, guards, initial_state
from deploy.rollout.evidence import DecisionInputs, Health, VariantTally, collect_inputs
from deploy.rollout.feedback.consumer import decode_feedback, encode_feedback
from deploy.rollout.feedback.counters import COUNTERS, FeedbackRow, VariantCounters, VariantList
from deploy.rollout.guards import GUARDS, Direction, RateGuard, check_latency
from deploy.rollout.history import inputs_as_json
from features.rollout_messages import RolloutPhase
from features.topics import hash64

RULES = RolloutSettings()
EMPTY_LISTS = RateGuard("empty lists", "empty", "requests", "max_fallback_rate")


@pytest.fixture
def counts_empty_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a release adds that takes a canary back where it shows nothing."""
    monkeypatch.setitem(COUNTERS, "empty", lambda impression: not impression.items)
    monkeypatch.setattr(guards, "GUARDS", (*GUARDS, EMPTY_LISTS))


def counters_with(empty: int, shown: int = 1000) -> VariantCounters:
    counters = VariantCounters()
    for n in range(shown):
        items = [] if n < empty else [hash64(f"i{n}")]
        counters.add_list(VariantList(n % 64, items, 1.0, latency_ms=20))
    return counters


@pytest.mark.usefixtures("counts_empty_lists")
def test_a_new_guard_is_a_counter_and_an_entry() -> None:
    rows = FeedbackRow({"canary": counters_with(empty=90), "baseline": counters_with(empty=5)}, {})
    stored = decode_feedback(encode_feedback(rows))
    inputs = collect_inputs(stored.counters, 1.0, shadow=False)
    decision = decide(initial_state(0.0), inputs, RULES)
    assert decision.state.phase is RolloutPhase.ROLLED_BACK
    assert decision.reason == "empty lists: 9.00% of requests, of the baseline's 0.50%"
    recorded = inputs_as_json(initial_state(0.0), inputs, RULES)
    assert recorded["figures"]["canary_health"]["empty"] == 90


def test_a_row_of_the_release_before_has_none_of_a_new_counter(
    request: pytest.FixtureRequest,
) -> None:
    """Five numbers a variant are read, and counting goes on from there."""
    before = encode_feedback(FeedbackRow({"canary": counters_with(empty=3)}, {}))
    request.getfixturevalue("counts_empty_lists")
    row = decode_feedback(before)
    assert row.variant("canary").counts["empty"] == 0
    assert row.variant("canary").counts["requests"] == 1000
    row.variant("canary").add_list(VariantList(0, []))
    assert decode_feedback(encode_feedback(row)).variant("canary").counts["empty"] == 1


def test_a_row_of_the_release_after_is_read_without_its_new_counter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as later:
        later.setitem(COUNTERS, "empty", lambda impression: not impression.items)
        columns = encode_feedback(
            FeedbackRow({"canary": counters_with(empty=3), "baseline": counters_with(empty=0)}, {})
        )
    row = decode_feedback(columns)
    assert "empty" not in row.variant("canary").counts
    assert row.variant("baseline").counts["requests"] == 1000


@pytest.mark.parametrize("direction", list(Direction))
def test_a_guard_looks_to_one_side(direction: Direction) -> None:
    guard = RateGuard("clicks", "clicked", "requests", "max_fallback_rate", direction)
    few, many = counters_with(0), counters_with(0)
    for n in range(500):
        many.add_reward(n % 64, 1.0, CLICK.code)
    fewer = collect_inputs({"canary": few, "baseline": many}, 1.0, shadow=False)
    more = collect_inputs({"canary": many, "baseline": few}, 1.0, shadow=False)
    broken, well = (more, fewer) if direction is Direction.ABOVE else (fewer, more)
    assert guard(broken, RULES).problem.startswith("clicks: ")
    assert guard(well, RULES).problem == ""
    found, apart = guard(well, RULES), RULES.max_fallback_rate
    assert found.baseline is not None
    side = 1 if direction is Direction.ABOVE else -1
    assert found.limit == pytest.approx(found.baseline + side * apart)


def test_guards_name_counters_and_settings_that_exist() -> None:
    for guard in GUARDS:
        if isinstance(guard, RateGuard):
            assert {guard.numerator, guard.denominator} <= set(COUNTERS)
            assert guard.limit in RolloutSettings.model_fields


@pytest.mark.parametrize(("ours", "theirs"), [(3.5, 1.3), (4.7, 2.0), (19.0, 1.0)])
def test_a_few_milliseconds_are_not_slow_whatever_the_baselines(ours: float, theirs: float) -> None:
    def guard(scale: float) -> str:
        canary, baseline = (
            Health(p99_ms=scale * p99, p99_at_least_ms=scale * p99) for p99 in (ours, theirs)
        )
        nothing = VariantTally(np.zeros(64), np.zeros(64))
        inputs = DecisionInputs(1.0, nothing, nothing, canary, baseline, 0.0)
        return check_latency(inputs, RULES).problem

    assert guard(1.0) == ""
    assert guard(30.0).startswith("slow: p99")
