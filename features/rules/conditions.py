"""Conditions over the columns of the catalogue: where each is true, and where it is false.

As in CEL a condition is true, false, or an error, and `false && error` is false, `true || error`
true. So each is asked for one of two masks, where it is certainly true or certainly false: an item
that is in neither is an error. `!` swaps the two, and nothing is computed that is not asked for.

A mask is bool[n] over the items of a view; or one truth value for all of them, where the condition
does not hang on the item.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from features.rules import table
from features.schema import BoolArray

ScopeValue = str | float | bool | None | Sequence[str | float | bool | None]
Scope = Mapping[str, Mapping[str, ScopeValue]]
"""What a request brings: by root, such as `context`, what each name stands for."""
Mask = BoolArray | bool
_NOWHERE: Mask = False
# The root of variables, which no expression can name.
VARIABLES = ""


class _Missing:
    """What a name stands for that the request does not have: any condition on it is an error."""


MISSING = _Missing()


class Condition(Protocol):
    """A part of an expression that is true or false of an item."""

    def find(self, view: table.TableView, scope: Scope, wanted: bool) -> Mask:
        """Where it is true; where it is false, if that is `wanted`."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that stands in the expression."""

    value: Any

    def read(self, _: Scope) -> Any:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the request brings."""

    root: str
    name: str

    def read(self, scope: Scope) -> Any:
        """The value; `MISSING` where there is none. JSON's null says nothing."""
        value = scope.get(self.root, {}).get(self.name)
        return MISSING if value is None else value


