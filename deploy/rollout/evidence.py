"""What feedback says of a canary beside its baseline, at any time that somebody looks.

B buckets of people. A person's clicks hang together, so people, not clicks, are counted as
independent: each belongs to one of B buckets by a hash, and what buckets differ by is the error of
the whole (N. Chamandy et al., "Estimating uncertainty for massive data streams", Google 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Errors at which intervals are tightest, each with its part of alpha: most rollouts are decided at
# the first; the others see early what is far off.
_TIGHTEST = ((0.015, 0.8), (0.06, 0.1), (0.25, 0.1))


@dataclass(frozen=True)
class Tally:
    """One variant so far.

    Attributes:
        shown: float[B], recommendations by bucket.
        reward: float[B], what people did with them, discounted by position.
    """

    shown: Floats
    reward: Floats


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
        """What the effect is below, with probability alpha at most, over all looks together."""
        return self.estimate - radius(self.error, alpha)

    def upper(self, alpha: float) -> float:
        """What it is above, likewise."""
        return self.estimate + radius(self.error, alpha)


def effect(canary: Tally, baseline: Tally) -> Effect | None:
    """How two variants differ; None while the baseline earned nothing."""
    if not baseline.reward.any() or not canary.shown.any():
        return None
    (ours, our_variance), (theirs, their_variance) = map(_log_rate, (canary, baseline))
    return Effect(ours - theirs, math.sqrt(our_variance + their_variance))


def _log_rate(one: Tally) -> tuple[float, float]:
    """The logarithm of reward per recommendation, and its variance by the delta method."""
    buckets, shown, reward = len(one.shown), one.shown.sum(), one.reward.sum()
    if not reward:
        # Nothing has no logarithm: as good as a single click, a Poisson count of variance 1.
        return math.log(1 / shown), 1.0
    rate = reward / shown
    apart = one.reward - rate * one.shown
    variance = buckets / (buckets - 1) * np.square(apart).sum() / reward**2
    return math.log(rate), float(variance)


def radius(error: float, alpha: float) -> float:
    """How far an estimate is from the truth on one side, at most, with probability 1 - alpha.

    It holds at all looks together, where the estimate's information (1 / error^2) is the clock: a
    one-sided normal mixture (S. Howard, A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021), for estimates
    that are nearly normal (I. Waudby-Smith et al., "Time-uniform central limit theory and
    asymptotic confidence sequences", Annals of Statistics 2024). The smallest of several, among
    which alpha is shared out.
    """
    if error == 0:
        return 0.0
    return min(_radius(error, alpha * part, tightest) for tightest, part in _TIGHTEST)


def _radius(error: float, alpha: float, tightest: float) -> float:
    """Args: tightest: the error at which it is tightest, about."""
    log = -2 * math.log(2 * alpha)
    mixture = tightest**-2 / (log + math.log(1 + log))
    information = error**-2
    spread = information + mixture
    sides = math.log(math.sqrt(spread / mixture) / (2 * alpha) + 1)
    return math.sqrt(2 * spread * sides) / information
