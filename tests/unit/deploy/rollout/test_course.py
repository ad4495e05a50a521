"""The past of a confidence sequence is kept in few samples, and says when a verdict is due."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from deploy.rollout import DecisionInputs, Health, RolloutSettings, VariantTally, course, decide
from deploy.rollout.decision import RolloutState, Trial, initial_state
from deploy.rollout.evidence import Effect
from deploy.rollout.history import inputs_as_json, read_recorded
from deploy.rollout.settings import DAY_S
from features.rollout_messages import MAX_SAMPLES, EvidenceSample, RolloutPhase

RULES = RolloutSettings()
START_S = 1_700_000_000.0
BUCKETS = 64


def trial(phase: RolloutPhase = RolloutPhase.RUNNING, step: int = 0) -> Trial:
    state = RolloutState(step, START_S, START_S, phase)
    return Trial("8-1", "temporal_llm", (8, "/m/8"), (7, "/m/7"), state)


def inputs(ratio: float, shown: float, now_s: float = START_S + 60) -> DecisionInputs:
    """Every other bucket earns a little more."""
    apart = 1 + 0.1 * np.where(np.arange(BUCKETS) % 2, 1.0, -1.0)
    each = np.full(BUCKETS, shown / BUCKETS)
    tallies = [
        VariantTally(each, each * rate * apart, events=float((each * rate).sum()))
        for rate in (0.1 * ratio, 0.1)
    ]
    health = Health(people=shown / 4)
    return DecisionInputs(now_s, *tallies, health, health, 0.0)


def samples(
    days: float, share: float, events_a_day: float, count: int = 20
) -> list[EvidenceSample]:
    """Independent events: the error is 2 / sqrt(events)."""
    found = []
    for at in range(count):
        day = days * (at + 1) / count
        events = events_a_day * 2 * share * day
        error = 2 / math.sqrt(events)
        time_ms = int(1000 * (START_S + day * DAY_S))
        found.append(
            EvidenceSample(time=time_ms, share=share, events=events, estimate=0.0, error=error)
        )
    return found


def test_a_sample_has_the_bounds_that_the_decision_went_by() -> None:
    taken = inputs(1.2, 40_000.0)
    decided = decide(trial().state, taken, RULES)
    sample = course.make_sample(trial(), taken, decided, RULES)
    assert decided.effect
    assert sample.estimate == pytest.approx(math.log(1.2))
    assert sample.lower == decided.effect.lower(RULES.false_promotion)
    assert sample.upper == decided.effect.upper(RULES.false_rollback)
    assert (sample.share, sample.is_shadow) == (RULES.steps[0], False)
    assert sample.events == pytest.approx(40_000 * 0.1 * 2.2)
    assert sample.canary_people == 10_000


def test_in_shadow_mode_nothing_is_known_of_reward() -> None:
    taken = inputs(1.0, 4000.0)
    sample = course.make_sample(
        trial(RolloutPhase.SHADOW),
        taken,
        decide(initial_state(0, shadow=True), taken, RULES),
        RULES,
    )
    assert (sample.is_shadow, sample.share) == (True, RULES.shadow_fraction)
    assert (sample.estimate, sample.lower, sample.upper) == (None, None, None)


def test_the_newest_decision_can_be_made_again_from_the_course() -> None:
    taken = inputs(1.2, 40_000.0)
    decided = decide(trial().state, taken, RULES)
    sample = course.make_sample(trial(), taken, decided, RULES)
    recorded = inputs_as_json(trial().state, taken, RULES)
    kept = course.add_sample(course.begin_course(trial(), None), sample, decided.reason, recorded)
    assert kept.time == sample.time
    again = read_recorded(kept.inputs, "the course").replay()
    assert (again.state, again.reason) == (decided.state, kept.reason)


def test_a_course_goes_on_after_a_restart_and_another_trial_has_its_own() -> None:
    known = course.begin_course(trial(), None)
    known = replace(known, samples=[EvidenceSample(time=5)])
    assert course.begin_course(trial(), known) is known
    other = replace(trial(), rollout_id="9-2")
    assert course.begin_course(other, known).samples == []


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=3 * MAX_SAMPLES))
def test_however_long_it_lasts_the_samples_are_few_and_spread(gaps: list[int]) -> None:
    times = np.cumsum(gaps).tolist()
    kept: list[EvidenceSample] = []
    for time_ms in times:
        kept = course.thin_out([*kept, EvidenceSample(time=time_ms)])
    found = [each.time for each in kept]
    assert len(found) == min(len(times), MAX_SAMPLES)
    assert (found[0], found[-1]) == (times[0], times[-1])
    assert found == sorted(found)


def test_a_course_of_two_weeks_has_evenly_spread_samples() -> None:
    kept = course.begin_course(trial(), None)
    now_s, end_s, made = START_S, START_S + 14 * DAY_S, 0
    while now_s < end_s:
        now_s += 1.0 if now_s < START_S + 600 else 60.0
        if course.is_due(kept, trial(), now_s):
            kept = course.add_sample(kept, EvidenceSample(time=int(1000 * now_s)), "", {})
            made += 1
    times = [each.time / 1000 - START_S for each in kept.samples]
    assert len(times) == MAX_SAMPLES
    # Few are written in all, and no day is without some.
    assert made < 2500
    assert {int(each // DAY_S) for each in times} == set(range(14))


def test_traffic_is_what_all_would_earn_whatever_the_share() -> None:
    for share in (0.01, 0.25):
        found = course.measure_traffic(samples(2.0, share, events_a_day=5000), START_S)
        assert found
        assert found.events_a_day == pytest.approx(5000)
        assert found.design_effect == pytest.approx(1.0)


def test_nothing_is_said_of_traffic_while_nothing_is_earned() -> None:
    assert course.measure_traffic([], START_S) is None
    assert course.measure_traffic([EvidenceSample(time=1, share=0.1)], 0.0) is None
    shadow = [EvidenceSample(time=at, share=0.05, is_shadow=True, events=at) for at in (1000, 9000)]
    assert course.measure_traffic(shadow, 0.0) is None


def test_people_who_are_alike_make_it_take_longer() -> None:
    alike = [replace(each, error=3 * (each.error or 0)) for each in samples(1.0, 0.5, 50_000)]
    found = course.measure_traffic(alike, START_S)
    assert found
    assert found.design_effect == pytest.approx(9.0)


def test_the_bound_is_that_of_the_margin_at_the_last_share() -> None:
    """At best the error is 2 / sqrt(events), and the sequence has to clear the margin."""
    traffic = course.RewardTraffic(events_a_day=250.0, design_effect=1.0)
    days = course.bound_days(traffic, RULES)
    error = traffic.error_after(250.0 * days)
    assert Effect(0.0, error).lower(RULES.false_promotion) == pytest.approx(-RULES.margin, rel=1e-3)


@pytest.mark.parametrize(
    ("effect", "phase"), [(0.3, RolloutPhase.PROMOTED), (-0.3, RolloutPhase.ROLLED_BACK)]
)
def test_a_verdict_is_expected_as_the_rules_take_it(effect: float, phase: RolloutPhase) -> None:
    seen = [replace(each, estimate=effect) for each in samples(0.1, 0.01, 500_000)]
    traffic = course.measure_traffic(seen, START_S)
    assert traffic
    found = course.expect_verdict(trial().state, seen[-1], traffic, RULES)
    assert list(found) == ["estimate", "equal", "harm"]
    assert found["estimate"].phase is phase
    assert found["harm"].phase is RolloutPhase.ROLLED_BACK
    assert 0 < found["harm"].days < 14
    # An hour a step at least, of which there are three more before it can be promoted.
    if phase is RolloutPhase.PROMOTED:
        assert found["estimate"].days >= 3 * RULES.min_step_s / DAY_S
    assert found["equal"].days > course.bound_days(traffic, RULES)


def test_with_little_traffic_no_verdict_is_expected_in_time() -> None:
    seen = samples(1.0, 0.5, 250)
    traffic = course.measure_traffic(seen, START_S)
    assert traffic
    at_the_end = replace(trial().state, step=len(RULES.steps) - 1)
    found = course.expect_verdict(at_the_end, seen[-1], traffic, RULES)["equal"]
    assert found.phase is RolloutPhase.ROLLED_BACK
    assert found.days == pytest.approx(RULES.give_up_s / DAY_S - 1.0, rel=0.1)
