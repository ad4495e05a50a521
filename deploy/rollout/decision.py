"""What follows from the figures of a canary: a pure function, so that history can be replayed.

Kafka and Triton are elsewhere. The same state, figures and rules always give the same decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from headwater_client.errors import HeadwaterError

from deploy.rollout.evidence import Effect, Tally, effect
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Action, RolloutState

# Standard errors between chance and a broken guard: guards are looked at thousands of times.
SURE = 4.0


class RefusedError(HeadwaterError):
    """What was asked for cannot be done to this rollout."""


@dataclass(frozen=True)
class State:
    """A rollout between two decisions.

    Attributes:
        step: which of the steps it is at.
        started_s: when it began.
        step_since_s: when its share grew last.
        resumes: what it goes on with after a pause.
    """

    step: int
    started_s: float
    step_since_s: float
    status: RolloutState = RolloutState.RUNNING
    resumes: RolloutState = RolloutState.RUNNING

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to decide."""
        return self.status.ended


def begun(now_s: float, *, shadow: bool = False) -> State:
    """At the first step, or before it, in the shadow."""
    return State(0, now_s, now_s, RolloutState.SHADOW if shadow else RolloutState.RUNNING)


def steered(state: State, action: Action, now_s: float) -> State:
    """The next state as somebody asks for it.

    Raises:
        RefusedError: it cannot be asked for now.
    """
    possible = {
        Action.PROMOTE: True,
        Action.ROLLBACK: True,
        Action.PAUSE: state.status is not RolloutState.PAUSED,
        Action.RESUME: state.status is RolloutState.PAUSED,
    }
    if state.ended or not possible.get(action):
        raise RefusedError(f"{action}: the rollout is {state.status}")
    match action:
        case Action.PAUSE:
            shadow = state.status is RolloutState.SHADOW
            return replace(
                state,
                status=RolloutState.PAUSED,
                resumes=RolloutState.SHADOW if shadow else RolloutState.RUNNING,
            )
        case Action.RESUME:
            return replace(state, status=state.resumes, step_since_s=now_s)
        case Action.PROMOTE:
            return replace(state, status=RolloutState.PROMOTED)
        case _:
            return replace(state, status=RolloutState.ROLLED_BACK)


@dataclass(frozen=True)
class Health:
    """How a variant serves.

    Attributes:
        requests: recommendations asked for, with those that failed.
        errors, fallbacks: of those, what the version refused and what popularity answered.
        p99_ms: of the version's answers.
        p99_at_least_ms: what that is at least, from so many answers.
        coverage: different items that it showed.
    """

    requests: int
    errors: int
    fallbacks: int
    p99_ms: float
    p99_at_least_ms: float
    coverage: int


@dataclass(frozen=True)
class Figures:
    """All that a decision is taken on.

    Attributes:
        drift: between the canary's scores and the baseline's: population stability index, less
            what chance explains.
    """

    now_s: float
    canary: Tally
    baseline: Tally
    canary_health: Health
    baseline_health: Health
    drift: float


@dataclass(frozen=True)
class Decision:
    """What was decided, and why, for the history.

    Attributes:
        effect: None while the baseline has earned nothing.
    """

    state: State
    reason: str
    effect: Effect | None


def decide(state: State, seen: Figures, rules: RolloutSettings) -> Decision:
    """The next state. One that has ended stays as it is.

    A guard takes back at once, be it paused. In the shadow that is all: what nobody sees earns
    nothing. Then the sequential test: worse than the baseline is taken back, not worse than the
    margin at the last step is promoted; in between the share grows as far as the worst that is
    still possible is bearable.
    """
    if state.ended:
        return Decision(state, f"has ended: {state.status}", None)
    if broken := broken_guard(seen, rules):
        return _ended(state, RolloutState.ROLLED_BACK, broken, None)
    if state.status is RolloutState.PAUSED:
        return Decision(state, "paused", None)
    if state.status is RolloutState.SHADOW:
        return _in_the_shadow(state, seen, rules)
    found = effect(seen.canary, seen.baseline)
    shown = min(seen.canary.shown.sum(), seen.baseline.shown.sum())
    if found and shown >= rules.min_shown:
        return _on_evidence(state, seen.now_s, found, rules)
    return _waiting(state, seen.now_s, found, rules)


