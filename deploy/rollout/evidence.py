"""What a decision is taken on: how a canary earns and serves beside its baseline.

B buckets of people, L latency bins, S score bins. One person's clicks are correlated, so people,
not clicks, are taken as independent: each belongs to one of B buckets by a hash, and the variance
between buckets gives the standard error of the effect on reward (N. Chamandy et al., "Estimating
uncertainty for massive data streams", Google 2012).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from deploy.rollout.feedback.counters import (
    PEOPLE_BITS,
    VariantCounters,
    empty_counts,
    estimate_distinct,
    name_seen,
    quantile_ms,
)
from features.rollout_messages import Variant
from features.schema import Float64Array, Int64Array

# Standard errors between chance and a broken guard: guards are looked at thousands of times.
GUARD_SIGMAS = 4.0
# Population stability index: bins that hold a tenth of the baseline's scores each.
_BINS = 10
# Scores added to each bin, so that none is empty: Jeffreys' prior.
_PRIOR = 0.5
# The .9999 quantile of chi-squared with nine degrees of freedom.
_CHI_SQUARED = 33.72
_P99 = 0.99
# From so many lists that were seen on, of both variants, and such a share of those sent, what was
# seen is what counts. A worker sends a list after each event, and few of them are shown.
_LEAST_SEEN, _LEAST_SEEN_SHARE = 100, 0.005
# The .9995 quantile of chi-squared with one degree of freedom.
_IMBALANCE = 12.116
_NOT_CHANCE = ", more than chance explains: look for workers that do not follow, or lost answers"
# Standard errors at which intervals are tightest, each with its part of alpha: most rollouts are
# decided at the first; the others detect large differences early.
_TIGHTEST = ((0.015, 0.8), (0.06, 0.1), (0.25, 0.1))


@dataclass(frozen=True)
class VariantTally:
    """What one variant has shown and earned so far.

    Attributes:
        shown: float64[B], recommendations by bucket.
        reward: float64[B], what people did with them, discounted by position.
        events: how many events earned that; None: not known.
    """

    shown: Float64Array
    reward: Float64Array
    events: float | None = None

    @property
    def buckets(self) -> int:
        """Buckets of people who got a recommendation."""
        return int(np.count_nonzero(self.shown))


@dataclass(frozen=True)
class Health:
    """How a variant serves.

    Attributes:
        counts: by the names of `feedback.counters.COUNTERS`.
        p99_ms: of the version's answers.
        p99_at_least_ms: lower confidence bound of that, from so many answers.
        coverage: different items shown, in as many lists of both variants.
        people: who got recommendations, about; None: not known.
    """

    counts: Mapping[str, int] = field(default_factory=empty_counts)
    p99_ms: float = 0.0
    p99_at_least_ms: float = 0.0
    coverage: int = 0
    people: float | None = None

    @property
    def requests(self) -> int:
        """Recommendations asked for, with those that failed."""
        return self.counts["requests"]


@dataclass(frozen=True)
class DecisionInputs:
    """All that a decision is taken on.

    Attributes:
        drift: between the canary's scores and the baseline's: population stability index, less
            what chance explains.
        of_seen: whether lists that were really seen are counted, and not all that were sent.
    """

    now_s: float
    canary: VariantTally
    baseline: VariantTally
    canary_health: Health
    baseline_health: Health
    drift: float
    of_seen: bool = False


def collect_inputs(
    counters: Mapping[str, VariantCounters], now_s: float, *, shadow: bool
) -> DecisionInputs:
    """The inputs from the counters by variant.

    Where the app says what people have really seen, reward, people, coverage and drift are of what
    was seen. Failures and times are of all that was sent: a list that is not shown because its
    version failed is a failure too.

    Args:
        shadow: whether the candidate runs in shadow mode: it stands beside what is shown then.
    """
    pair = (Variant.SHADOW, Variant.STABLE) if shadow else (Variant.CANARY, Variant.BASELINE)
    sent = [counters.get(name, VariantCounters()) for name in pair]
    seen = [counters.get(name_seen(name), VariantCounters()) for name in pair]
    of_seen = _are_enough(seen, sent)
    canary, baseline = seen if of_seen else sent
    return DecisionInputs(
        now_s=now_s,
        canary=_tally(canary),
        baseline=_tally(baseline),
        canary_health=_health(sent[0], canary),
        baseline_health=_health(sent[1], baseline),
        drift=score_drift(canary.scores, baseline.scores),
        of_seen=of_seen,
    )


def _are_enough(seen: Sequence[VariantCounters], sent: Sequence[VariantCounters]) -> bool:
    """Whether impressions are sent, and not only now and then by somebody who tries it."""
    ours, all_of_them = (sum(each.counts["requests"] for each in side) for side in (seen, sent))
    return are_seen_enough(ours, all_of_them)


def are_seen_enough(seen: float, sent: float) -> bool:
    """Whether so many lists that were seen on, of so many sent, say what people see."""
    return seen >= max(_LEAST_SEEN, _LEAST_SEEN_SHARE * sent)


def _tally(counters: VariantCounters) -> VariantTally:
    events = float(counters.counts["earned"])
    return VariantTally(counters.shown.copy(), counters.reward.copy(), events)


def _health(sent: VariantCounters, counted: VariantCounters) -> Health:
    """How a variant serves, by all that was sent; what is shown of it, by the lists that count."""
    answers = int(sent.latencies.sum())
    error = math.sqrt(_P99 * (1 - _P99) / max(1, answers))
    return Health(
        counts=sent.counts | {"covers": counted.counts["covers"]},
        p99_ms=quantile_ms(sent.latencies, _P99),
        p99_at_least_ms=quantile_ms(sent.latencies, max(0.0, _P99 - GUARD_SIGMAS * error)),
        coverage=counted.coverage(),
        people=_count_people(counted),
    )


def _count_people(counters: VariantCounters) -> float | None:
    """People, about; None where an older release has counted, and not these."""
    if counters.counts["requests"] and not counters.people.any():
        return None
    return round(estimate_distinct(counters.people), 1)


class SampleRatio(NamedTuple):
    """How many of something canary and baseline got, which should be as many each.

    Attributes:
        name: of what there are so many.
        chi_squared: of the difference, with one degree of freedom.
        limit: beyond this chance does not explain it (p < .0005).
    """

    name: str
    canary: float
    baseline: float
    chi_squared: float
    limit: float = _IMBALANCE

    @property
    def problem(self) -> str:
        """In one line; "" where chance explains it."""
        if self.chi_squared <= self.limit:
            return ""
        ours, theirs = f"{self.canary:,.0f} {self.name}", f"{self.baseline:,.0f}"
        return f"the canary has {ours}, its baseline {theirs}{_NOT_CHANCE}"


def read_ratios(inputs: DecisionInputs) -> list[SampleRatio]:
    """The numbers that are to be equal: of people, and of requests.

    Both have the same share of people, so both get as many people and as many requests. Where they
    do not, workers do not follow the rollout or answers are lost, and a comparison says nothing (A.
    Fabijan et al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019).
    """
    ours, theirs = inputs.canary_health.people, inputs.baseline_health.people
    # Where people are not known, the rules of a release that did not look at this hold.
    if ours is None or theirs is None:
        return []
    shown = inputs.canary.shown, inputs.baseline.shown
    sums = float(shown[0].sum()), float(shown[1].sum())
    error = math.sqrt(sum(map(_variance_of_sum, shown)))
    return [
        SampleRatio("people", ours, theirs, _chi_squared(ours, theirs, _error_of(ours + theirs))),
        SampleRatio("requests", *sums, _chi_squared(*sums, error)),
    ]


def find_imbalance(inputs: DecisionInputs) -> str:
    """Why canary and baseline are not equal samples; "" where chance explains it."""
    return next((each.problem for each in read_ratios(inputs) if each.problem), "")


def _chi_squared(ours: float, theirs: float, error: float) -> float:
    return ((ours - theirs) / error) ** 2 if error else 0.0


def _error_of(people: float) -> float:
    """Standard error of the difference of two counts of people, this many together.

    What a Poisson count of each and its bitmap add up to.
    """
    return math.sqrt(2 * PEOPLE_BITS * math.expm1(people / (2 * PEOPLE_BITS)))


def _variance_of_sum(shown: Float64Array) -> float:
    """Variance of the requests of all buckets; never less than that of a Poisson count."""
    return float(max(len(shown) * shown.var(ddof=1), shown.sum()))


def score_drift(ours: Int64Array, theirs: Int64Array) -> float:
    """How far two distributions of scores differ beyond chance; 0 where one is empty.

    Population stability index: below .1 they are alike, from .25 on they are not (N. Siddiqi,
    "Credit risk scorecards", 2006). Of n and m scores from one distribution it is chi-squared times
    1/n + 1/m (B. Yurdakul, "Statistical properties of population stability index", 2018), which is
    subtracted: scores of two small groups of people always differ.

    Args:
        ours, theirs: int64[S], counts by bin; bins are joined into tenths of theirs.
    """
    if not ours.sum() or not theirs.sum():
        return 0.0
    chance = _CHI_SQUARED * (1 / ours.sum() + 1 / theirs.sum())
    before = theirs.cumsum() - theirs
    tenths = (before * _BINS // theirs.sum()).clip(0, _BINS - 1)
    share, expected = (_binned_shares(counts, tenths) for counts in (ours, theirs))
    divergence = ((share - expected) * np.log(share / expected)).sum()
    return max(0.0, float(divergence - chance))


def _binned_shares(counts: Int64Array, tenths: Int64Array) -> Float64Array:
    """The share of scores in each of the tenths, float64[10], from counts by bin."""
    totals = np.bincount(tenths, counts, _BINS) + _PRIOR
    shares: Float64Array = np.divide(totals, totals.sum(), dtype=np.float64)
    return shares


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
    # One bucket has no variance between buckets; n events have at least that of a Poisson count.
    least = 1 / tally.events if tally.events else 0.0
    return math.log(rate), float(max(variance, least))


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
        return math.inf
    return min(_radius(error, alpha * part, tightest) for tightest, part in _TIGHTEST)


def _radius(error: float, alpha: float, tightest: float) -> float:
    """Args: tightest: the standard error at which the interval is tightest, about."""
    log = -2 * math.log(2 * alpha)
    mixture = tightest**-2 / (log + math.log(1 + log))
    information = error**-2
    spread = information + mixture
    sides = math.log(math.sqrt(spread / mixture) / (2 * alpha) + 1)
    return math.sqrt(2 * spread * sides) / information
