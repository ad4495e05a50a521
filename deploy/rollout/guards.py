"""Guards: what no reward makes up for. One that is broken takes a canary back at once.

A guard that compares how often something happens is one entry of `GUARDS`, its limit in
`RolloutSettings` and, where nothing counts it yet, one counter in `feedback.counters.COUNTERS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from deploy.rollout.evidence import GUARD_SIGMAS, DecisionInputs, Health
from deploy.rollout.settings import RolloutSettings


class GuardReading(NamedTuple):
    """What a guard measures, as of now.

    Attributes:
        name: what it watches, with its unit.
        canary: the canary's figure.
        baseline: the figure that this is compared with; None where the guard has but one.
        limit: what the canary's may be at most, or at least, before chance is allowed for.
        problem: in one line, for the history; "" where there is none.
    """

    name: str
    canary: float
    baseline: float | None
    limit: float
    problem: str


Guard = Callable[[DecisionInputs, RolloutSettings], GuardReading]


class Direction(StrEnum):
    """On which side of the baseline's rate a canary's rate is a problem."""

    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True)
class RateGuard:
    """Compares a rate of the canary with the baseline's; broken where chance does not explain it.

    Attributes:
        name: what the history calls it.
        numerator, denominator: names of counters.
        limit: the setting that says how far the rates may lie apart.
    """

    name: str
    numerator: str
    denominator: str
    limit: str
    direction: Direction = Direction.ABOVE

    def __call__(self, inputs: DecisionInputs, rules: RolloutSettings) -> GuardReading:
        """The rates, and how far they may lie apart."""
        ours, theirs = inputs.canary_health, inputs.baseline_health
        difference, error = self._difference(ours, theirs)
        apart: float = getattr(rules, self.limit)
        side = -1 if self.direction is Direction.BELOW else 1
        problem = ""
        if side * difference - GUARD_SIGMAS * error > apart:
            problem = (
                f"{self.name}: {self._rate(ours):.2%} of {self.denominator}, "
                f"of the baseline's {self._rate(theirs):.2%}"
            )
        rates = self._rate(ours), self._rate(theirs)
        name = f"{self.name}, of {self.denominator}"
        return GuardReading(name, *rates, rates[1] + side * apart, problem)

    def _rate(self, health: Health) -> float:
        return health.counts[self.numerator] / max(1, health.counts[self.denominator])

    def _difference(self, ours: Health, theirs: Health) -> tuple[float, float]:
        """The difference of two rates and its standard error.

        Rates of A. Agresti and B. Caffo, "Simple and effective confidence intervals for
        proportions", The American Statistician 54, 2000: one of each kind more.
        """
        totals = [health.counts[self.denominator] + 2 for health in (ours, theirs)]
        rates = [
            (health.counts[self.numerator] + 1) / total
            for health, total in zip((ours, theirs), totals, strict=True)
        ]
        variances = [rate * (1 - rate) / total for rate, total in zip(rates, totals, strict=True)]
        return rates[0] - rates[1], math.sqrt(sum(variances))


def check_latency(inputs: DecisionInputs, rules: RolloutSettings) -> GuardReading:
    """The canary is much slower than its baseline."""
    ours, theirs = inputs.canary_health, inputs.baseline_health
    limit_ms = max(rules.min_slow_ms, rules.max_slowdown * theirs.p99_ms)
    problem = ""
    if theirs.p99_ms and ours.p99_at_least_ms > limit_ms:
        problem = f"slow: p99 {ours.p99_ms:.0f} ms, the baseline's {theirs.p99_ms:.0f}"
    return GuardReading("p99, ms", ours.p99_ms, theirs.p99_ms, limit_ms, problem)


def check_coverage(inputs: DecisionInputs, rules: RolloutSettings) -> GuardReading:
    """The canary shows few different items, in as many lists as the baseline."""
    lists = [health.counts["covers"] for health in (inputs.canary_health, inputs.baseline_health)]
    ours, theirs = inputs.canary_health.coverage, inputs.baseline_health.coverage
    least = rules.min_coverage * theirs
    # An older release has counted all lists, and not how many.
    are_few = any(lists) and min(lists) < rules.min_requests
    problem = ""
    if ours < least and not are_few:
        problem = f"coverage: {ours} items shown, by the baseline {theirs}"
    return GuardReading("coverage, items", ours, theirs, least, problem)


def check_drift(inputs: DecisionInputs, rules: RolloutSettings) -> GuardReading:
    """The canary's scores are distributed otherwise than the baseline's."""
    drift, most = inputs.drift, rules.max_drift
    problem = f"scores drift: {drift:.2f}" if drift > most else ""
    return GuardReading("drift of scores, stability index", drift, None, most, problem)


GUARDS: tuple[Guard, ...] = (
    RateGuard("errors", "failed", "requests", "max_error_rate"),
    RateGuard("fallbacks", "fallbacks", "requests", "max_fallback_rate"),
    RateGuard("short lists", "short", "requests", "max_short_rate"),
    check_latency,
    check_coverage,
    check_drift,
)


def read_guards(inputs: DecisionInputs, rules: RolloutSettings) -> list[GuardReading]:
    """What each guard measures; none speaks before the canary has had `rules.min_requests`."""
    return [guard(inputs, rules) for guard in GUARDS]


def broken_guards(inputs: DecisionInputs, rules: RolloutSettings) -> str:
    """The problems of all broken guards in one line; empty where there is none."""
    if inputs.canary_health.requests < rules.min_requests:
        return ""
    return "; ".join(found.problem for found in read_guards(inputs, rules) if found.problem)