def broken_guard(seen: Figures, rules: RolloutSettings) -> str:
    """What no reward makes up for, in a line; empty where all is well."""
    ours, theirs = seen.canary_health, seen.baseline_health
    if ours.requests < rules.min_requests:
        return ""
    errors = _beyond(ours.errors, ours, theirs.errors, theirs)
    fallbacks = _beyond(ours.fallbacks, ours, theirs.fallbacks, theirs)
    broken = {
        f"errors: {_rates(ours.errors, ours, theirs.errors, theirs)}": (
            errors > rules.max_error_rate
        ),
        f"fallbacks: {_rates(ours.fallbacks, ours, theirs.fallbacks, theirs)}": (
            fallbacks > rules.max_fallback_rate
        ),
        f"slow: p99 {ours.p99_ms:.0f} ms, the baseline's {theirs.p99_ms:.0f}": (
            ours.p99_at_least_ms > rules.max_slowdown * theirs.p99_ms > 0
        ),
        f"coverage: {ours.coverage} items shown, by the baseline {theirs.coverage}": (
            ours.coverage < rules.min_coverage * theirs.coverage
        ),
        f"scores drift: {seen.drift:.2f}": seen.drift > rules.max_drift,
    }
    return "; ".join(line for line, yes in broken.items() if yes)


def _rates(our_count: int, ours: Health, their_count: int, theirs: Health) -> str:
    ratios = (
        count / max(1, of.requests) for count, of in ((our_count, ours), (their_count, theirs))
    )
    return "{:.2%} of requests, of the baseline's {:.2%}".format(*ratios)


def _beyond(our_count: int, ours: Health, their_count: int, theirs: Health) -> float:
    """How far one rate lies above the other, at least: their difference less `SURE` errors.

    Rates of A. Agresti and B. Caffo, "Simple and effective confidence intervals for proportions",
    The American Statistician 54, 2000: one of each kind more.
    """
    (our_rate, our_variance), (their_rate, their_variance) = (
        _smoothed(count, of.requests) for count, of in ((our_count, ours), (their_count, theirs))
    )
    return our_rate - their_rate - SURE * math.sqrt(our_variance + their_variance)


def _smoothed(count: int, of: int) -> tuple[float, float]:
    rate = (count + 1) / (of + 2)
    return rate, rate * (1 - rate) / (of + 2)


def _in_the_shadow(state: State, seen: Figures, rules: RolloutSettings) -> Decision:
    asked, lasted_s = seen.canary_health.requests, seen.now_s - state.started_s
    if asked >= rules.min_requests and lasted_s >= rules.shadow_s:
        shown = replace(state, step_since_s=seen.now_s, status=RolloutState.RUNNING)
        reason = f"shown to {rules.steps[0]:.0%}: answered {asked} requests unseen"
        return Decision(shown, reason, None)
    return _waiting(state, seen.now_s, None, rules)


def _on_evidence(state: State, now_s: float, found: Effect, rules: RolloutSettings) -> Decision:
    best, worst = found.upper(rules.false_rollback), found.lower(rules.false_promotion)
    if best < 0:
        return _ended(state, RolloutState.ROLLED_BACK, f"worse: {_range(worst, best)}", found)
    if now_s - state.step_since_s < rules.min_step_s:
        return _waiting(state, now_s, found, rules)
    if state.step == len(rules.steps) - 1:
        if worst > -rules.margin:
            return _ended(state, RolloutState.PROMOTED, f"no worse: {_range(worst, best)}", found)
        return _waiting(state, now_s, found, rules)
    share = rules.steps[state.step + 1]
    if worst * share > -rules.max_harm:
        grown = replace(state, step=state.step + 1, step_since_s=now_s, status=RolloutState.RUNNING)
        return Decision(grown, f"grows to {share:.0%}: {_range(worst, best)}", found)
    return _waiting(state, now_s, found, rules)


def _waiting(state: State, now_s: float, found: Effect | None, rules: RolloutSettings) -> Decision:
    """There is no verdict yet: how long there has been none."""
    if now_s - state.started_s >= rules.give_up_s:
        return _ended(state, RolloutState.ROLLED_BACK, "no verdict in time", found)
    if state.status is RolloutState.RUNNING and now_s - state.step_since_s >= rules.hold_s:
        return Decision(replace(state, status=RolloutState.HOLDING), "holds: no verdict yet", found)
    return Decision(state, "goes on", found)


def _ended(state: State, status: RolloutState, reason: str, found: Effect | None) -> Decision:
    return Decision(replace(state, status=status), reason, found)


def _range(worst: float, best: float) -> str:
    return f"reward {worst:+.1%} to {best:+.1%} beside the baseline"
