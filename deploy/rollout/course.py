"""How a rollout's evidence went, and how long it is likely to take from here on. Pure.

The controller keeps a bounded number of samples of what each decision was taken on (`add_sample`),
so that the past of the confidence sequence is a query, and no reading of the log.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from deploy.rollout import history
from deploy.rollout.decision import Decision, RolloutState, Trial, decide_on_effect
from deploy.rollout.evidence import DecisionInputs, Effect, radius
from deploy.rollout.settings import DAY_S, RolloutSettings
from features.rollout_messages import MAX_SAMPLES, EvidenceSample, RolloutCourse, RolloutPhase

# At first a sample as often as this; later as often as keeps their number.
LEAST_S = 2.0
# Looks ahead, at most, each this much further than the one before.
_LOOKS, _FURTHER = 400, 1.03


def make_sample(
    trial: Trial, inputs: DecisionInputs, decision: Decision, rules: RolloutSettings
) -> EvidenceSample:
    """What a decision was taken on, in a few numbers.

    Args:
        trial: as it was before the decision.
    """
    effect, tallies = decision.effect, (inputs.canary, inputs.baseline)
    share = history.share_of(trial.to_rollout(rules, 0))
    bounds: Mapping[str, float] = {}
    if effect and effect.error:
        lower, upper = effect.lower(rules.false_promotion), effect.upper(rules.false_rollback)
        bounds = {"lower": lower, "upper": upper, "error": effect.error}
    return EvidenceSample(
        time=int(1000 * inputs.now_s),
        share=share,
        is_shadow=trial.routing_phase is RolloutPhase.SHADOW,
        shown=float(sum(each.shown.sum() for each in tallies)),
        events=float(sum(each.events or 0.0 for each in tallies)),
        canary_people=inputs.canary_health.people,
        baseline_people=inputs.baseline_health.people,
        estimate=effect.estimate if effect else None,
        **bounds,
    )


def begin_course(trial: Trial, known: RolloutCourse | None) -> RolloutCourse:
    """The course of a trial so far; an empty one, where what is known is another trial's."""
    if known is not None and known.rollout_id == trial.rollout_id:
        return known
    return RolloutCourse(model=trial.model, rollout_id=trial.rollout_id, time=trial.started_ms)


def is_due(course: RolloutCourse, trial: Trial, now_s: float) -> bool:
    """Whether it is time for another sample."""
    if not course.samples:
        return True
    every_s = max(LEAST_S, (now_s - trial.state.started_s) / MAX_SAMPLES)
    return now_s - course.samples[-1].time / 1000 >= every_s


def add_sample(
    course: RolloutCourse, sample: EvidenceSample, reason: str, inputs: dict[str, Any]
) -> RolloutCourse:
    """The course with one sample more.

    Args:
        reason, inputs: of the decision, as a step has them.
    """
    samples = thin_out([*course.samples, sample])
    return replace(course, time=sample.time, samples=samples, reason=reason, inputs=inputs)


def thin_out(samples: Sequence[EvidenceSample]) -> list[EvidenceSample]:
    """As many as are kept: those whose removal leaves the smallest gaps go; first and last stay.

    >>> given = (0, 10, 12, *range(20, 10 * MAX_SAMPLES, 10))
    >>> times = [EvidenceSample(time=each) for each in given]
    >>> len(times) - MAX_SAMPLES, [each.time for each in thin_out(times)][:4]
    (1, [0, 10, 20, 30])
    """
    kept = list(samples)
    while len(kept) > MAX_SAMPLES:
        gaps = [kept[at + 1].time - kept[at - 1].time for at in range(1, len(kept) - 1)]
        # Of equal ones the last: 12 and not 10, whose neighbours are 0 and 12.
        smallest = min(range(len(gaps)), key=lambda at: (gaps[at], -at))
        del kept[smallest + 1]
    return kept


@dataclass(frozen=True)
class RewardTraffic:
    """How quickly a rollout learns.

    Attributes:
        events_a_day: that earn a reward, were everyone in one of both variants.
        design_effect: how much larger the variance is than that of as many independent events.
    """

    events_a_day: float
    design_effect: float

    def error_after(self, events: float) -> float:
        """The standard error of the effect after so many events that earned, of both together.

        Its least is 2 / sqrt(events): that of the logarithm of a ratio of two Poisson counts, half
        of the events each.
        """
        return 2 * math.sqrt(self.design_effect / events) if events > 0 else math.inf


