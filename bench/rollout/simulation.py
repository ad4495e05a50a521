"""Simulated rollouts, decided by the product's own rules and by tests that others use.

A person asks at a rate of their own (log-normal) and clicks with a chance of their own (beta):
both differ widely. Requests are a Poisson process with a daily rhythm, so what a bucket of people
shows and clicks in a tick is Poisson, too, and is drawn at once.

B buckets of people, P positions of a list, S steps of a rollout, T ticks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu, norm

from deploy import rollout
from features.rollout_messages import RolloutPhase
from features.schema import Float64Array
from trainer.metrics import dcg_discount

TICK_S = 3600.0
POSITIONS = 10
# What a click is worth by its place in the list: the gain of NDCG.
GAINS = dcg_discount(np.arange(POSITIONS))
# How much less likely each place is clicked than the one before.
_FADE = 0.8
_RHYTHM = 0.6
_DAY_TICKS = 24


@dataclass(frozen=True)
class Population:
    """Who there is.

    Attributes:
        requests_a_day: of a person, on the mean.
        click_rate: of a recommendation, on the mean over people.
        click_spread: standard deviation of a person's click rate, as a share of the mean.
        request_spread: that of the logarithm of a person's requests.
    """

    people: int = 200_000
    requests_a_day: float = 4.0
    click_rate: float = 0.12
    click_spread: float = 0.7
    request_spread: float = 1.0
    buckets: int = 64


@dataclass(frozen=True)
class Rates:
    """Of the people who see a variant at each step, by bucket: float[S, B], an hour.

    Attributes:
        requests: recommendations.
        clicks: of a version as good as the baseline.
    """

    requests: Float64Array
    clicks: Float64Array

    @classmethod
    def from_people(cls, people: "People", ends: Sequence[float], *, at_top: bool) -> "Rates":
        """Those whose place is among the first, or the last, of so many: each step's share."""
        places = 1 - people.places if at_top else people.places
        chosen = [places < end for end in ends]
        return cls(
            np.stack([people.sum_by_bucket(people.requests * who) for who in chosen]),
            np.stack(
                [people.sum_by_bucket(people.requests * people.clicks * who) for who in chosen]
            ),
        )


class People:
    """Drawn once for a rollout: rates, and places between 0 and 1 as a hash gives them."""

    def __init__(self, population: Population, generator: np.random.Generator) -> None:
        size, mean, spread = population.people, population.click_rate, population.click_spread
        sigma = population.request_spread
        hourly = population.requests_a_day / _DAY_TICKS
        self.requests = hourly * generator.lognormal(-(sigma**2) / 2, sigma, size)
        # A beta distribution of this mean and standard deviation.
        weight = (1 - mean) / (mean * spread**2) - 1
        self.clicks = generator.beta(mean * weight, (1 - mean) * weight, size)
        self.places = generator.random(size)
        self.buckets = generator.integers(0, population.buckets, size)
        self._count = population.buckets

    def sum_by_bucket(self, values: Float64Array) -> Float64Array:
        """By bucket, float[B]."""
        return np.bincount(self.buckets, values, self._count).astype(np.float64)


class Variants:
    """A canary that earns so much more than its baseline (.05 is 5 %), and what both have shown."""

    def __init__(
        self,
        population: Population,
        change: float,
        steps: Sequence[float],
        generator: np.random.Generator,
    ) -> None:
        people = People(population, generator)
        self.requests = float(people.requests.sum())
        self._rates = [Rates.from_people(people, steps, at_top=top) for top in (False, True)]
        self._changes = (change, 0.0)
        self._generator = generator
        nothing = np.zeros(population.buckets)
        self._tallies = [rollout.VariantTally(nothing, nothing)] * 2

    def advance(self, step: int, tick: int) -> tuple[rollout.VariantTally, rollout.VariantTally]:
        """The canary so far, this tick included, and the baseline."""
        for at, (rates, change) in enumerate(zip(self._rates, self._changes, strict=True)):
            shown, reward = draw_feedback(rates, step, tick, change, self._generator)
            before = self._tallies[at]
            self._tallies[at] = rollout.VariantTally(before.shown + shown, before.reward + reward)
        canary, baseline = self._tallies
        return canary, baseline


