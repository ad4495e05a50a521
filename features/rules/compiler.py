"""Checks the parts of an expression, and makes conditions over columns of them."""

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from features.rules import memberships
from features.rules.conditions import (
    COMPARISONS,
    VARIABLES,
    AllOf,
    AnyOf,
    Attribute,
    Choice,
    Comparison,
    Condition,
    Constant,
    Given,
    ListOfValues,
    Negation,
    Operand,
    Scalar,
    kind_of,
)
from features.rules.errors import RuleError
from features.rules.parse import Call, ExpressionPart, ListOf, Literal, Name, OperatorCall, Select
from features.rules.table import ATTRIBUTE, FIELDS

ITEM = "item"
PERSON, SEGMENT = "person", "segment"
# What a request brings, what an app knows of the person, and in which segments that puts them.
ROOTS = ("context", PERSON, SEGMENT)
_SHOWN_NAMES = 20
_SHOWN_CHARS = 60
_KINDS = {
    "id": "a text",
    "title": "a text",
    "brand": "a text",
    "price": "a number",
    "available": "true or false",
    "category": "a list",
}
_PARTS_OF_ITEM = (*FIELDS, "attributes.NAME")


@dataclass(frozen=True, slots=True)
class Mention:
    """A name that an expression asks for, and where.

    Attributes:
        is_guarded: whether it is asked for by `has` somewhere, so that it may be missing.
        is_list: whether it has to be a list.
    """

    root: str
    name: str
    position: int
    is_guarded: bool
    is_list: bool


def shorten(name: str) -> str:
    """A name as messages show it."""
    return name[:_SHOWN_CHARS]


def list_names(name: str, known: Collection[str]) -> str:
    """The names that there are, those like the one that is not first."""
    if not known:
        return "there are none"
    close = difflib.get_close_matches(shorten(name), map(shorten, sorted(known)))
    names = list(dict.fromkeys([*close, *map(shorten, sorted(known))]))
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"there are {', '.join(names[:_SHOWN_NAMES])}{more}"


