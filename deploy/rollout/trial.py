"""A rollout as it stands: what is tried out against what, and who gets which of the two."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deploy.rollout.decision import SURE, Figures, Health, State
from deploy.rollout.evidence import Tally
from deploy.rollout.settings import RolloutSettings
from features.feedback import Counters, Floats, Ints, quantile_ms
from features.rollout_messages import Rollout, RolloutState, RoutedVersion, Variant

# Population stability index: bins of the baseline with a tenth of its scores each.
_SHARES = 10
# Scores that each tenth has besides, so that none is without: Jeffreys' prior.
_PRIOR = 0.5
# Of chi-squared with nine degrees of freedom, .9999 lies below.
_CHANCE = 33.72
_P99 = 0.99


@dataclass(frozen=True)
class Trial:
    """A candidate and the stable version.

    Attributes:
        candidate, stable: version and address of each.
        state: of the decision.
        sequence: how many steps it has taken.
    """

    rollout_id: str
    model: str
    candidate: tuple[int, str]
    stable: tuple[int, str]
    state: State
    sequence: int = 0

    @property
    def started_ms(self) -> int:
        """When it began."""
        return int(1000 * self.state.started_s)

    def routed(self, rules: RolloutSettings, time_ms: int) -> Rollout:
        """Who gets what, as workers follow it."""
        return Rollout(
            model=self.model,
            versions=self._versions(rules),
            state=self.state.status,
            time=time_ms,
            rollout_id=self.rollout_id,
            sequence=self.sequence,
        )

    def _versions(self, rules: RolloutSettings) -> list[RoutedVersion]:
        match self.shown_as:
            case RolloutState.PROMOTED:
                return [_routed(self.candidate, Variant.STABLE, 1.0)]
            case RolloutState.ROLLED_BACK:
                return [_routed(self.stable, Variant.STABLE, 1.0)]
            case RolloutState.SHADOW:
                return [
                    _routed(self.stable, Variant.STABLE, 1.0),
                    _routed(self.candidate, Variant.SHADOW, rules.shadow_share),
                ]
        share = rules.steps[self.state.step]
        return [
            _routed(self.stable, Variant.STABLE, 1 - 2 * share),
            _routed(self.candidate, Variant.CANARY, share),
            _routed(self.stable, Variant.BASELINE, share),
        ]

    @property
    def shown_as(self) -> RolloutState:
        """What decides on who gets what: a pause changes nobody's version."""
        paused = self.state.status is RolloutState.PAUSED
        return self.state.resumes if paused else self.state.status


def _routed(version: tuple[int, str], variant: Variant, share: float) -> RoutedVersion:
    number, address = version
    return RoutedVersion(version=number, variant=variant, share=share, address=address)


def figures(trial: Trial, counters: dict[str, Counters], now_s: float) -> Figures:
    """What a decision is taken on: the canary beside its baseline; unseen, beside what is shown."""
    unseen = trial.shown_as is RolloutState.SHADOW
    ours, theirs = (
        (Variant.SHADOW, Variant.STABLE) if unseen else (Variant.CANARY, Variant.BASELINE)
    )
    canary, baseline = (counters.get(name, Counters()) for name in (ours, theirs))
    return Figures(
        now_s=now_s,
        canary=Tally(canary.shown.copy(), canary.reward.copy()),
        baseline=Tally(baseline.shown.copy(), baseline.reward.copy()),
        canary_health=_health(canary),
        baseline_health=_health(baseline),
        drift=drift(canary.scores, baseline.scores),
    )


def _health(one: Counters) -> Health:
    answers = int(one.latencies.sum())
    error = math.sqrt(_P99 * (1 - _P99) / max(1, answers))
    return Health(
        requests=one.requests,
        errors=one.failed,
        fallbacks=one.fallbacks,
        p99_ms=quantile_ms(one.latencies, _P99),
        p99_at_least_ms=quantile_ms(one.latencies, max(0.0, _P99 - SURE * error)),
        coverage=one.coverage(),
    )


def drift(ours: Ints, theirs: Ints) -> float:
    """How far two distributions of scores lie apart, beyond what chance explains; 0 without any.

    Population stability index: below .1 they are alike, from .25 on they are not (N. Siddiqi,
    "Credit risk scorecards", 2006). Of n and m scores from one distribution it is chi-squared times
    1/n + 1/m (B. Yurdakul, "Statistical properties of population stability index", 2018), which is
    taken off: people differ, and of a few any two dozens lie apart.

    Args:
        ours, theirs: int[S], counts by bin; bins are joined into tenths of theirs.
    """
    if not ours.sum() or not theirs.sum():
        return 0.0
    chance = _CHANCE * (1 / ours.sum() + 1 / theirs.sum())
    before = theirs.cumsum() - theirs
    tenth = (before * _SHARES // theirs.sum()).clip(0, _SHARES - 1)
    share, expected = (_by_tenth(counts, tenth) for counts in (ours, theirs))
    divergence = ((share - expected) * np.log(share / expected)).sum()
    return max(0.0, float(divergence - chance))


def _by_tenth(counts: Ints, tenth: Ints) -> Floats:
    """The share of scores in each of the tenths, float[10], from counts by bin."""
    found = np.bincount(tenth, counts, _SHARES) + _PRIOR
    shares: Floats = np.divide(found, found.sum(), dtype=np.float64)
    return shares