@dataclass(frozen=True, slots=True)
class ListOfValues:
    """`[a, b]`."""

    values: "tuple[Constant | Given, ...]"

    def read(self, scope: Scope) -> Any:
        """The values; `MISSING` where one is."""
        values = [value.read(scope) for value in self.values]
        return MISSING if any(value is MISSING for value in values) else values


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column of the catalogue."""

    name: str

    def column(self, view: table.TableView) -> table.ItemColumn | None:
        """The column; None where no item has the attribute."""
        return view.table.find_column(self.name)


Scalar = Constant | Given
Operand = Scalar | Attribute
COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compare(comparison: str, left: Any, right: Any) -> bool | None:
    """What a comparison of two values comes to; None is an error.

    Values of different kinds are unequal, and neither is below the other. Nor is a list below
    another.

    >>> [compare("==", 1, 1.0), compare("!=", 1, "1"), compare("<", 1, "1")]
    [True, True, None]
    >>> [compare("<=", [1], [1]), compare("<", [1], ["x"]), compare("==", [1], [1])]
    [None, None, True]
    """
    if left is MISSING or right is MISSING:
        return None
    if kind_of(left) != kind_of(right):
        return {"==": False, "!=": True}.get(comparison)
    if kind_of(left) in {"null", "a list"} and comparison not in {"==", "!="}:
        return None
    return bool(COMPARISONS[comparison](left, right))


def kind_of(value: Any) -> str:
    """What kind of value it is, in the words of messages."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "null" if value is None else "a list"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Conditions joined by `&&`."""

    conditions: tuple[Condition, ...]

    def find(self, view: table.TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        masks = (each.find(view, scope, wanted) for each in self.conditions)
        return _join(masks, wanted)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Conditions joined by `||`."""

    conditions: tuple[Condition, ...]

    def find(self, view: table.TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        masks = (each.find(view, scope, wanted) for each in self.conditions)
        return _join(masks, not wanted)


@dataclass(frozen=True, slots=True)
class Negation:
    """`!condition`."""

    condition: Condition

    def find(self, view: table.TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        return self.condition.find(view, scope, not wanted)


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? chosen : other`."""

    condition: Condition
    chosen: Condition
    other: Condition

    def find(self, view: table.TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        ways = ((True, self.chosen), (False, self.other))
        masks = (
            _join((self.condition.find(view, scope, holds), way.find(view, scope, wanted)), True)
            for holds, way in ways
        )
        return _join(masks, False)


def _join(masks: Iterable[Mask], together: bool) -> Mask:
    """Where all masks are true; where any is, if not `together`. Stops once that is decided."""
    joined: Mask = together
    for mask in masks:
        if isinstance(mask, bool):
            if mask is not together:
                return mask
        elif isinstance(joined, bool):
            joined = mask
        else:
            joined = joined & mask if together else joined | mask
    return joined


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left == right`, and the like."""

    comparison: str
    left: Operand
    right: Operand

    def find(self, view: table.TableView, scope: Scope, wanted: bool) -> Mask:
        """See `Condition.find`."""
        left, right = self.left, self.right
        if isinstance(left, Attribute):
            if isinstance(right, Attribute):
                return _compare_columns(view, self.comparison, left, right, wanted)
            return _compare_column(view, left, self.comparison, right.read(scope), wanted)
        if isinstance(right, Attribute):
            mirrored = _MIRRORED[self.comparison]
            return _compare_column(view, right, mirrored, left.read(scope), wanted)
        return compare(self.comparison, left.read(scope), right.read(scope)) is wanted


def _compare_column(
    view: table.TableView, attribute: Attribute, comparison: str, value: Any, wanted: bool
) -> Mask:
    column = attribute.column(view)
    if column is None or value is MISSING:
        return False
    if comparison in {"==", "!="}:
        return find_equal(view, column, value, wanted is (comparison == "=="))
    kind = kind_of(value)
    if kind == "a number":
        if column.numbers is None:
            return False
        order = COMPARISONS[comparison if wanted else _NEGATED[comparison]]
        found: BoolArray = order(view.select(column.numbers), table.as_double(value))
        return found
    if kind not in {"a text", "true or false"}:
        return False
    answer = partial(_compare_to, comparison, value)
    return find_answered(view, column, column.ask((comparison, value), answer), wanted)


def _compare_to(comparison: str, right: Any, left: table.ItemValue) -> bool | None:
    return compare(comparison, left, right)


def find_equal(view: table.TableView, column: table.ItemColumn, value: Any, wanted: bool) -> Mask:
    """Where a column has this value; where it has another, if not `wanted`."""
    codes, found = view.select(column.codes), _NOWHERE
    if kind_of(value) == "a number":
        if column.numbers is not None:
            found = view.select(column.numbers) == table.as_double(value)
    elif kind_of(value) != "a list" and (code := column.code_of(value)) > table.NUMBER:
        found = codes == code
    return found if wanted else find_present(codes, found)


def find_present(codes: table.Int32Array, found: Mask) -> Mask:
    """Where an item has a value, and is not among the `found`."""
    present: BoolArray = codes != table.ABSENT
    return present if isinstance(found, bool) else present & ~found


def find_answered(
    view: table.TableView, column: table.ItemColumn, answers: table.ValueAnswers, wanted: bool
) -> BoolArray:
    """Where a column's answer is true; false, if that is `wanted`."""
    return look_up(view, column, answers.true if wanted else answers.false)


def look_up(view: table.TableView, column: table.ItemColumn, answer: BoolArray) -> BoolArray:
    """What holds of each item, of what holds of each value: bool[D]."""
    found: BoolArray = np.take(answer, view.select(column.codes), mode="clip")
    return found


def _compare_columns(
    view: table.TableView, comparison: str, left: Attribute, right: Attribute, wanted: bool
) -> Mask:
    """Numbers by numbers; other values by where they stand among all that the two columns have."""
    first, second = left.column(view), right.column(view)
    if first is None or second is None:
        return False
    if comparison in {"==", "!="}:
        found = _join(_equal_parts(view, first, second), False)
        if wanted is (comparison == "=="):
            return found
        codes = [view.select(column.codes) for column in (first, second)]
        return _join((codes[0] != table.ABSENT, find_present(codes[1], found)), True)
    chosen = comparison if wanted else _NEGATED[comparison]
    return _join(_ordered_parts(view, first, second, COMPARISONS[chosen]), False)


def _equal_parts(
    view: table.TableView, first: table.ItemColumn, second: table.ItemColumn
) -> Iterable[Mask]:
    if first.numbers is not None and second.numbers is not None:
        yield view.select(first.numbers) == view.select(second.numbers)
    same = np.array([second.code_of(value) for value in first.values], np.int64)
    same[: table.NUMBER + 1] = -1
    yield same[view.select(first.codes)] == view.select(second.codes)


def _ordered_parts(
    view: table.TableView,
    first: table.ItemColumn,
    second: table.ItemColumn,
    order: Callable[[Any, Any], Any],
) -> Iterable[Mask]:
    if first.numbers is not None and second.numbers is not None:
        yield order(view.select(first.numbers), view.select(second.numbers))
    for kind in (str, bool):
        both = {*first.values, *second.values}
        ranks = {v: at for at, v in enumerate(sorted(v for v in both if isinstance(v, kind)))}
        places = [
            np.array([ranks.get(v, -1) if isinstance(v, kind) else -1 for v in column.values])[
                view.select(column.codes)
            ]
            for column in (first, second)
        ]
        yield (places[0] >= 0) & (places[1] >= 0) & order(places[0], places[1])
