"""Filters and rules over a catalogue of 100,000 items: what a filter costs, and what a list does.

    uv run python -m bench.api.rules

`first` asks each different value of a column once; `again` is what a filter costs from then on,
with another value of the context each time; `changed` brings what it allows up to date after one
item has changed. A list is made of the best 100 items by their scores, with masks that are known.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from headwater_client.events import Item
from headwater_client.rules import AtMost, Boost, Diversity, Exploration, ListRules, Pin, Promotion
from rich.console import Console

from bench.harness.runner import Benchmark, Options, Results, make_table
from features.rules.arranging import ScoredItems, arrange_list
from features.rules.filters import compile_filter
from features.rules.plans import find_conditions, plan_list
from features.rules.table import CatalogueTable

_SEED = 7
_TIMES = 200
_US = 1e6
_COLOURS = ("red", "green", "blue", "black", "white")
FILTERS = {
    "a price": "item.price < context.budget",
    "a brand": "item.brand == 'brand-7'",
    "brands of the context": "item.brand in context.brands",
    "a category": "'category-3' in item.category",
    "an attribute": "item.attributes.color == 'red'",
    "words of a title": "item.title.contains('number 99')",
    "categories by prefix": "item.category.exists(c, c.startsWith('category-1'))",
    "four together": "item.price < context.budget && item.brand != 'brand-7' "
    "&& !('category-3' in item.category) && item.attributes.color in ['red', 'blue']",
}

_POOL = 100
_PLACES = (10, 20, 40)
_BOOST = Boost(filter=FILTERS["an attribute"], factor=2)
_PROMOTION = Promotion(filter=FILTERS["a category"], every=5)
RULES = {
    "no rule": ListRules(),
    "a boost": ListRules(boosts=[_BOOST]),
    "a pin": ListRules(pins=[Pin(item_id="item-7", place=2)]),
    "2 of a category": ListRules(at_most=[AtMost(by="category", items=2)]),
    "1 of 5 promoted": ListRules(promotions=[_PROMOTION]),
    "diversity": ListRules(diversity=Diversity(strength=0.5)),
    "exploration": ListRules(exploration=Exploration(share=0.1, filter=FILTERS["a brand"])),
    "exploration of all": ListRules(exploration=Exploration(share=0.1)),
    "all of these": ListRules(
        boosts=[_BOOST],
        pins=[Pin(item_id="item-7", place=2)],
        at_most=[AtMost(by="category", items=2)],
        promotions=[_PROMOTION],
        diversity=Diversity(strength=0.5),
        exploration=Exploration(share=0.1, filter=FILTERS["a brand"]),
    ),
}


@dataclass(frozen=True, kw_only=True)
class RulesOptions(Options):
    """Options of `bench.rules`."""

    items: Annotated[int, typer.Option(help="items of the catalogue", min=1)] = 100_000


def make_items(count: int) -> Iterator[Item]:
    """A catalogue: a title each, 1,000 brands, 200 categories, two or three attributes."""
    draw = random.Random(_SEED)
    for number in range(count):
        yield Item(
            item_id=f"item-{number}",
            title=f"Thing number {number}",
            brand=f"brand-{draw.randrange(1000)}",
            category=[f"category-{draw.randrange(200)}" for _ in range(draw.randint(1, 3))],
            price=round(draw.lognormvariate(3, 1), 2),
            attributes={"color": draw.choice(_COLOURS), "stars": draw.randint(1, 5)},
        )


def measure_us(work: Callable[[], Any], times: int = _TIMES) -> float:
    """The median time of some work, in microseconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken) * _US)


def measure_filter(table: CatalogueTable, text: str) -> dict[str, float]:
    """What one filter takes."""
    draw = random.Random(_SEED)

    def scope() -> dict[str, Any]:
        brands = [f"brand-{draw.randrange(1000)}" for _ in range(20)]
        return {"context": {"budget": draw.uniform(5, 50), "brands": brands}}

    compiled_us = measure_us(lambda: compile_filter.__wrapped__(text))
    found = compile_filter(text)
    first_us = measure_us(lambda: found.mask(table.view(), scope()), times=1)
    again_us = measure_us(lambda: found.mask(table.view(), scope()))
    one = np.array([len(table) // 2])
    changed_us = measure_us(lambda: found.mask(table.view(one), scope()))
    left = float(found.mask(table.view(), scope()).mean())
    return {
        "compile_us": compiled_us,
        "first_us": first_us,
        "again_us": again_us,
        "changed_us": changed_us,
        "left_share": left,
    }


def measure_list(table: CatalogueTable, rules: ListRules, places: int) -> float:
    """What a list of so many places takes by these rules, in microseconds."""
    masks = {
        text: compile_filter(text).mask(table.view(), {}) for _, text in find_conditions(rules)
    }
    allowed = np.ones(len(table), np.bool_)
    draw = random.Random(_SEED)
    names = [table.item_ids[row] for row in draw.sample(range(len(table)), _POOL)]
    scored = ScoredItems(names, -np.arange(_POOL) / 20)
    seeds = iter(range(_TIMES))

    def make() -> None:
        plan = plan_list(rules, table, masks.__getitem__, allowed)
        arrange_list(plan, [scored], places, str(next(seeds)))

    return measure_us(make)


def measure(options: RulesOptions, console: Console) -> Results:
    """Measure all filters."""
    items, table = list(make_items(options.items)), CatalogueTable()
    begin = time.perf_counter()
    for item in items:
        table.put(item)
    put_us = (time.perf_counter() - begin) / len(items) * _US
    console.print(f"{len(items):,} items as columns: {put_us:.1f} µs each")
    found = {name: measure_filter(table, text) for name, text in FILTERS.items()}
    columns = ("left", "compile", "first", "again", "changed")
    shown = make_table(f"Filters over {len(items):,} items, µs", "filter", columns)
    for name, of in found.items():
        times = (f"{of[f'{each}_us']:,.0f}" for each in columns[1:])
        shown.add_row(name, f"{of['left_share']:.1%}", *times)
    lists = {
        name: {f"{k}_us": measure_list(table, rules, k) for k in _PLACES}
        for name, rules in RULES.items()
    }
    made = make_table(f"Lists out of {_POOL} scored items, µs", "rules", map(str, _PLACES))
    for name, of in lists.items():
        made.add_row(name, *(f"{each:,.0f}" for each in of.values()))
    figures = {"items": len(items), "put_us": put_us, "filters": found, "lists": lists}
    return Results(figures, [shown, made])


BENCHMARK = Benchmark("rules", RulesOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