def measure_traffic(samples: Sequence[EvidenceSample], since_s: float) -> RewardTraffic | None:
    """Today's traffic as the samples show it; None while nothing is earned, or no time has passed.

    Args:
        since_s: what is older counts for nothing, in seconds since 1970.
    """
    shown = [each for each in samples if not each.is_shadow]
    recent = [each for each in shown if each.time >= 1000 * since_s]
    recent = recent if len(recent) > 1 else shown
    exposed_days = sum(
        2 * before.share * (after.time - before.time) / (1000 * DAY_S)
        for before, after in pairwise(recent)
    )
    earned = recent[-1].events - recent[0].events if recent else 0.0
    if exposed_days <= 0 or earned <= 0:
        return None
    newest = recent[-1]
    known = newest.error is not None and newest.events > 0
    effect = newest.events * (newest.error or 0.0) ** 2 / 4 if known else 1.0
    return RewardTraffic(earned / exposed_days, max(1.0, effect))


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of a rollout, if the truth is this, and all else stays as it is.

    Attributes:
        phase: the verdict.
        days: until then, from now.
    """

    effect: float
    phase: RolloutPhase
    days: float


def expect_verdict(
    state: RolloutState, newest: EvidenceSample, traffic: RewardTraffic, rules: RolloutSettings
) -> dict[str, Outlook]:
    """The verdict and when it is due, by what the canary's effect might be.

    It decides ahead by the rules, with the error that so many events give, and an estimate that is
    where it is assumed to be. Chance moves either way: about half of the rollouts take longer.

    Returns:
        By name: `estimate`, where there is one, `equal` (no effect), `harm` (worse by a fifth).
    """
    cases = {"equal": 0.0, "harm": math.log(0.8)}
    if newest.estimate is not None:
        cases = {"estimate": newest.estimate, **cases}
    return {
        name: _look_ahead(state, newest, (effect, traffic), rules) for name, effect in cases.items()
    }


def _look_ahead(
    state: RolloutState,
    newest: EvidenceSample,
    assumed: tuple[float, RewardTraffic],
    rules: RolloutSettings,
) -> Outlook:
    effect, traffic = assumed
    start_s = now_s = newest.time / 1000
    events, ahead_s = newest.events, max(LEAST_S, rules.min_step_s / 4)
    if state.phase is not RolloutPhase.RUNNING:
        state = replace(state, phase=RolloutPhase.RUNNING)
    for _ in range(_LOOKS):
        step = min(state.step, len(rules.steps) - 1)
        events += traffic.events_a_day * 2 * rules.steps[step] * ahead_s / DAY_S
        now_s += ahead_s
        found = Effect(effect, traffic.error_after(events))
        decided = decide_on_effect(state, now_s, found, rules).state
        if decided.is_terminal:
            return Outlook(effect, decided.phase, (now_s - start_s) / DAY_S)
        has_grown = decided.step > state.step
        state = replace(decided, phase=RolloutPhase.RUNNING)
        ahead_s = max(LEAST_S, rules.min_step_s / 4) if has_grown else ahead_s * _FURTHER
    return Outlook(effect, RolloutPhase.ROLLED_BACK, (now_s - start_s) / DAY_S)


def bound_days(traffic: RewardTraffic, rules: RolloutSettings) -> float:
    """Days that no method could do without, to find an equal canary no worse than by the margin.

    With R events a day over both variants the standard error is 2 / sqrt(R * days) at best. The
    share is the last step's, and the error the largest at which this confidence sequence clears the
    margin.
    """
    events_a_day = traffic.events_a_day * 2 * rules.steps[-1]
    return 4 / (largest_error(rules) ** 2 * events_a_day)


def largest_error(rules: RolloutSettings) -> float:
    """The standard error at which the sequence's radius is the margin, for promotion.

    >>> rules = RolloutSettings()
    >>> round(radius(largest_error(rules), rules.false_promotion), 4) == rules.margin
    True
    """
    low, high = 1e-9, 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        is_wide = radius(middle, rules.false_promotion) > rules.margin
        low, high = (low, middle) if is_wide else (middle, high)
    return low
