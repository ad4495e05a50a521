"""Guards: what no reward makes up for. One that is broken takes a canary back at once.

A guard that compares how often something happens is one entry of `GUARDS`, its limit in
`RolloutSettings` and, where nothing counts it yet, one counter in `feedback.counters.COUNTERS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from deploy.rollout.evidence import GUARD_SIGMAS, DecisionInputs, Health
from deploy.rollout.settings import RolloutSettings

# The problem in one line, for the history; empty where there is none.
Guard = Callable[[DecisionInputs, RolloutSettings], str]


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

    def __call__(self, inputs: DecisionInputs, rules: RolloutSettings) -> str:
        """The problem in one line."""
        ours, theirs = inputs.canary_health, inputs.baseline_health
        difference, error = self._difference(ours, theirs)
        if self.direction is Direction.BELOW:
            difference = -difference
        limit: float = getattr(rules, self.limit)
        if not difference - GUARD_SIGMAS * error > limit:
            return ""
        return (
            f"{self.name}: {self._rate(ours):.2%} of {self.denominator}, "
            f"of the baseline's {self._rate(theirs):.2%}"
        )

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


def check_latency(inputs: DecisionInputs, rules: RolloutSettings) -> str:
    """The canary is much slower than its baseline."""
    ours, theirs = inputs.canary_health, inputs.baseline_health
    limit_ms = max(rules.min_slow_ms, rules.max_slowdown * theirs.p99_ms)
    if not theirs.p99_ms or ours.p99_at_least_ms <= limit_ms:
        return ""
    return f"slow: p99 {ours.p99_ms:.0f} ms, the baseline's {theirs.p99_ms:.0f}"


def check_coverage(inputs: DecisionInputs, rules: RolloutSettings) -> str:
    """The canary shows few different items, in as many lists as the baseline."""
    lists = [health.counts["covers"] for health in (inputs.canary_health, inputs.baseline_health)]
    # An older release has counted all lists, and not how many.
    if any(lists) and min(lists) < rules.min_requests:
        return ""
    ours, theirs = inputs.canary_health.coverage, inputs.baseline_health.coverage
    if not ours < rules.min_coverage * theirs:
        return ""
    return f"coverage: {ours} items shown, by the baseline {theirs}"


def check_drift(inputs: DecisionInputs, rules: RolloutSettings) -> str:
    """The canary's scores are distributed otherwise than the baseline's."""
    return f"scores drift: {inputs.drift:.2f}" if inputs.drift > rules.max_drift else ""


GUARDS: tuple[Guard, ...] = (
    RateGuard("errors", "failed", "requests", "max_error_rate"),
    RateGuard("fallbacks", "fallbacks", "requests", "max_fallback_rate"),
    RateGuard("short lists", "short", "requests", "max_short_rate"),
    check_latency,
    check_coverage,
    check_drift,
)


def broken_guards(inputs: DecisionInputs, rules: RolloutSettings) -> str:
    """The problems of all broken guards in one line; empty where there is none."""
    if inputs.canary_health.requests < rules.min_requests:
        return ""
    problems = (guard(inputs, rules) for guard in GUARDS)
    return "; ".join(problem for problem in problems if problem)
