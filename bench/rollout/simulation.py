"""Simulated rollouts, decided by the product's own rules and by tests that others use.

B buckets of people, T ticks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu, norm

from bench.rollout.world import TICK_S, Population, Variants
from deploy.rollout import (
    DecisionInputs,
    Effect,
    Health,
    RolloutSettings,
    decide,
    estimate_effect,
    initial_state,
)
from features.arrays import Float64Array
from features.rollout_messages import RolloutPhase

WELL = Health(p99_ms=50.0, p99_at_least_ms=50.0, coverage=1000)
# Of the tests that are compared with, two-sided.
ALPHA, POWER = 0.05, 0.8
MANN_WHITNEY, Z_TEST = "mann_whitney", "z_test"
_CRITICAL = float(norm.ppf(1 - ALPHA / 2))


@dataclass(frozen=True)
class SimulatedRollout:
    """How one rollout ended.

    Attributes:
        ticks: until the end.
        shown: recommendations of the canary until then.
        share: of everyone's recommendations in the whole time that a rollout may take, those of
            the canary; all that come after a promotion included.
    """

    phase: RolloutPhase
    reason: str
    ticks: int
    shown: float
    share: float


def simulate_rollout(
    population: Population, change: float, rules: RolloutSettings, generator: np.random.Generator
) -> SimulatedRollout:
    """One rollout of a version that earns so much more (.05 is 5 %)."""
    variants = Variants(population, change, rules.steps, generator)
    state, ticks, reason, shown = initial_state(0.0), 0, "", 0.0
    while not state.is_terminal:
        canary, baseline = variants.advance(state.step, ticks)
        ticks += 1
        inputs = DecisionInputs(ticks * TICK_S, canary, baseline, WELL, WELL, 0.0)
        decided = decide(state, inputs, rules)
        state, reason, shown = decided.state, decided.reason, float(canary.shown.sum())
    ticks_at_most = rules.give_up_s / TICK_S
    after = variants.requests * (ticks_at_most - ticks)
    seen = shown + (after if state.phase is RolloutPhase.PROMOTED else 0.0)
    return SimulatedRollout(
        state.phase, reason, ticks, shown, seen / (variants.requests * ticks_at_most)
    )


@dataclass(frozen=True)
class RepeatedLooks:
    """Tests for a single look at half of everyone, looked at every hour.

    Attributes:
        alarms: by test, whether it sees a difference at each hour: bool[T].
        shown: recommendations of one variant so far, float[T].
        errors: standard error of the effect, float[T].
    """

    alarms: dict[str, npt.NDArray[np.bool_]]
    shown: Float64Array
    errors: Float64Array


def look_repeatedly(
    population: Population, change: float, hours: int, generator: np.random.Generator
) -> RepeatedLooks:
    """What they find of a version that earns so much more."""
    variants = Variants(population, change, [0.5], generator)
    rows = []
    for hour in range(hours):
        tallies = variants.advance(0, hour)
        ours, theirs = (tally.reward / np.maximum(tally.shown, 1) for tally in tallies)
        differ = estimate_effect(*tallies) or Effect(0.0, np.inf)
        rows.append(
            (
                mannwhitneyu(ours, theirs).pvalue < ALPHA,
                abs(differ.estimate) > _CRITICAL * differ.error,
                tallies[0].shown.sum(),
                differ.error,
            )
        )
    ranked, normal, shown, errors = map(np.array, zip(*rows, strict=True))
    return RepeatedLooks({MANN_WHITNEY: ranked, Z_TEST: normal}, shown, errors)


def required_sample(looked: Sequence[RepeatedLooks], change: float) -> float:
    """Recommendations of each variant that a single look needs to see a change with `POWER`.

    As many as there were when the standard error was small enough, on the mean; NaN where it never
    was.
    """
    wanted = abs(math.log1p(change)) / (_CRITICAL + float(norm.ppf(POWER)))
    errors = np.mean([looks.errors for looks in looked], axis=0)
    shown = np.mean([looks.shown for looks in looked], axis=0)
    enough = np.flatnonzero(errors <= wanted)
    return float(shown[enough[0]]) if len(enough) else math.nan
