"""A canary's share grows while figures allow it; a bad one is taken back, a good one promoted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from deploy.rollout.decision import (
    Figures,
    Health,
    RefusedError,
    State,
    begun,
    decide,
    steered,
)
from deploy.rollout.evidence import Tally
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Action, RolloutState

RULES = RolloutSettings()
WELL = Health(requests=5000, errors=0, fallbacks=0, p99_ms=40.0, p99_at_least_ms=35.0, coverage=800)
BUCKETS = 64
HOUR_S = 3600.0


def earned(rate: float, shown: float = 100_000.0) -> Tally:
    """Half of the buckets a little more than the other half."""
    per_bucket = shown / BUCKETS
    apart = 1 + 0.03 * np.where(np.arange(BUCKETS) % 2, 1.0, -1.0)
    return Tally(np.full(BUCKETS, per_bucket), per_bucket * rate * apart)


def seen(ratio: float, now_s: float = 2 * HOUR_S, shown: float = 100_000.0) -> Figures:
    return Figures(now_s, earned(0.1 * ratio, shown), earned(0.1, shown), WELL, WELL, 0.02)


def test_the_share_grows_step_by_step_until_it_is_promoted() -> None:
    state, steps = begun(0.0), []
    for hour in range(1, 10):
        decided = decide(state, seen(1.05, hour * HOUR_S), RULES)
        state = decided.state
        steps.append(state.step)
        if state.ended:
            break
    assert steps == [1, 2, 3, 3]
    assert state.status is RolloutState.PROMOTED
    assert "no worse: reward +" in decided.reason
    assert decided.effect
    assert decided.effect.estimate == pytest.approx(np.log(1.05))


def test_one_as_good_is_promoted_and_one_that_is_worse_taken_back() -> None:
    last = State(len(RULES.steps) - 1, 0.0, 0.0)
    assert decide(last, seen(1.0), RULES).state.status is RolloutState.PROMOTED
    worse = decide(last, seen(0.9), RULES)
    assert worse.state.status is RolloutState.ROLLED_BACK
    assert worse.reason.startswith("worse: reward -")


def test_a_worse_one_is_taken_back_before_the_step_is_over() -> None:
    assert decide(begun(0.0), seen(0.7, now_s=60.0), RULES).state.status is RolloutState.ROLLED_BACK


def test_a_step_takes_its_time_and_a_minimum_of_data() -> None:
    state = begun(0.0)
    assert decide(state, seen(1.2, now_s=RULES.min_step_s / 2), RULES).state == state
    assert decide(state, seen(1.2, shown=RULES.min_shown / 2), RULES).state == state


def test_a_share_does_not_grow_while_the_worst_is_too_bad() -> None:
    """Few figures allow a step to 5 %, not yet one to 25 %."""
    first = decide(begun(0.0), seen(1.0, shown=10_000.0), RULES).state
    assert first.step == 1
    careful = RULES.model_copy(update={"max_harm": 0.0005})
    assert decide(begun(0.0), seen(1.0), careful).state.step == 0


@pytest.mark.parametrize(
    ("bad", "drift", "why"),
    [
        ({"errors": 200}, 0.0, "errors: 4.00% of requests, of the baseline's 0.00%"),
        ({"fallbacks": 200}, 0.0, "fallbacks: 4.00%"),
        ({"p99_ms": 90.0, "p99_at_least_ms": 85.0}, 0.0, "slow: p99 90 ms, the baseline's 40"),
        ({"coverage": 100}, 0.0, "coverage: 100 items shown, by the baseline 800"),
        ({}, 1.9, "scores drift: 1.90"),
    ],
)
def test_a_guard_takes_back_at_once_whatever_is_earned(
    bad: dict[str, float], drift: float, why: str
) -> None:
    figures = replace(seen(1.3, now_s=1.0), canary_health=replace(WELL, **bad), drift=drift)
    found = decide(begun(0.0), figures, RULES)
    assert found.state.status is RolloutState.ROLLED_BACK
    assert found.reason.startswith(why)


def test_a_guard_waits_until_chance_is_out_of_the_question() -> None:
    """Two of a hundred fail now and then; two hundred and fifty of ten thousand do not."""
    for requests, errors, ended in ((100, 2, False), (100, 30, True), (10_000, 250, True)):
        ours = replace(WELL, requests=requests, errors=errors)
        figures = replace(seen(1.0, now_s=1.0), canary_health=ours)
        assert decide(begun(0.0), figures, RULES).state.ended is ended
    unsure = replace(WELL, p99_ms=400.0, p99_at_least_ms=70.0)
    figures = replace(seen(1.0, now_s=1.0), canary_health=unsure)
    assert not decide(begun(0.0), figures, RULES).state.ended


def test_what_is_wrong_with_the_baseline_too_is_not_the_canarys_fault() -> None:
    ill = replace(WELL, errors=200, fallbacks=300)
    figures = replace(seen(1.0), canary_health=ill, baseline_health=ill)
    assert decide(begun(0.0), figures, RULES).state.status is RolloutState.RUNNING


def test_a_guard_does_not_judge_by_a_handful() -> None:
    few = Health(3, errors=1, fallbacks=0, p99_ms=400.0, p99_at_least_ms=300.0, coverage=2)
    figures = replace(seen(1.0), canary_health=few)
    assert decide(begun(0.0), figures, RULES).state.status is RolloutState.RUNNING


def test_without_a_verdict_it_holds_and_then_goes_back() -> None:
    unsure = State(len(RULES.steps) - 1, 0.0, 0.0)
    nothing = Tally(np.zeros(BUCKETS), np.zeros(BUCKETS))
    figures = replace(seen(1.0), canary=nothing)
    held = decide(unsure, replace(figures, now_s=RULES.hold_s), RULES)
    assert held.state.status is RolloutState.HOLDING
    assert not held.state.ended
    late = decide(held.state, replace(figures, now_s=RULES.give_up_s), RULES)
    assert (late.state.status, late.reason) == (RolloutState.ROLLED_BACK, "no verdict in time")


def test_what_has_ended_stays_and_the_same_figures_decide_alike() -> None:
    ended = decide(begun(0.0), seen(0.5), RULES)
    assert decide(ended.state, seen(1.5), RULES).state == ended.state
    assert decide(begun(0.0), seen(0.5), RULES) == ended


@pytest.mark.parametrize("steps", [(0.05, 0.05), (0.5, 0.1), (0.6,), (0.0,), ()])
def test_steps_must_grow_up_to_half(steps: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        RolloutSettings(steps=steps)


def test_in_the_shadow_only_guards_decide_and_then_it_is_shown() -> None:
    shadow = begun(0.0, shadow=True)
    early = decide(shadow, seen(1.0, now_s=RULES.shadow_s - 1), RULES)
    assert early.state == shadow
    shown = decide(shadow, seen(0.5, now_s=RULES.shadow_s), RULES).state
    assert (shown.status, shown.step, shown.step_since_s) == (
        RolloutState.RUNNING,
        0,
        RULES.shadow_s,
    )
    slow = replace(seen(1.0, now_s=5.0), canary_health=replace(WELL, p99_at_least_ms=500.0))
    assert decide(shadow, slow, RULES).state.status is RolloutState.ROLLED_BACK
    nobody = replace(seen(1.0, now_s=RULES.give_up_s), canary_health=replace(WELL, requests=0))
    assert decide(shadow, nobody, RULES).state.status is RolloutState.ROLLED_BACK


def test_a_pause_keeps_the_share_and_goes_on_where_it_was() -> None:
    paused = steered(State(2, 0.0, 100.0), Action.PAUSE, 200.0)
    assert decide(paused, seen(1.3, now_s=9 * HOUR_S), RULES).state == paused
    ill = replace(seen(1.3), canary_health=replace(WELL, errors=500))
    assert decide(paused, ill, RULES).state.status is RolloutState.ROLLED_BACK
    again = steered(paused, Action.RESUME, 900.0)
    assert (again.status, again.step, again.step_since_s) == (RolloutState.RUNNING, 2, 900.0)
    unseen = steered(begun(0.0, shadow=True), Action.PAUSE, 1.0)
    assert steered(unseen, Action.RESUME, 2.0).status is RolloutState.SHADOW


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.ROLLBACK])
def test_somebody_may_decide_at_any_time(action: Action) -> None:
    for state in (begun(0.0, shadow=True), begun(0.0), steered(begun(0.0), Action.PAUSE, 1.0)):
        ended = steered(state, action, 5.0)
        assert ended.ended
        with pytest.raises(RefusedError, match=f"{action}: the rollout is {ended.status}"):
            steered(ended, action, 6.0)


@pytest.mark.parametrize("action", [Action.RESUME, Action.START])
def test_what_makes_no_sense_is_refused(action: Action) -> None:
    with pytest.raises(RefusedError, match="the rollout is running"):
        steered(begun(0.0), action, 1.0)
