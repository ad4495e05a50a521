"""A list earns what its objective says, in a shop of which it is known what people do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from headwater_client import Item
from headwater_client.rules import ListRules, Objective

from features.rules.arranging import ScoredItems, arrange_list
from features.rules.objectives import PRIOR, ConversionCounts
from features.rules.plans import plan_list
from features.rules.table import CatalogueTable
from features.schema import Float64Array

ITEMS, PEOPLE, PLACES = 60, 40, 5
SEEN = 6_000


def test_an_item_of_which_little_is_known_is_as_all_are() -> None:
    counts = ConversionCounts()
    none = np.full(4, np.nan)
    assert counts.find_shifts(Objective.PURCHASES, none).tolist() == [0, 0, 0, 0]
    assert counts.is_wanted
    counts.put(np.array([0, 1]), np.array([[300.0, 60.0], [100.0, 20.0]]))
    # The fifth part of what is done with either, and so of all, is a purchase.
    assert counts.find_shifts(Objective.PURCHASES, none) == pytest.approx([0, 0, 0, 0])
    counts.put(np.array([2]), np.array([[2.0, 2.0]]))
    mean = 82 / 402
    (*_, few, unknown) = np.exp(counts.find_shifts(Objective.PURCHASES, none))
    assert few == pytest.approx((2 + PRIOR * mean) / (2 + PRIOR) / mean)
    assert 1 < few < 1.5
    assert unknown == 1
    # More may have been taken back than is left of it.
    counts.put(np.array([3]), np.array([[-1.0, -2.0]]))
    assert np.isfinite(counts.find_shifts(Objective.REVENUE, none)).all()


def test_an_item_without_a_price_has_the_medians() -> None:
    shifts = ConversionCounts().find_shifts(
        Objective.REVENUE, np.array([1.0, 4.0, 16.0, np.nan, 0.0])
    )
    assert np.exp(shifts) == pytest.approx([0.25, 1, 4, 1, 1])
    assert ConversionCounts().find_shifts(Objective.CLICKS, np.array([1.0, 4.0])).tolist() == [0, 0]


def measure_earnings(objective: Objective, seed: int) -> Float64Array:
    """What lists earn: takes, purchases and money a list, as people really are.

    How often items are bought is known of some events alone, and prices hang together with it:
    what is dear is bought less often.
    """
    chance = np.random.default_rng(seed)
    prices = np.exp(chance.normal(3, 1, ITEMS))
    bought = np.clip(0.5 * (prices / 20) ** -0.4 * np.exp(chance.normal(0, 0.6, ITEMS)), 0.01, 0.9)
    events = chance.poisson(SEEN * chance.pareto(2, ITEMS) / ITEMS)
    counts, table = ConversionCounts(), CatalogueTable()
    for number in range(ITEMS):
        table.put(Item(item_id=f"i{number}", price=float(prices[number])))
    counts.put(
        np.arange(ITEMS), np.stack([events, chance.binomial(events, bought)], 1).astype(float)
    )
    total = np.zeros(3)
    for _ in range(PEOPLE):
        odds = np.exp(chance.normal(0, 1, ITEMS))
        taken = odds / odds.sum()
        rules = ListRules(objective=objective)
        plan = replace(
            plan_list(rules, table, lambda _: np.ones(ITEMS, np.bool_), np.ones(ITEMS, np.bool_)),
            shifts=counts.find_shifts(objective, prices),
        )
        placed = arrange_list(plan, [ScoredItems(table.item_ids, np.log(odds))], PLACES)
        shown = [int(item.item_id[1:]) for item in placed]
        sold = taken[shown] * bought[shown]
        total += taken[shown].sum(), sold.sum(), (sold * prices[shown]).sum()
    return total / PEOPLE


def test_each_objective_earns_most_of_what_it_is_about() -> None:
    found = {
        objective: np.mean([measure_earnings(objective, seed) for seed in range(12)], axis=0)
        for objective in Objective
    }
    for place, objective in enumerate(Objective):
        others = [each[place] for name, each in found.items() if name is not objective]
        assert found[objective][place] > max(others), (objective, found)
    takes, purchases, money = found.values()
    assert purchases[1] > 1.05 * takes[1], found
    assert money[2] > 1.1 * max(takes[2], purchases[2]), found