def draw_feedback(
    rates: Rates, step: int, tick: int, effect: float, generator: np.random.Generator
) -> tuple[Float64Array, Float64Array]:
    """What a variant shows and earns in a tick: float[B] each.

    Args:
        effect: of the version, on clicks: .05 is 5 % more.
    """
    rhythm = 1 + _RHYTHM * np.sin(2 * np.pi * tick / _DAY_TICKS)
    clicks = rates.clicks[step] * rhythm * (1 + effect)
    shares = _FADE ** np.arange(POSITIONS)
    clicked = generator.poisson(clicks[:, None] * shares / shares.sum())
    passed_by = generator.poisson(np.maximum(rates.requests[step] * rhythm - clicks, 0))
    return (passed_by + clicked.sum(1)).astype(np.float64), clicked @ GAINS


WELL = rollout.Health(p99_ms=50.0, p99_at_least_ms=50.0, coverage=1000)
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
    population: Population,
    change: float,
    rules: rollout.RolloutSettings,
    generator: np.random.Generator,
) -> SimulatedRollout:
    """One rollout of a version that earns so much more (.05 is 5 %)."""
    variants = Variants(population, change, rules.steps, generator)
    state, ticks, reason, shown = rollout.initial_state(0.0), 0, "", 0.0
    while not state.is_terminal:
        canary, baseline = variants.advance(state.step, ticks)
        ticks += 1
        inputs = rollout.DecisionInputs(ticks * TICK_S, canary, baseline, WELL, WELL, 0.0)
        decided = rollout.decide(state, inputs, rules)
        state, reason, shown = decided.state, decided.reason, float(canary.shown.sum())
    ticks_at_most = rules.give_up_s / TICK_S
    after = variants.requests * (ticks_at_most - ticks)
    seen = shown + (after if state.phase is RolloutPhase.PROMOTED else 0.0)
    return SimulatedRollout(
        state.phase, reason, ticks, shown, seen / (variants.requests * ticks_at_most)
    )


# Of each variant in `simulate_few_people`, an hour.
FEW_REQUESTS = 200


def simulate_few_people(
    people: int, change: float, rules: rollout.RolloutSettings, generator: np.random.Generator
) -> RolloutPhase:
    """How a rollout ends where so many people get each variant, and ask 200 times an hour.

    Args:
        change: of the version, on clicks: -.5 is half as good.
    """
    sides = []
    for effect in (change, 0.0):
        rates = (1 + effect) * generator.beta(1, 9, people)
        sides.append((generator.integers(0, Population().buckets, people), rates))
    totals = np.zeros((2, 2, Population().buckets))
    known = rollout.Health(WELL.counts, WELL.p99_ms, WELL.p99_at_least_ms, WELL.coverage, people)
    state, hour = rollout.initial_state(0.0), 0
    while not state.is_terminal:
        hour += 1
        for (shown, reward), (buckets, rates) in zip(totals, sides, strict=True):
            asked = generator.multinomial(FEW_REQUESTS, np.full(people, 1 / people))
            np.add.at(shown, buckets, asked)
            np.add.at(reward, buckets, generator.binomial(asked, rates))
        canary, baseline = (
            rollout.VariantTally(shown.copy(), reward.copy(), float(reward.sum()))
            for shown, reward in totals
        )
        inputs = rollout.DecisionInputs(hour * TICK_S, canary, baseline, known, known, 0.0)
        state = rollout.decide(state, inputs, rules).state
    return state.phase


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
        differ = rollout.estimate_effect(*tallies) or rollout.Effect(0.0, np.inf)
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
