"""The benchmark measures filters that allow some items and not others, and lists by rules."""

from __future__ import annotations

from bench.api.rules import FILTERS, RULES, make_items, measure_filter, measure_list
from features.rules.table import CatalogueTable


def test_each_filter_allows_some_items() -> None:
    table = CatalogueTable()
    for item in make_items(20_000):
        table.put(item)
    for text in FILTERS.values():
        found = measure_filter(table, text)
        assert 0 < found["left_share"] < 1, text
        assert min(found.values()) > 0


def test_each_kind_of_rule_makes_a_list() -> None:
    table = CatalogueTable()
    for item in make_items(2_000):
        table.put(item)
    assert all(measure_list(table, rules, 10) > 0 for rules in RULES.values())
