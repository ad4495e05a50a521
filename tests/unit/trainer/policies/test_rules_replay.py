"""What other rules would have done, in a simulation of which the truth is known."""

from __future__ import annotations

import random

import numpy as np
import pytest
from headwater_client import Item
from headwater_client.rules import Boost, Exploration, ListRules, Pin

from features.rules.arranging import PlacedItem, ScoredItems, arrange_list
from features.rules.filters import compile_filter
from features.rules.plans import plan_list
from features.rules.table import CatalogueTable
from features.schema import BoolArray
from trainer.metrics import dcg_discount
from trainer.policies.rules_replay import LoggedList, PlannedList, compare_rules

ITEMS = [f"i{number}" for number in range(12)]
RATES = {name: 0.1 + 0.07 * number for number, name in enumerate(ITEMS)}
PLACES, REPEATS, LISTS, PEOPLE = 2, 25, 600, 150
DISCOUNTS = dcg_discount(np.arange(PLACES))
# The version thinks well of the first items, and people like the last ones.
SCORES = [ScoredItems(ITEMS, np.roll(-0.5 * np.arange(len(ITEMS)), shift)) for shift in range(3)]
TRIED = Exploration(share=0.5, filter="item.brand == 'new'")
EXPLORING, PLAIN = ListRules(exploration=TRIED), ListRules()
# What exploration tries, too: so the log can say what it earns.
BETTER = ListRules(boosts=[Boost(filter="item.id == 'i11'", factor=1000)])
UNSEEN = ListRules(pins=[Pin(item_id="i7", place=1)])


def make_table() -> CatalogueTable:
    table = CatalogueTable()
    for name in ITEMS:
        table.put(Item(item_id=name, brand="new" if name in ("i8", "i9", "i10", "i11") else "old"))
    return table


TABLE = make_table()


def planned(rules: ListRules, context: int, places: int = PLACES) -> PlannedList:
    def evaluate(text: str) -> BoolArray:
        return compile_filter(text).mask(TABLE.view(), {})

    plan = plan_list(rules, TABLE, evaluate, np.ones(len(ITEMS), np.bool_))
    return PlannedList(plan, [SCORES[context]], places)


def show(rules: ListRules, context: int, name: str) -> list[PlacedItem]:
    made = planned(rules, context)
    return arrange_list(made.plan, made.pools, made.places, name)


def simulate(
    seed: int, before: ListRules, after: ListRules, lists: int = LISTS
) -> list[LoggedList]:
    """Some people click far more than others, whatever they are shown."""
    chance, found = random.Random(seed), []
    taste = [chance.choice((0.5, 1.5)) for _ in range(PEOPLE)]
    for number in range(lists):
        person, context = chance.randrange(PEOPLE), chance.randrange(len(SCORES))
        name = f"{seed}-{number}"
        placed = show(before, context, name)
        ids = [item.item_id for item in placed]
        clicked = [chance.random() < min(1.0, taste[person] * RATES[item] * 0.6) for item in ids]
        found.append(
            LoggedList(
                name=name,
                person=person,
                item_ids=ids,
                probabilities=np.array([item.probability or 1.0 for item in placed]),
                rewards=np.array(clicked, np.float64) * DISCOUNTS,
                before=planned(before, context),
                after=planned(after, context),
            )
        )
    return found


def true_reward(rules: ListRules) -> float:
    """What a place earns by rules that leave nothing to chance."""
    rates = [
        [0.6 * RATES[item.item_id] for item in show(rules, context, "any")]
        for context in range(len(SCORES))
    ]
    return float((np.array(rates) * DISCOUNTS).mean())


def test_intervals_hold_what_other_rules_would_earn() -> None:
    truth = true_reward(BETTER)
    held, values = dict.fromkeys(("ips", "snips", "dr"), 0), dict.fromkeys(("ips", "dr"), 0.0)
    for seed in range(REPEATS):
        found = compare_rules(simulate(seed, EXPLORING, BETTER))
        assert not found.silence
        assert found.policies is not None
        for name in held:
            low, high = found.policies.other[name].interval
            held[name] += low <= truth <= high
        for name in values:
            values[name] += found.policies.other[name].value / REPEATS
    assert all(number >= 0.84 * REPEATS for number in held.values()), held
    assert values == pytest.approx(dict.fromkeys(values, truth), rel=0.08)


def test_what_changes_is_counted() -> None:
    same = compare_rules(simulate(1, PLAIN, PLAIN, lists=60))
    assert (same.changed, same.reproduced, same.beyond, same.silence) == (0, 1.0, 0, "")
    assert same.policies is not None
    assert same.policies.gains["dr"].value == pytest.approx(0, abs=1e-12)
    other = compare_rules(simulate(1, PLAIN, BETTER, lists=60))
    assert other.changed == other.lists == 60
    assert (other.items_before, other.items_after) == (4, 4)
    lists = simulate(1, PLAIN, PLAIN, lists=60)
    longer = compare_rules(
        [LoggedList(**(vars(each) | {"after": planned(PLAIN, 0, PLACES + 3)})) for each in lists]
    )
    assert longer.beyond == 3 * 60


def test_a_log_that_left_nothing_to_chance_says_so() -> None:
    found = compare_rules(simulate(2, PLAIN, BETTER, lists=60))
    assert "100% of what it would show could not have been shown" in found.silence
    # Nor does exploring tell of what it does not try.
    found = compare_rules(simulate(2, EXPLORING, UNSEEN, lists=60))
    assert "could not have been shown" in found.silence


def test_where_the_other_list_ends_nothing_is_earned() -> None:
    lists = simulate(3, EXPLORING, EXPLORING)
    shorter = [
        LoggedList(**(vars(each) | {"after": each.after._replace(places=1)})) for each in lists
    ]
    found = compare_rules(shorter)
    assert found.policies is not None
    assert found.policies.support == pytest.approx(1.0)
    first = float(np.mean([each.rewards[0] for each in lists])) / PLACES
    assert found.policies.other["ips"].value == pytest.approx(first)


def test_without_lists_nothing_is_said() -> None:
    assert compare_rules([]).silence == "no list of this placement was shown"
