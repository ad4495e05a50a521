"""What follows from the figures of a canary: a pure function, so that history can be replayed.

Kafka and Triton are elsewhere. The same state, figures and rules always give the same decision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from deploy.rollout.evidence import Effect, Tally, effect
from deploy.rollout.settings import RolloutSettings


class Status(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    HOLDING = "holding"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True)
class State:
    """A rollout between two decisions.

    Attributes:
        step: which of the steps it is at.
        started_s: when it began.
        step_since_s: when its share grew last.
    """

    step: int
    started_s: float
    step_since_s: float
    status: Status = Status.RUNNING

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to decide."""
        return self.status in (Status.PROMOTED, Status.ROLLED_BACK)


def begun(now_s: float) -> State:
    """At the first step."""
    return State(0, now_s, now_s)


@dataclass(frozen=True)
class Health:
    """How a variant serves.

    Attributes:
        requests: recommendations asked for, with those that failed.
        errors, fallbacks: of those, what the version refused and what popularity answered.
        p99_ms: from event to recommendation.
        coverage: different items that it showed.
    """

    requests: int
    errors: int
    fallbacks: int
    p99_ms: float
    coverage: int


@dataclass(frozen=True)
class Figures:
    """All that a decision is taken on.

    Attributes:
        drift: between the canary's scores and the baseline's: population stability index.
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
        effect: None while one of the variants has earned nothing.
    """

    state: State
    reason: str
    effect: Effect | None


def decide(state: State, seen: Figures, rules: RolloutSettings) -> Decision:
    """The next state. One that has ended stays as it is.

    A guard takes back at once. Then the sequential test: worse than the baseline is taken back, not
    worse than the margin at the last step is promoted; in between the share grows as far as the
    worst that is still possible is bearable.
    """
    if state.ended:
        return Decision(state, f"has ended: {state.status}", None)
    if broken := broken_guard(seen, rules):
        return _ended(state, Status.ROLLED_BACK, broken, None)
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
    errors = _rate(ours.errors, ours) - _rate(theirs.errors, theirs)
    fallbacks = _rate(ours.fallbacks, ours) - _rate(theirs.fallbacks, theirs)
    broken = {
        f"errors: {errors:+.2%} of requests beside the baseline": errors > rules.max_error_rate,
        f"fallbacks: {fallbacks:+.2%} of requests beside the baseline": (
            fallbacks > rules.max_fallback_rate
        ),
        f"slow: p99 {ours.p99_ms:.0f} ms, the baseline's {theirs.p99_ms:.0f}": (
            ours.p99_ms > rules.max_slowdown * theirs.p99_ms
        ),
        f"coverage: {ours.coverage} items shown, by the baseline {theirs.coverage}": (
            ours.coverage < rules.min_coverage * theirs.coverage
        ),
        f"scores drift: {seen.drift:.2f}": seen.drift > rules.max_drift,
    }
    return "; ".join(line for line, yes in broken.items() if yes)


def _rate(count: int, of: Health) -> float:
    return count / of.requests if of.requests else 0.0


def _on_evidence(state: State, now_s: float, found: Effect, rules: RolloutSettings) -> Decision:
    best, worst = found.upper(rules.false_rollback), found.lower(rules.false_promotion)
    if best < 0:
        return _ended(state, Status.ROLLED_BACK, f"worse: {_range(worst, best)}", found)
    if now_s - state.step_since_s < rules.min_step_s:
        return _waiting(state, now_s, found, rules)
    if state.step == len(rules.steps) - 1:
        if worst > -rules.margin:
            return _ended(state, Status.PROMOTED, f"no worse: {_range(worst, best)}", found)
        return _waiting(state, now_s, found, rules)
    share = rules.steps[state.step + 1]
    if worst * share > -rules.max_harm:
        grown = replace(state, step=state.step + 1, step_since_s=now_s, status=Status.RUNNING)
        return Decision(grown, f"grows to {share:.0%}: {_range(worst, best)}", found)
    return _waiting(state, now_s, found, rules)


def _waiting(state: State, now_s: float, found: Effect | None, rules: RolloutSettings) -> Decision:
    """There is no verdict yet: how long there has been none."""
    if now_s - state.started_s >= rules.give_up_s:
        return _ended(state, Status.ROLLED_BACK, "no verdict in time", found)
    if now_s - state.step_since_s >= rules.hold_s:
        return Decision(replace(state, status=Status.HOLDING), "holds: no verdict yet", found)
    return Decision(state, "goes on", found)


def _ended(state: State, status: Status, reason: str, found: Effect | None) -> Decision:
    return Decision(replace(state, status=status), reason, found)


def _range(worst: float, best: float) -> str:
    return f"reward {worst:+.1%} to {best:+.1%} beside the baseline"
