"""Simulated people behave as described, and rollouts among them end as their figures say."""

from __future__ import annotations

import numpy as np
import pytest

from bench.rollout.__main__ import figures, make_rollouts_table
from bench.rollout.simulation import (
    GAINS,
    MANN_WHITNEY,
    People,
    Population,
    Rates,
    draw_feedback,
    look_repeatedly,
    required_sample,
    simulate_rollout,
)
from deploy.rollout import RolloutSettings
from features.rollout_messages import RolloutPhase

SOME = Population(people=20_000)
MANY = Population(people=100_000)
RULES = RolloutSettings()


def test_people_are_as_the_population_says() -> None:
    people = People(SOME, np.random.default_rng(1))
    assert 24 * people.requests.mean() == pytest.approx(SOME.requests_a_day, rel=0.05)
    assert people.clicks.mean() == pytest.approx(SOME.click_rate, rel=0.02)
    assert people.clicks.std() == pytest.approx(SOME.click_rate * SOME.click_spread, rel=0.03)


def test_nobody_leaves_a_variant_while_its_share_grows() -> None:
    people = People(SOME, np.random.default_rng(1))
    canary, baseline = (Rates.from_people(people, RULES.steps, at_top=top) for top in (False, True))
    for rates in (canary, baseline):
        assert (np.diff(rates.requests, axis=0) >= 0).all()
    everyone = people.sum_by_bucket(people.requests)
    np.testing.assert_allclose(canary.requests[-1] + baseline.requests[-1], everyone)
    assert canary.requests[0].sum() == pytest.approx(0.01 * everyone.sum(), rel=0.2)


def test_a_better_version_is_clicked_more_often() -> None:
    people, generator = People(SOME, np.random.default_rng(1)), np.random.default_rng(2)
    rates = Rates.from_people(people, [0.5], at_top=False)
    days = [
        [draw_feedback(rates, 0, hour, by, generator) for hour in range(240)] for by in (0.0, 0.2)
    ]
    shown, earned = np.array(days).sum((1, 3)).T
    assert shown[1] == pytest.approx(shown[0], rel=0.02)
    assert earned[1] / earned[0] == pytest.approx(1.2, rel=0.05)
    assert earned[0] / shown[0] < SOME.click_rate
    assert GAINS[0] == 1


def test_a_bad_version_leaves_and_a_good_one_stays() -> None:
    bad = simulate_rollout(MANY, -0.4, RULES, np.random.default_rng(5))
    good = simulate_rollout(MANY, 0.4, RULES, np.random.default_rng(5))
    assert (bad.phase, good.phase) == (RolloutPhase.ROLLED_BACK, RolloutPhase.PROMOTED)
    assert bad.reason.startswith("worse")
    assert 0 < bad.share < 0.05
    assert 0.5 < good.share < 1
    assert good.shown > RULES.min_shown


def test_where_few_people_are_asked_there_is_no_verdict() -> None:
    ended = simulate_rollout(Population(people=2_000), 0.0, RULES, np.random.default_rng(5))
    assert (ended.phase, ended.reason) == (RolloutPhase.ROLLED_BACK, "no verdict in time")
    assert ended.ticks == 14 * 24


def test_the_report_counts_how_rollouts_ended() -> None:
    ended = [
        simulate_rollout(MANY, change, RULES, np.random.default_rng(5)) for change in (-0.4, 0.4)
    ]
    looked = [look_repeatedly(SOME, 0.0, 48, np.random.default_rng(run)) for run in range(3)]
    found = figures({"-0.40": ended[:1], "+0.40": ended[1:]}, looked)
    assert found["promoted"] == {"-0.40": 0.0, "+0.40": 1.0}
    assert found["rolled_back"] == {"-0.40": 1.0, "+0.40": 0.0}
    assert found["samples"]["+0.40"] == ended[1].shown
    assert found["exposure"]["-0.40"] == ended[0].share
    assert found["false_alarms"]["repeated"][MANN_WHITNEY] == found["false_alarms_repeated_test"]
    drawn = make_rollouts_table(found | {"runs": 1, "people": MANY.people})
    assert drawn.row_count == 2


def test_a_single_look_needs_more_for_a_smaller_change() -> None:
    looked = [look_repeatedly(SOME, 0.0, 200, np.random.default_rng(run)) for run in range(3)]
    assert required_sample(looked, 0.4) < required_sample(looked, 0.1)
    assert np.isnan(required_sample(looked, 0.0001))
