"""The benchmark of filters measures filters that allow some items and not others."""

from __future__ import annotations

from bench.api.rules import FILTERS, make_items, measure_filter
from features.rules.table import CatalogueTable


def test_each_filter_allows_some_items() -> None:
    table = CatalogueTable()
    for item in make_items(20_000):
        table.put(item)
    for text in FILTERS.values():
        found = measure_filter(table, text)
        assert 0 < found["left_share"] < 1, text
        assert min(found.values()) > 0