class Compiler:
    """Makes conditions of the parts of one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[tuple[str, str], int] = {}
        self._guarded: set[tuple[str, str]] = set()
        self._lists: set[tuple[str, str]] = set()
        self._read: list[Given] = []
        self.item_position: int | None = None
        # Of an `exists` or `all`: its variable, and no attribute of the item may be asked for.
        self._variable: str | None = None

    def mentions(self) -> Iterator[Mention]:
        """What the expression asks for."""
        for key, position in self._found.items():
            yield Mention(*key, position, key in self._guarded, key in self._lists)

    def condition(self, part: ExpressionPart) -> Condition:
        """What a part says of an item.

        Raises:
            RuleError: it is no condition.
        """
        match part:
            case OperatorCall(operator="in", operands=(left, right)):
                made = self._membership(left, right)
            case OperatorCall(operator=comparison, operands=(left, right)) if (
                comparison in COMPARISONS
            ):
                made = self._comparison(comparison, left, right)
            case OperatorCall(operator=sign, operands=operands):
                made = _join(sign, tuple(map(self.condition, operands)))
            case Call():
                made = self._call(part)
            case _:
                made = self._truth(part)
        return made

    def _fail(self, part: ExpressionPart, problem: str) -> RuleError:
        return RuleError(self._text, part.position, problem)

    def _truth(self, part: ExpressionPart) -> Condition:
        operand = self._operand(part)
        if (kind := _static_kind(operand)) not in {None, "true or false"}:
            raise self._fail(part, f"is {kind}: expected a condition, such as a comparison with ==")
        return memberships.Truth(operand)

    def _comparison(
        self, comparison: str, left: ExpressionPart, right: ExpressionPart
    ) -> Condition:
        operands = self._operand(left), self._operand(right)
        kinds = [_static_kind(operand) for operand in operands]
        for part, kind in zip((left, right), kinds, strict=True):
            if kind == "a list":
                raise self._fail(part, 'is a list: write "shoes" in item.category')
        if None not in kinds and kinds[0] != kinds[1]:
            raise self._fail(right, f"is {kinds[1]}, and it is compared with {kinds[0]}")
        return Comparison(comparison, *operands)

    def _membership(self, left: ExpressionPart, right: ExpressionPart) -> Condition:
        if isinstance(right, ListOf):
            values = ListOfValues(tuple(map(self._scalar, right.parts)))
            operand = self._single(left)
            self._check_listed(right, operand, values)
            return memberships.InList(operand, values)
        where = self._operand(right)
        if isinstance(where, Given) and where.root != VARIABLES:
            # A fault is where it is taken for a list.
            self._found[where.root, where.name] = right.position
            self._lists.add((where.root, where.name))
            return memberships.InList(self._single(left), where)
        if where == _CATEGORY:
            value = self._scalar(left)
            if (kind := _static_kind(value)) not in {None, "a text"}:
                raise self._fail(left, f"is {kind}, and categories are texts")
            return memberships.InCategory(value, _CATEGORY)
        raise self._fail(right, "expected a list: [...], item.category, or a list of the context")

    def _check_listed(self, part: ListOf, operand: Operand, values: ListOfValues) -> None:
        kind = _static_kind(operand)
        for each, value in zip(part.parts, values.values, strict=True):
            other = _static_kind(value)
            if None not in {kind, other} and kind != other:
                raise self._fail(each, f"is {other}, and it is compared with {kind}")

    def _call(self, call: Call) -> Condition:
        if call.operand is None:
            return self._presence(call)
        if call.name in memberships.TEXT_TESTS:
            return self._text_test(call)
        if call.name in {"exists", "all"}:
            return self._quantifier(call)
        known = ", ".join([*memberships.TEXT_TESTS, "exists", "all"])
        raise self._fail(
            call, f"there is no function {shorten(call.name)!r}: there are has, {known}"
        )

    def _presence(self, call: Call) -> Condition:
        if call.name != "has" or len(call.arguments) != 1:
            raise self._fail(call, "expected has(...) of one name, such as has(item.price)")
        (asked,) = call.arguments
        operand = self._operand(asked)
        if not isinstance(asked, Select) or isinstance(operand, Constant):
            raise self._fail(asked, "expected a name with a dot, such as item.price")
        if isinstance(operand, Given):
            self._guarded.add((operand.root, operand.name))
        elif operand.name.startswith(ATTRIBUTE):
            self._guarded.add((ITEM, operand.name.removeprefix(ATTRIBUTE)))
        return memberships.Presence(operand)

    def _text_test(self, call: Call) -> Condition:
        assert call.operand is not None
        if len(call.arguments) != 1:
            raise self._fail(call, f"{call.name} takes one text")
        (argument,) = call.arguments
        operand, value = self._operand(call.operand), self._scalar(argument)
        if operand == _CATEGORY:
            hint = f"item.category.exists(c, c.{call.name}(...))"
            raise self._fail(call.operand, f"is a list: write {hint}")
        for part, each in ((call.operand, operand), (argument, value)):
            if (kind := _static_kind(each)) not in {None, "a text"}:
                raise self._fail(part, f"is {kind}: {call.name} takes texts")
        return memberships.TextTest(call.name, operand, value)

    def _quantifier(self, call: Call) -> Condition:
        assert call.operand is not None
        match call.arguments:
            case (Name(name=variable), inner) if self._operand(call.operand) == _CATEGORY:
                pass
            case _:
                raise self._fail(call, f'expected item.category.{call.name}(c, c == "shoes")')
        if self._variable is not None or variable in {ITEM, *ROOTS}:
            raise self._fail(call, f"a name of its own, and no {call.name} in another, is expected")
        self._variable = variable
        begin = len(self._read)
        condition = self.condition(inner)
        self._variable = None
        given = tuple(dict.fromkeys(self._read[begin:]))
        return memberships.OfEach(_CATEGORY, call.name == "exists", variable, condition, given)

    def _single(self, part: ExpressionPart) -> Operand:
        operand = self._operand(part)
        if _static_kind(operand) == "a list":
            raise self._fail(part, 'is a list: write "shoes" in item.category')
        return operand

    def _scalar(self, part: ExpressionPart) -> Scalar:
        """A value that does not hang on the item."""
        operand = self._operand(part)
        if isinstance(operand, Attribute):
            raise self._fail(
                part, "expected a text, a number, true, false or a name of the context"
            )
        return operand

    def _operand(self, part: ExpressionPart) -> Operand:
        match part:
            case Literal(value=None):
                problem = "null is not compared with: ask has(item.price)"
            case Literal(value=value):
                return Constant(value)
            case Name(name=name) if name == self._variable:
                return Given(VARIABLES, name)
            case Name(name=name):
                problem = self._explain_name(name)
            case Select():
                return self._select(part)
            case ListOf():
                problem = 'a list stands after in: item.brand in ["a", "b"]'
            case _:
                problem = "expected an attribute, a text or a number, not a condition"
        raise self._fail(part, problem)

    def _select(self, part: Select) -> Operand:
        match part.operand:
            case Name(name=root) if root == ITEM:
                return self._attribute(part, part.name)
            case Select(operand=Name(name=root), name="attributes") if root == ITEM:
                return self._attribute(part, f"{ATTRIBUTE}{part.name}")
            case Name(name=root) if root in ROOTS:
                self._found.setdefault((root, part.name), part.position)
                self._read.append(Given(root, part.name))
                return self._read[-1]
            case Name(name=name) if name != self._variable:
                problem = self._explain_name(name)
            case _:
                problem = f"nothing is known by {shorten(part.name)!r} there"
        raise self._fail(part, problem)

    def _attribute(self, part: ExpressionPart, name: str) -> Attribute:
        if self._variable is not None:
            raise self._fail(part, f"{self._variable} alone is known here, and the context")
        if self.item_position is None:
            self.item_position = part.position
        if name.startswith(ATTRIBUTE):
            self._found.setdefault((ITEM, name.removeprefix(ATTRIBUTE)), part.position)
        elif name not in FIELDS:
            known = ", ".join(f"item.{each}" for each in _PARTS_OF_ITEM)
            raise self._fail(part, f"there is no item.{shorten(name)}: there are {known}")
        return Attribute(name)

    def _explain_name(self, name: str) -> str:
        roots = ", ".join(f"{root}.NAME" for root in (ITEM, *ROOTS))
        hint = f"; did you mean item.{name}?" if name in FIELDS else ""
        return f"nothing is called {shorten(name)!r}: expected {roots}{hint}"


_CATEGORY = Attribute("category")


def _join(sign: str, conditions: tuple[Condition, ...]) -> Condition:
    """Conditions under `&&`, `||`, `!` or `?:`."""
    if sign == "&&":
        return AllOf(conditions)
    if sign == "||":
        return AnyOf(conditions)
    return Negation(*conditions) if sign == "!" else Choice(*conditions)


def _static_kind(operand: Operand) -> str | None:
    """What kind of value an operand always is; None where only the item or the request says."""
    if isinstance(operand, Attribute):
        return _KINDS.get(operand.name)
    if isinstance(operand, Constant):
        return kind_of(operand.value)
    return "a text" if operand.root == VARIABLES else None
