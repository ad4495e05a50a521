"""Conditions besides comparisons: what is in a list, what a text holds, what an item has at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from features.rules.conditions import (
    MISSING,
    VARIABLES,
    Attribute,
    Condition,
    Given,
    ListOfValues,
    Mask,
    Operand,
    Scalar,
    Scope,
    compare,
    find_answered,
    find_equal,
    find_present,
    kind_of,
    look_up,
)
from features.rules.table import ABSENT, NUMBER, ItemColumn, TableView, as_double


@dataclass(frozen=True, slots=True)
class InList:
    """`item.brand in ["a", "b"]`, `item.brand in context.brands`."""

    operand: Operand
    values: ListOfValues | Given

    def find(self, view: TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        values = self.values.read(scope)
        if not isinstance(values, list):
            return False
        if not isinstance(self.operand, Attribute):
            value = self.operand.read(scope)
            is_known = value is not MISSING
            return is_known and any(compare("==", value, each) for each in values) is wanted
        column = self.operand.column(view)
        if column is None:
            return False
        codes = view.select(column.codes)
        found = _find_listed(view, column, values)
        if wanted:
            return found
        return find_present(codes, found)


def _find_listed(view: TableView, column: ItemColumn, values: list[Any]) -> Mask:
    """Where a column's value is one of these."""
    numbers = [value for value in values if kind_of(value) == "a number"]
    others = [value for value in values if kind_of(value) in {"a text", "true or false"}]
    is_listed = np.zeros(len(column.values), np.bool_)
    is_listed[[code for value in others if (code := column.code_of(value)) > NUMBER]] = True
    found = look_up(view, column, is_listed)
    if numbers and column.numbers is not None:
        found = found | np.isin(view.select(column.numbers), list(map(as_double, numbers)))
    return found


@dataclass(frozen=True, slots=True)
class InCategory:
    """`"shoes" in item.category`, `context.category in item.category`."""

    value: Scalar
    categories: Attribute

    def find(self, view: TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        value, column = self.value.read(scope), self.categories.column(view)
        if value is MISSING or column is None:
            return False
        if kind_of(value) != "a text":
            return not wanted
        holds = np.zeros(len(column.values), np.bool_)
        holds[column.codes_with(value)] = True
        return look_up(view, column, holds if wanted else ~holds)


_TEXT_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}
TEXT_TESTS = tuple(_TEXT_TESTS)


@dataclass(frozen=True, slots=True)
class TextTest:
    """`item.title.contains("lamp")`, and the like."""

    test: str
    operand: Operand
    argument: Scalar

    def find(self, view: TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        argument = self.argument.read(scope)
        if not isinstance(argument, str):
            return False
        test = partial(_test_text, _TEXT_TESTS[self.test], argument)
        if not isinstance(self.operand, Attribute):
            return test(self.operand.read(scope)) is wanted
        column = self.operand.column(view)
        if column is None:
            return False
        return find_answered(view, column, column.ask((self.test, argument), test), wanted)


def _test_text(test: Callable[[str, str], bool], argument: str, value: Any) -> bool | None:
    return test(value, argument) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Presence:
    """`has(item.price)`, `has(context.device)`: whether it was given, and is not empty."""

    operand: Attribute | Given

    def find(self, view: TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        if isinstance(self.operand, Given):
            return (self.operand.read(scope) is not MISSING) is wanted
        column = self.operand.column(view)
        if column is None:
            return not wanted
        given = np.ones(len(column.values), np.bool_)
        given[ABSENT] = False
        if (empty := EMPTY.get(self.operand.name, MISSING)) is not MISSING:
            given[max(ABSENT, column.code_of(empty))] = False
        return look_up(view, column, given if wanted else ~given)


EMPTY: Mapping[str, Any] = {"title": "", "brand": "", "category": (), "price": None}
"""What stands in a column for what an item was not given."""


@dataclass(frozen=True, slots=True)
class Truth:
    """`item.available`, `true`: a value that is a condition by itself."""

    operand: Operand

    def find(self, view: TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        if not isinstance(self.operand, Attribute):
            return self.operand.read(scope) is wanted
        column = self.operand.column(view)
        return column is not None and find_equal(view, column, wanted, True)


@dataclass(frozen=True, slots=True)
class OfEach:
    """`item.category.exists(c, c.startsWith("sport"))`, and `all`.

    Attributes:
        is_any: whether one category is enough.
        condition: of a variable and what the request brings; of nothing of the item.
        given: what of the request it hangs on.
    """

    categories: Attribute
    is_any: bool
    variable: str
    condition: Condition
    given: tuple[Given, ...]

    def find(self, view: TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        column = self.categories.column(view)
        if column is None:
            return False
        read = tuple(_as_key(each.read(scope)) for each in self.given)
        answers = column.ask_lists(
            (self, read), lambda name: self._decide(name, view, scope), is_any=self.is_any
        )
        return find_answered(view, column, answers, wanted)

    def _decide(self, name: str, view: TableView, scope: Scope) -> bool | None:
        inner = {**scope, VARIABLES: {**scope.get(VARIABLES, {}), self.variable: name}}
        for holds in (True, False):
            if self.condition.find(view, inner, holds) is True:
                return holds
        return None


def _as_key(value: Any) -> object:
    """A value to remember an answer by: to Python `True` and 1 are the same."""
    return (kind_of(value), tuple(map(_as_key, value)) if isinstance(value, list) else value)
