"""A canary's reward beside its baseline's: an estimate with a confidence sequence.

B buckets of people. One person's clicks are correlated, so people, not clicks, are taken as
independent: each belongs to one of B buckets by a hash, and the variance between buckets gives the
standard error (N. Chamandy et al., "Estimating uncertainty for massive data streams", Google 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from features.arrays import Float64Array

# Standard errors at which intervals are tightest, each with its part of alpha: most rollouts are
# decided at the first; the others detect large differences early.
_TIGHTEST = ((0.015, 0.8), (0.06, 0.1), (0.25, 0.1))


@dataclass(frozen=True)
class VariantTally:
    """What one variant has shown and earned so far.

    Attributes:
        shown: float64[B], recommendations by bucket.
        reward: float64[B], what people did with them, discounted by position.
    """

    shown: Float64Array
    reward: Float64Array


@dataclass(frozen=True)
class Effect:
    """The logarithm of a canary's reward per recommendation over the baseline's.

    Attributes:
        estimate: .1 is 10 % more, about.
        error: its standard error.
    """

    estimate: float
    error: float

    def lower(self, alpha: float) -> float:
        """A bound that the effect is below with probability alpha at most, over all looks."""
        return self.estimate - radius(self.error, alpha)

    def upper(self, alpha: float) -> float:
        """A bound that it is above with probability alpha at most, likewise."""
        return self.estimate + radius(self.error, alpha)


def estimate_effect(canary: VariantTally, baseline: VariantTally) -> Effect | None:
    """The canary's effect on reward; None while the baseline has earned nothing."""
    if not baseline.reward.any() or not canary.shown.any():
        return None
    (ours, our_variance), (theirs, their_variance) = map(_log_rate, (canary, baseline))
    return Effect(ours - theirs, math.sqrt(our_variance + their_variance))


def _log_rate(tally: VariantTally) -> tuple[float, float]:
    """The logarithm of reward per recommendation, and its variance by the delta method."""
    buckets, shown, reward = len(tally.shown), tally.shown.sum(), tally.reward.sum()
    if not reward:
        # Zero has no logarithm: taken for a single click, a Poisson count of variance 1.
        return math.log(1 / shown), 1.0
    rate = reward / shown
    residuals = tally.reward - rate * tally.shown
    variance = buckets / (buckets - 1) * np.square(residuals).sum() / reward**2
    return math.log(rate), float(variance)


def radius(error: float, alpha: float) -> float:
    """The one-sided radius of a confidence sequence of level 1 - alpha.

    It holds over all looks together, where the estimate's information (1 / error^2) is the clock: a
    one-sided normal mixture (S. Howard, A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021), for estimates
    that are nearly normal (I. Waudby-Smith et al., "Time-uniform central limit theory and
    asymptotic confidence sequences", Annals of Statistics 2024). The smallest of several, among
    which alpha is divided.
    """
    if error == 0:
        return 0.0
    return min(_radius(error, alpha * part, tightest) for tightest, part in _TIGHTEST)


def _radius(error: float, alpha: float, tightest: float) -> float:
    """Args: tightest: the standard error at which the interval is tightest, about."""
    log = -2 * math.log(2 * alpha)
    mixture = tightest**-2 / (log + math.log(1 + log))
    information = error**-2
    spread = information + mixture
    sides = math.log(math.sqrt(spread / mixture) / (2 * alpha) + 1)
    return math.sqrt(2 * spread * sides) / information
