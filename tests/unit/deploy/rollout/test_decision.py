"""A canary's share grows while figures allow it; a bad one is taken back, a good one promoted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from deploy.rollout import (
    CommandRejectedError,
    DecisionInputs,
    Health,
    RolloutSettings,
    VariantTally,
)
from deploy.rollout.decision import RolloutState, apply_action, decide, initial_state
from deploy.rollout.feedback.counters import empty_counts
from features.rollout_messages import RolloutAction, RolloutPhase

RULES = RolloutSettings()
WELL = Health(empty_counts() | {"requests": 5000}, p99_ms=40.0, p99_at_least_ms=35.0, coverage=800)
BUCKETS = 64
HOUR_S = 3600.0


def change(health: Health, **changed: float) -> Health:
    """Another health: counters by their names, and what is measured."""
    counts = {name: int(count) for name, count in changed.items() if name in health.counts}
    measures = {name: value for name, value in changed.items() if name not in counts}
    return replace(health, counts={**health.counts, **counts}, **measures)  # type: ignore[arg-type]


def tally_of(rate: float, shown: float = 100_000.0) -> VariantTally:
    """Half of the buckets a little more than the other half."""
    per_bucket = shown / BUCKETS
    apart = 1 + 0.03 * np.where(np.arange(BUCKETS) % 2, 1.0, -1.0)
    return VariantTally(np.full(BUCKETS, per_bucket), per_bucket * rate * apart)


def inputs_of(ratio: float, now_s: float = 2 * HOUR_S, shown: float = 100_000.0) -> DecisionInputs:
    return DecisionInputs(
        now_s, tally_of(0.1 * ratio, shown), tally_of(0.1, shown), WELL, WELL, 0.02
    )


def test_the_share_grows_step_by_step_until_it_is_promoted() -> None:
    state, steps = initial_state(0.0), []
    for hour in range(1, 10):
        decided = decide(state, inputs_of(1.05, hour * HOUR_S), RULES)
        state = decided.state
        steps.append(state.step)
        if state.is_terminal:
            break
    assert steps == [1, 2, 3, 3]
    assert state.phase is RolloutPhase.PROMOTED
    assert "no worse: reward +" in decided.reason
    assert decided.effect
    assert decided.effect.estimate == pytest.approx(np.log(1.05))


def test_one_as_good_is_promoted_and_one_that_is_worse_taken_back() -> None:
    last = RolloutState(len(RULES.steps) - 1, 0.0, 0.0)
    assert decide(last, inputs_of(1.0), RULES).state.phase is RolloutPhase.PROMOTED
    worse = decide(last, inputs_of(0.9), RULES)
    assert worse.state.phase is RolloutPhase.ROLLED_BACK
    assert worse.reason.startswith("worse: reward -")


def test_a_worse_one_is_taken_back_before_the_step_is_over() -> None:
    assert (
        decide(initial_state(0.0), inputs_of(0.7, now_s=60.0), RULES).state.phase
        is RolloutPhase.ROLLED_BACK
    )


def test_a_step_takes_its_time_and_a_minimum_of_data() -> None:
    state = initial_state(0.0)
    assert decide(state, inputs_of(1.2, now_s=RULES.min_step_s / 2), RULES).state == state
    assert decide(state, inputs_of(1.2, shown=RULES.min_shown / 2), RULES).state == state


def test_a_share_does_not_grow_while_the_worst_is_too_bad() -> None:
    """Few figures allow a step to 5 %, not yet one to 25 %."""
    first = decide(initial_state(0.0), inputs_of(1.0, shown=10_000.0), RULES).state
    assert first.step == 1
    careful = RULES.model_copy(update={"max_harm": 0.0005})
    assert decide(initial_state(0.0), inputs_of(1.0), careful).state.step == 0


@pytest.mark.parametrize(
    ("bad", "drift", "why"),
    [
        ({"failed": 200}, 0.0, "errors: 4.00% of requests, of the baseline's 0.00%"),
        ({"fallbacks": 200}, 0.0, "fallbacks: 4.00%"),
        ({"p99_ms": 90.0, "p99_at_least_ms": 85.0}, 0.0, "slow: p99 90 ms, the baseline's 40"),
        ({"coverage": 100}, 0.0, "coverage: 100 items shown, by the baseline 800"),
        ({}, 1.9, "scores drift: 1.90"),
    ],
)
def test_a_guard_takes_back_at_once_whatever_is_earned(
    bad: dict[str, float], drift: float, why: str
) -> None:
    figures = replace(inputs_of(1.3, now_s=1.0), canary_health=change(WELL, **bad), drift=drift)
    found = decide(initial_state(0.0), figures, RULES)
    assert found.state.phase is RolloutPhase.ROLLED_BACK
    assert found.reason.startswith(why)


def test_a_guard_waits_until_chance_is_out_of_the_question() -> None:
    """Two of a hundred fail now and then; two hundred and fifty of ten thousand do not."""
    for requests, errors, ended in ((100, 2, False), (100, 30, True), (10_000, 250, True)):
        ours = change(WELL, requests=requests, failed=errors)
        figures = replace(inputs_of(1.0, now_s=1.0), canary_health=ours)
        assert decide(initial_state(0.0), figures, RULES).state.is_terminal is ended
    unsure = change(WELL, p99_ms=400.0, p99_at_least_ms=70.0)
    figures = replace(inputs_of(1.0, now_s=1.0), canary_health=unsure)
    assert not decide(initial_state(0.0), figures, RULES).state.is_terminal


def test_what_is_wrong_with_the_baseline_too_is_not_the_canarys_fault() -> None:
    ill = change(WELL, failed=200, fallbacks=300)
    figures = replace(inputs_of(1.0), canary_health=ill, baseline_health=ill)
    assert decide(initial_state(0.0), figures, RULES).state.phase is RolloutPhase.RUNNING


def test_a_guard_does_not_judge_by_a_handful() -> None:
    few = change(
        WELL, requests=3, failed=1, fallbacks=0, p99_ms=400.0, p99_at_least_ms=300.0, coverage=2
    )
    figures = replace(inputs_of(1.0), canary_health=few)
    assert decide(initial_state(0.0), figures, RULES).state.phase is RolloutPhase.RUNNING


def test_without_a_verdict_it_holds_and_then_goes_back() -> None:
    unsure = RolloutState(len(RULES.steps) - 1, 0.0, 0.0)
    nothing = VariantTally(np.zeros(BUCKETS), np.zeros(BUCKETS))
    figures = replace(inputs_of(1.0), canary=nothing)
    held = decide(unsure, replace(figures, now_s=RULES.hold_s), RULES)
    assert held.state.phase is RolloutPhase.HOLDING
    assert not held.state.is_terminal
    late = decide(held.state, replace(figures, now_s=RULES.give_up_s), RULES)
    assert (late.state.phase, late.reason) == (RolloutPhase.ROLLED_BACK, "no verdict in time")


def test_what_has_ended_stays_and_the_same_figures_decide_alike() -> None:
    ended = decide(initial_state(0.0), inputs_of(0.5), RULES)
    assert decide(ended.state, inputs_of(1.5), RULES).state == ended.state
    assert decide(initial_state(0.0), inputs_of(0.5), RULES) == ended


@pytest.mark.parametrize("steps", [(0.05, 0.05), (0.5, 0.1), (0.6,), (0.0,), ()])
def test_steps_must_grow_up_to_half(steps: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        RolloutSettings(steps=steps)


def test_in_the_shadow_only_guards_decide_and_then_it_is_shown() -> None:
    shadow = initial_state(0.0, shadow=True)
    early = decide(shadow, inputs_of(1.0, now_s=RULES.shadow_s - 1), RULES)
    assert early.state == shadow
    shown = decide(shadow, inputs_of(0.5, now_s=RULES.shadow_s), RULES).state
    assert (shown.phase, shown.step, shown.step_since_s) == (
        RolloutPhase.RUNNING,
        0,
        RULES.shadow_s,
    )
    slow = replace(inputs_of(1.0, now_s=5.0), canary_health=change(WELL, p99_at_least_ms=500.0))
    assert decide(shadow, slow, RULES).state.phase is RolloutPhase.ROLLED_BACK
    nobody = replace(inputs_of(1.0, now_s=RULES.give_up_s), canary_health=change(WELL, requests=0))
    assert decide(shadow, nobody, RULES).state.phase is RolloutPhase.ROLLED_BACK


def test_a_pause_keeps_the_share_and_goes_on_where_it_was() -> None:
    paused = apply_action(RolloutState(2, 0.0, 100.0), RolloutAction.PAUSE, 200.0)
    assert decide(paused, inputs_of(1.3, now_s=9 * HOUR_S), RULES).state == paused
    ill = replace(inputs_of(1.3), canary_health=change(WELL, failed=500))
    assert decide(paused, ill, RULES).state.phase is RolloutPhase.ROLLED_BACK
    again = apply_action(paused, RolloutAction.RESUME, 900.0)
    assert (again.phase, again.step, again.step_since_s) == (RolloutPhase.RUNNING, 2, 900.0)
    unseen = apply_action(initial_state(0.0, shadow=True), RolloutAction.PAUSE, 1.0)
    assert apply_action(unseen, RolloutAction.RESUME, 2.0).phase is RolloutPhase.SHADOW


@pytest.mark.parametrize("action", [RolloutAction.PROMOTE, RolloutAction.ROLLBACK])
def test_somebody_may_decide_at_any_time(action: RolloutAction) -> None:
    for state in (
        initial_state(0.0, shadow=True),
        initial_state(0.0),
        apply_action(initial_state(0.0), RolloutAction.PAUSE, 1.0),
    ):
        ended = apply_action(state, action, 5.0)
        assert ended.is_terminal
        with pytest.raises(CommandRejectedError, match=f"{action}: the rollout is {ended.phase}"):
            apply_action(ended, action, 6.0)


@pytest.mark.parametrize("action", [RolloutAction.RESUME, RolloutAction.START])
def test_what_makes_no_sense_is_refused(action: RolloutAction) -> None:
    with pytest.raises(CommandRejectedError, match="the rollout is running"):
        apply_action(initial_state(0.0), action, 1.0)


def asked_by(people: int, rate: float, generator: np.random.Generator) -> VariantTally:
    """1,000 recommendations to so many people, each of whom clicks as often as they do."""
    shown, reward = np.zeros(BUCKETS), np.zeros(BUCKETS)
    chances = rate * generator.beta(1, 9, people)
    asked = generator.multinomial(1000, [1 / people] * people)
    for chance, number in zip(chances, asked, strict=True):
        bucket = generator.integers(BUCKETS)
        shown[bucket] += number
        reward[bucket] += generator.binomial(number, chance)
    return VariantTally(shown, reward)


@pytest.mark.parametrize("people", [1, 2, 4, 10])
@pytest.mark.parametrize("counted", [False, True])
def test_few_people_decide_nothing_however_much_they_are_asked(people: int, counted: bool) -> None:
    """With one person a variant, the variance between buckets is 0."""
    generator = np.random.default_rng(people)
    last = RolloutState(len(RULES.steps) - 1, 0.0, 0.0)
    health = replace(WELL, people=float(people) if counted else None)
    for _ in range(50):
        ours, theirs = asked_by(people, 0.5, generator), asked_by(people, 1.0, generator)
        inputs = DecisionInputs(2 * HOUR_S, ours, theirs, health, health, 0.0)
        assert decide(last, inputs, RULES).state == last
    held = decide(last, replace(inputs, now_s=RULES.hold_s), RULES)
    assert held.state.phase is RolloutPhase.HOLDING
    what = f"{people} of 100 people (rollout.min_people)" if counted else "of 32 buckets of people"
    assert what in held.reason


def test_enough_people_are_on_both_sides() -> None:
    last = RolloutState(len(RULES.steps) - 1, 0.0, 0.0)
    for people, promoted in ((99.0, False), (100.0, True)):
        inputs = replace(inputs_of(1.0), baseline_health=replace(WELL, people=people))
        assert decide(last, inputs, RULES).state.is_terminal is promoted


def test_unequal_samples_hold_whatever_is_earned_until_they_are_equal() -> None:
    def figures(ours: float, theirs: float, ratio: float = 0.5) -> DecisionInputs:
        counted = (replace(WELL, people=number) for number in (ours, theirs))
        return DecisionInputs(HOUR_S, tally_of(0.1 * ratio), tally_of(0.1), *counted, 0.0)

    state = initial_state(0.0)
    held = decide(state, figures(300, 3000), RULES)
    assert held.state.phase is RolloutPhase.HOLDING
    assert held.reason.startswith("holds: the canary has 300 people, its baseline 3,000")
    assert decide(held.state, figures(300, 3000), RULES).state == held.state
    late = replace(figures(300, 3000), now_s=RULES.give_up_s)
    assert decide(held.state, late, RULES).state.phase is RolloutPhase.ROLLED_BACK
    equal = decide(held.state, figures(3000, 3030), RULES)
    assert equal.reason.startswith("worse")
    failing = replace(figures(300, 3000), canary_health=change(WELL, failed=2000))
    assert decide(state, failing, RULES).state.phase is RolloutPhase.ROLLED_BACK


def test_a_canary_that_nobody_gets_is_held_at_once() -> None:
    nothing = VariantTally(np.zeros(BUCKETS), np.zeros(BUCKETS))
    inputs = replace(
        inputs_of(1.0),
        canary=nothing,
        canary_health=Health(people=0.0),
        baseline_health=replace(WELL, people=150.0),
    )
    held = decide(initial_state(0.0), inputs, RULES)
    assert held.state.phase is RolloutPhase.HOLDING
    assert "the canary has 0 people, its baseline 150" in held.reason
