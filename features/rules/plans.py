"""The rules of a list, applied to a catalogue, a person and a request: a plan of masks by row.

N items of the catalogue.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from headwater_client import EventError
from headwater_client.contract import PlacementRules
from headwater_client.rules import AtMost, ListRules, Objective

from features.rules.compiler import list_names
from features.rules.conditions import Scope
from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.rules.table import ATTRIBUTE, FIELDS, CatalogueTable
from features.schema import BoolArray, Float64Array, Int64Array

Evaluate = Callable[[str], BoolArray]
"""Where an expression is true of the items of a catalogue: bool[N]."""


def find_conditions(rules: ListRules) -> Iterator[tuple[str, str]]:
    """Every expression of some rules, after the field where it stands.

    >>> from headwater_client.rules import Boost
    >>> list(find_conditions(ListRules(boosts=[Boost(filter="item.available", factor=2)])))
    [('boosts[0].filter', 'item.available')]
    """
    for place, boost in enumerate(rules.boosts):
        yield f"boosts[{place}].filter", boost.filter
    for place, promotion in enumerate(rules.promotions):
        yield f"promotions[{place}].filter", promotion.filter
    if rules.exploration is not None and rules.exploration.filter is not None:
        yield "exploration.filter", rules.exploration.filter
    if isinstance(rules, PlacementRules) and rules.filter is not None:
        yield "filter", rules.filter


def has_rules(rules: ListRules) -> bool:
    """Whether a list is anything but the best by their scores."""
    return bool(
        rules.boosts
        or rules.pins
        or rules.at_most
        or rules.diversity
        or rules.exploration
        or rules.promotions
        or rules.objective not in (None, Objective.CLICKS)
    )


def merge_rules(first: ListRules, second: ListRules) -> ListRules:
    """Rules that hold together; where only one can hold, it is the first's."""
    places, names = ({getattr(pin, each) for pin in first.pins} for each in ("place", "item_id"))
    free = [pin for pin in second.pins if not (pin.place in places or pin.item_id in names)]
    return ListRules(
        boosts=[*first.boosts, *second.boosts],
        pins=[*first.pins, *free],
        at_most=[*first.at_most, *second.at_most],
        diversity=first.diversity or second.diversity,
        exploration=first.exploration or second.exploration,
        promotions=[*first.promotions, *second.promotions],
        objective=first.objective or second.objective,
    )


def check_rules(
    rules: ListRules,
    attributes: Collection[str] | None = None,
    segments: Collection[str] | None = None,
) -> None:
    """Refuse rules that cannot be used.

    Args:
        attributes, segments: those that there are; None: it is not known.

    Raises:
        RuleError: an expression cannot be used, or names what no item has; with field and column.
        EventError: two pins have one place or one item, or an attribute is none.
    """
    for field, text in find_conditions(rules):
        try:
            found = compile_filter(text)
            if attributes is not None:
                found.check_attributes(attributes)
            if segments is not None:
                found.check_segments(segments)
        except RuleError as error:
            error.field = field
            raise
    for field, name in _find_attributes(rules):
        _check_attribute(field, name, attributes)
    for name in ("place", "item_id"):
        held = [getattr(pin, name) for pin in rules.pins]
        for at, value in enumerate(held):
            if value in held[:at]:
                raise EventError(f"pins[{at}].{name}", value, "another pin has it already")


def check_scope(rules: ListRules, scope: Scope) -> None:
    """Refuse a request that lacks what an expression of some rules asks for.

    Raises:
        RuleError: so it does; with the field.
    """
    for field, text in find_conditions(rules):
        try:
            compile_filter(text).check_scope(scope)
        except RuleError as error:
            error.field = field
            raise


def _find_attributes(rules: ListRules) -> Iterator[tuple[str, str]]:
    for place, limit in enumerate(rules.at_most):
        yield f"at_most[{place}].by", limit.by
    if rules.diversity is not None:
        for place, name in enumerate(rules.diversity.by):
            yield f"diversity.by[{place}]", name


def _check_attribute(field: str, name: str, attributes: Collection[str] | None) -> None:
    if name in FIELDS:
        return
    known = [*FIELDS, *(f"{ATTRIBUTE}{each}" for each in attributes or ())]
    is_attribute = name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE)
    if not is_attribute or (attributes is not None and name not in known):
        more = "" if attributes is not None else f", {ATTRIBUTE}NAME"
        raise EventError(field, name, f"no item has it: {list_names(name, known)}{more}")


@dataclass(frozen=True)
class ListPlan:
    """The rules of one list.

    Attributes:
        table: the catalogue.
        rules: the rules themselves.
        allowed: bool[N], what may be shown to this person: of it rules take what no score brings.
        boosts: masks, each with the natural logarithm of its factor.
        promoted: a mask for each promotion.
        tried: int64[M], ascending, the rows of what exploration tries out; empty without it.
        shifts: float64[N], what the objective adds to the logarithm of the odds; None: nothing.
    """

    table: CatalogueTable
    rules: ListRules
    allowed: BoolArray
    boosts: Sequence[tuple[BoolArray, float]]
    promoted: Sequence[BoolArray]
    tried: Int64Array
    shifts: Float64Array | None = None

    def boost(self, rows: Int64Array) -> Float64Array:
        """What is added to the logarithm of the odds of items by their rows, -1: unknown ones."""
        total = np.zeros(len(rows))
        if self.shifts is not None:
            total += np.append(self.shifts, 0.0)[rows]
        for mask, weight in self.boosts if len(self.table) else ():
            total += weight * (mask[rows] & (rows >= 0))
        return total

    def may_show(self, row: int) -> bool:
        """Whether rules may bring an item into the list."""
        return row >= 0 and bool(self.allowed[row])

    @property
    def limits(self) -> Sequence[AtMost]:
        """The rules of at most so many."""
        return self.rules.at_most


def plan_list(
    rules: ListRules,
    table: CatalogueTable,
    evaluate: Evaluate,
    allowed: BoolArray,
    new: BoolArray | None = None,
) -> ListPlan:
    """Apply rules to a catalogue as it is now, for one request.

    Args:
        evaluate: says where an expression is true, for this person and this request.
        allowed: bool[N], what may be shown to this person.
        new: bool[N], what the version has not learned: what exploration tries out by default.

    Raises:
        RuleError: an expression cannot be used.
    """
    tried = np.zeros(0, np.int64)
    if rules.exploration is not None:
        text = rules.exploration.filter
        chosen = new if text is None else evaluate(text)
        mask = allowed if chosen is None else allowed & chosen
        if text is None and not mask.any():
            mask = allowed
        tried = np.flatnonzero(mask)
    return ListPlan(
        table,
        rules,
        allowed,
        [(evaluate(each.filter), math.log(each.factor)) for each in rules.boosts],
        [evaluate(each.filter) for each in rules.promotions],
        tried,
    )
