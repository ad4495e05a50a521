"""What another policy would have earned on decisions that were logged, and how sure that is.

A decision is one place of one list: the logged policy put an item there with a known probability,
and what it earned was seen. Another policy would have put each item there with a probability of its
own. Three estimates of what it would have earned a decision:

    IPS    the mean of w * r, with w the other policy's probability over the logged one's
           (D. Horvitz, D. Thompson, JASA 1952)
    SNIPS  the sum of w * r over the sum of w: less variance, a little bias
           (A. Swaminathan, T. Joachims: "The Self-Normalized Estimator for Counterfactual
           Learning", NIPS 2015)
    DR     the mean of what a model expects of the other policy, plus w times the model's error
           where it was seen (M. Dudik, J. Langford, L. Li: "Doubly Robust Policy Evaluation and
           Learning", ICML 2011); for a model that was not fitted on the same decisions

Intervals are 95 %, of the linearised estimate, with a person's decisions summed, because they are
alike (C. Saerndal, B. Swensson, J. Wretman: "Model Assisted Survey Sampling", 1992, section 5.5).

Shapes: N decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from features.schema import Float64Array, Int64Array

# Of a normal distribution, two-sided 95 %.
_QUANTILE = 1.959964
# Below these the log does not say what the other policy would earn.
LEAST_SUPPORT = 0.9
LEAST_DECISIONS = 50.0


@dataclass(frozen=True)
class LoggedDecisions:
    """Decisions, what they earned, and what another policy would have done: float64[N] each.

    Attributes:
        people: int64[N], whose they are, by any number.
        rewards: what each earned.
        logged: the probability with which the logged policy took what it took, above 0.
        other: the probability with which the other policy takes the same.
        supported: how much of the other policy's probability lies on what the logged one could have
            taken; 1 where it could have taken all.
        expected: what a model expects of what was taken.
        expected_other: what it expects of the other policy: the mean over all that it may take.
    """

    people: Int64Array
    rewards: Float64Array
    logged: Float64Array
    other: Float64Array
    supported: Float64Array
    expected: Float64Array
    expected_other: Float64Array

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if values.shape != self.people.shape or not np.isfinite(values).all():
                raise ValueError(f"{name}: expected {len(self.people)} numbers")
        if len(self.people) and not (self.logged.min() > 0 and self.logged.max() <= 1):
            raise ValueError("logged: expected probabilities above 0")


@dataclass(frozen=True)
class Estimate:
    """A value a decision, and its 95 % interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class PolicyComparison:
    """What both policies earn a decision.

    Attributes:
        decisions: N.
        effective_decisions: as how many decisions of equal weight the log counts for the other
            policy (L. Kish, "Survey Sampling", 1965): the square of the sum of weights over the sum
            of their squares.
        support: the mean of `supported`.
        logged: what the logged policy earned.
        other: by estimator.
        gains: by estimator, the other policy's less the logged one's, of the same decisions.
    """

    decisions: int
    effective_decisions: float
    support: float
    logged: Estimate
    other: Mapping[str, Estimate]
    gains: Mapping[str, Estimate]

    @property
    def silence(self) -> str:
        """Why the log cannot say what the other policy would earn; "" where it can."""
        if self.support < LEAST_SUPPORT:
            return (
                f"{1 - self.support:.0%} of what it would show could not have been shown: let a "
                "share of places explore, and wait"
            )
        if self.effective_decisions < LEAST_DECISIONS:
            return (
                f"{self.effective_decisions:.0f} decisions count for it, {LEAST_DECISIONS:.0f} are "
                "needed: let a larger share of places explore, or wait"
            )
        return ""


def compare_policies(log: LoggedDecisions) -> PolicyComparison:
    """What another policy would have earned beside the one that decided.

    Raises:
        ValueError: there are no decisions.
    """
    if not len(log.people):
        raise ValueError("no decisions")
    weights = log.other / log.logged
    ones = np.ones(len(weights))
    residual = weights * (log.rewards - log.expected)
    parts = {
        "ips": (weights * log.rewards, ones),
        "snips": (weights * log.rewards, weights),
        "dr": (log.expected_other + residual, ones),
    }
    people = np.unique(log.people, return_inverse=True)[1]
    logged, influence = _estimate_ratio(log.rewards, ones)
    other, gains = {}, {}
    for name, (earned, counted) in parts.items():
        value, own = _estimate_ratio(earned, counted)
        other[name] = _with_interval(value, own, people)
        gains[name] = _with_interval(value - logged, own - influence, people)
    squares = float((weights**2).sum())
    return PolicyComparison(
        decisions=len(weights),
        effective_decisions=float(weights.sum()) ** 2 / squares if squares else 0.0,
        support=float(log.supported.mean()),
        logged=_with_interval(logged, influence, people),
        other=other,
        gains=gains,
    )


def _estimate_ratio(earned: Float64Array, counted: Float64Array) -> tuple[float, Float64Array]:
    """The sum of one over that of the other, and how much each decision moves it: float64[N]."""
    total = float(counted.sum())
    if not total:
        return 0.0, np.zeros(len(earned))
    value = float(earned.sum()) / total
    return value, (earned - value * counted) / total


def _with_interval(value: float, influence: Float64Array, people: Int64Array) -> Estimate:
    sums = np.bincount(people, influence)
    # One person alone says nothing of others.
    spread = np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) if len(sums) > 1 else np.inf
    half = float(_QUANTILE * spread)
    return Estimate(value, (value - half, value + half))
