"""What feedback says holds however often it is looked at, and people's clicks hang together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploy.rollout.evidence import Effect, VariantTally, estimate_effect, radius

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
