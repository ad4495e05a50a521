"""Estimates of another policy, in a simulation of which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainer.policies.off_policy import LoggedDecisions, compare_policies

ITEMS, PEOPLE, DECISIONS, EXPLORED, REPEATS = 20, 300, 6, 0.3, 400
RATES = np.linspace(0.02, 0.4, ITEMS)
BY_LOGGED = np.argsort(np.random.default_rng(1).permutation(ITEMS))
# The other policy prefers the better half, a little.
OTHER = np.where(np.median(RATES) < RATES, 1.6, 0.4) / ITEMS
LOGGED = np.full(ITEMS, EXPLORED / ITEMS)
LOGGED[BY_LOGGED[:4]] += (1 - EXPLORED) / 4
# What a model believes that has the right order and wrong numbers.
MODEL = 0.1 + 0.5 * RATES
NAMES = ("ips", "snips", "dr")


def simulate(seed: int) -> LoggedDecisions:
    """Some people click far more than others, whatever they are shown."""
    generator = np.random.default_rng(seed)
    people = np.repeat(np.arange(PEOPLE), DECISIONS)
    taste = generator.choice([0.25, 1.75], PEOPLE)[people]
    shown = generator.choice(ITEMS, len(people), p=LOGGED)
    return LoggedDecisions(
        people,
        (generator.random(len(people)) < taste * RATES[shown]).astype(np.float64),
        LOGGED[shown],
        OTHER[shown],
        np.ones(len(people)),
        MODEL[shown],
        np.full(len(people), float(OTHER @ MODEL)),
    )


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = float(OTHER @ RATES)
    gain = truth - float(LOGGED @ RATES)
    held = dict.fromkeys([*NAMES, *(f"gain {name}" for name in NAMES)], 0)
    values = dict.fromkeys(NAMES, 0.0)
    for seed in range(REPEATS):
        found = compare_policies(simulate(seed))
        for name in NAMES:
            low, high = found.other[name].interval
            held[name] += low <= truth <= high
            low, high = found.gains[name].interval
            held[f"gain {name}"] += low <= gain <= high
            values[name] += found.other[name].value / REPEATS
    for name, number in held.items():
        assert 0.92 <= number / REPEATS <= 0.98, (name, number / REPEATS)
    for name, value in values.items():
        assert value == pytest.approx(truth, abs=0.004), name


def test_a_model_that_is_right_narrows_the_interval() -> None:
    log = simulate(1)
    wide = compare_policies(log).other["ips"].interval
    narrow = compare_policies(log).other["dr"].interval
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_the_policy_that_decided_earns_what_was_earned() -> None:
    log = simulate(2)
    same = compare_policies(replace(log, other=log.logged))
    mean = float(log.rewards.mean())
    for name in ("ips", "snips"):
        assert same.other[name].value == pytest.approx(mean)
        assert same.gains[name].interval == pytest.approx((0, 0), abs=1e-12)
    assert same.effective_decisions == pytest.approx(len(log.people))
    assert not same.silence


def test_decisions_of_one_person_are_no_more_than_that_person() -> None:
    log = simulate(3)
    repeated = LoggedDecisions(*(np.tile(values, 4) for values in vars(log).values()))
    once, again = compare_policies(log).other["dr"], compare_policies(repeated).other["dr"]
    assert again.value == pytest.approx(once.value)
    assert again.interval == pytest.approx(once.interval)


def test_it_says_where_the_log_cannot_say() -> None:
    log = simulate(4)
    unsupported = replace(log, supported=np.full(len(log.people), 0.4))
    assert (
        "60% of what it would show could not have been shown"
        in compare_policies(unsupported).silence
    )
    # Of what the other policy would show, the log has shown one decision.
    rare = np.where(np.arange(len(log.people)) == 0, 1.0, 0.0)
    assert "1 decisions count for it" in compare_policies(replace(log, other=rare)).silence


def test_what_cannot_be_a_log_is_refused() -> None:
    log = simulate(5)
    with pytest.raises(ValueError, match="logged: expected probabilities above 0"):
        replace(log, logged=np.zeros(len(log.people)))
    with pytest.raises(ValueError, match="rewards: expected"):
        replace(log, rewards=log.rewards[1:])
    with pytest.raises(ValueError, match="no decisions"):
        compare_policies(LoggedDecisions(*(values[:0] for values in vars(log).values())))
