"""What feedback says holds however often it is looked at, and people's clicks hang together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from deploy.rollout.evidence import (
    DecisionInputs,
    Effect,
    Health,
    VariantTally,
    collect_inputs,
    estimate_effect,
    find_imbalance,
    radius,
)
from deploy.rollout.feedback.counters import VariantCounters, bit_of, bucket_of

BUCKETS = 64


def tally(generator: np.random.Generator, rate: float, spread: float, shown: int) -> VariantTally:
    """People of a bucket click alike."""
    counts = np.full(BUCKETS, float(shown))
    chances = rate * np.exp(spread * generator.standard_normal(BUCKETS))
    return VariantTally(counts, generator.binomial(shown, chances).astype(float))


def test_it_is_the_logarithm_of_the_ratio() -> None:
    shown = np.full(BUCKETS, 100.0)
    found = estimate_effect(
        VariantTally(shown, np.full(BUCKETS, 12.0)), VariantTally(2 * shown, np.full(BUCKETS, 20.0))
    )
    assert found
    assert found.estimate == pytest.approx(math.log(1.2))
    assert found.error == 0


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_error_counts_what_people_have_in_common(spread: float) -> None:
    generator = np.random.default_rng(3)
    drawn = [
        estimate_effect(tally(generator, 0.1, spread, 2000), tally(generator, 0.1, spread, 2000))
        for _ in range(400)
    ]
    estimates = [one.estimate for one in drawn if one]
    errors = [one.error for one in drawn if one]
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.15)


def test_nothing_is_said_where_nothing_was_earned() -> None:
    some = tally(np.random.default_rng(0), 0.1, 0.0, 100)
    none = VariantTally(np.full(BUCKETS, 100.0), np.zeros(BUCKETS))
    assert estimate_effect(some, none) is None
    assert estimate_effect(VariantTally(none.reward, none.reward), some) is None


def test_a_canary_that_earns_nothing_at_all_is_worse() -> None:
    """It has no logarithm; the more the baseline has earned the surer that is."""
    none = VariantTally(np.full(BUCKETS, 100.0), np.zeros(BUCKETS))
    sure = estimate_effect(none, tally(np.random.default_rng(0), 0.1, 0.0, 100))
    unsure = estimate_effect(none, tally(np.random.default_rng(0), 0.001, 0.0, 100))
    assert sure
    assert unsure
    assert sure.upper(0.05) < 0 < unsure.upper(0.05)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_the_truth_is_left_as_rarely_as_promised_whenever_one_looks(alpha: float) -> None:
    """A Brownian motion, looked at a thousand times: what a running estimate's error is like."""
    generator = np.random.default_rng(11)
    information = np.geomspace(50, 50_000, 1000)
    steps = np.diff(information, prepend=0)
    paths = np.cumsum(generator.standard_normal((2000, 1000)) * np.sqrt(steps), axis=1)
    bound = np.array([radius(one**-0.5, alpha) for one in information])
    left = (paths / information > bound).any(1).mean()
    assert left < alpha + 2 * math.sqrt(alpha / 2000)
    # Not by never saying anything.
    assert left > alpha / 20


def test_less_is_known_of_what_must_be_surer() -> None:
    assert radius(0.02, 0.01) > radius(0.02, 0.05) > 1.645 * 0.02
    assert radius(0.01, 0.05) < radius(0.02, 0.05)
    found = Effect(0.1, 0.02)
    assert found.lower(0.05) < 0.1 < found.upper(0.05)


def test_one_person_is_no_certainty() -> None:
    """All is in one bucket, and the variance between buckets is 0."""
    shown, reward = np.zeros(BUCKETS), np.zeros(BUCKETS)
    shown[3], reward[3] = 1000, 100
    found = estimate_effect(VariantTally(shown, reward, 100), VariantTally(shown, reward, 100))
    assert found
    assert found.error == pytest.approx(math.sqrt(2 / 100))
    assert radius(0.0, 0.01) == math.inf


def sample(people: int, generator: np.random.Generator) -> VariantCounters:
    """People of whom some ask a hundred times as often as others."""
    counters = VariantCounters()
    for number in generator.lognormal(1.0, 1.2, people).astype(int):
        name = str(generator.integers(1 << 62))
        counters.people[bit_of("r", name)] = True
        counters.shown[bucket_of("r", name)] += number
        counters.counts["requests"] += number
    return counters


@pytest.mark.parametrize("mean", [30, 600, 6000])
def test_samples_of_one_population_are_equal_and_others_are_not(mean: int) -> None:
    generator = np.random.default_rng(mean)

    def is_alarm(ours: float, theirs: float) -> bool:
        sizes = (generator.poisson(ours), generator.poisson(theirs))
        canary, baseline = (sample(size, generator) for size in sizes)
        counters = {"canary": canary, "baseline": baseline}
        return bool(find_imbalance(collect_inputs(counters, 1.0, shadow=False)))

    tried = 40
    assert sum(is_alarm(mean, mean) for _ in range(tried)) <= 1
    assert all(is_alarm(3 * mean, mean) for _ in range(5))


def test_requests_that_are_lost_are_seen_though_everyone_is_there() -> None:
    even, half = np.full(BUCKETS, 100.0), np.full(BUCKETS, 50.0)
    people = Health(people=900.0)
    inputs = DecisionInputs(
        1.0, VariantTally(half, half), VariantTally(even, even), people, people, 0.0
    )
    assert find_imbalance(inputs).startswith("the canary has 3,200 requests, its baseline 6,400")
    bot = even.copy()
    bot[7] += 5000
    assert not find_imbalance(replace(inputs, canary=VariantTally(bot, even)))


def test_what_an_older_release_counted_is_not_judged_by_people() -> None:
    old = VariantCounters()
    old.counts["requests"] = 5000
    inputs = collect_inputs({"canary": old}, 1.0, shadow=False)
    assert inputs.canary_health.people is None
    assert inputs.baseline_health.people == 0
    assert not find_imbalance(inputs)
