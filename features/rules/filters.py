"""Filters: an expression that says of each item whether it is allowed, or of a person."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from features.rules.compiler import ITEM, PERSON, SEGMENT, Compiler, Mention, list_names, shorten
from features.rules.conditions import AllOf, AnyOf, Condition, Scope, kind_of
from features.rules.errors import RuleError
from features.rules.parse import parse_expression
from features.rules.table import TableView
from features.schema import BoolArray

_COMPILED = 256


@dataclass(frozen=True, slots=True)
class Filter:
    """An expression that says of each item whether it is allowed.

    Attributes:
        text: the expression.
        mentions: what it asks for: of items (`item`), of the request (`context`), of the `person`,
            for a `segment`.
        item_position: where it asks for something of an item first; None: nowhere.
    """

    text: str
    condition: Condition
    mentions: tuple[Mention, ...]
    item_position: int | None = None

    def mask(self, view: TableView, scope: Scope) -> BoolArray:
        """Which items of a view are allowed, bool[n]; one that cannot be decided is not."""
        found = self.condition.find(view, scope, True)
        return np.full(view.size, found) if isinstance(found, bool) else found

    def check_attributes(self, known: Collection[str]) -> None:
        """Refuse an attribute that no item has.

        Args:
            known: the names of all attributes.

        Raises:
            RuleError: it names the attribute, and those that there are.
        """
        for mention in self.mentions:
            if mention.root == ITEM and mention.name not in known and not mention.is_guarded:
                problem = f"no item has an attribute {shorten(mention.name)!r}"
                raise self._fail(mention, f"{problem}: {list_names(mention.name, known)}")

    def check_segments(self, known: Collection[str]) -> None:
        """Refuse a segment that does not exist.

        Raises:
            RuleError: it names the segment, and those that there are.
        """
        for mention in self.mentions:
            if mention.root == SEGMENT and mention.name not in known:
                problem = f"there is no segment {shorten(mention.name)!r}"
                raise self._fail(mention, f"{problem}: {list_names(mention.name, known)}")

    def check_scope(self, scope: Scope) -> None:
        """Refuse a request that lacks what the expression asks for without `has`.

        What nobody has said of a person is no fault of the request: it leaves the expression
        undecided.

        Raises:
            RuleError: it names what is missing, and what the request has.
        """
        for mention in self.mentions:
            if mention.root == ITEM:
                continue
            given = scope.get(mention.root, {})
            name, value = f"{mention.root}.{shorten(mention.name)}", given.get(mention.name)
            is_unknown = mention.root == PERSON and PERSON in scope
            if value is None and not mention.is_guarded and not is_unknown:
                what = "there is no" if mention.root == SEGMENT else "the request has no"
                problem = f"{what} {name}: {list_names(mention.name, given)}"
                raise self._fail(mention, problem)
            if value is not None and mention.is_list and kind_of(value) != "a list":
                raise self._fail(mention, f"{name} is {kind_of(value)}: expected a list")

    @property
    def asks_for_person(self) -> bool:
        """Whether it asks for anything that an app knows of the person."""
        return any(mention.root in (PERSON, SEGMENT) for mention in self.mentions)

    def describe_scope(self, scope: Scope) -> str:
        """What the expression gets of a request: the same text for the same answers."""
        asked = (each for each in self.mentions if each.root != ITEM)
        return ";".join(repr(scope.get(each.root, {}).get(each.name)) for each in asked)

    def _fail(self, mention: Mention, problem: str) -> RuleError:
        return RuleError(self.text, mention.position, problem)


def join_filters(first: Filter, second: Filter) -> Filter:
    """The filter that allows what both allow."""
    return Filter(
        f"{first.text}\0{second.text}",
        AllOf((first.condition, second.condition)),
        (*first.mentions, *second.mentions),
    )


def unite_filters(filters: Sequence[Filter]) -> Filter:
    """The filter that allows what any of some allows."""
    return Filter(
        "\1".join(each.text for each in filters),
        AnyOf(tuple(each.condition for each in filters)),
        tuple(mention for each in filters for mention in each.mentions),
    )


@lru_cache(maxsize=_COMPILED)
def compile_filter(text: str) -> Filter:
    """Compile an expression.

    Raises:
        RuleError: it does not follow the grammar, or can never be decided; with the column.
    """
    compiler = Compiler(text)
    condition = compiler.condition(parse_expression(text))
    return Filter(text, condition, tuple(compiler.mentions()), compiler.item_position)


EVERYTHING = compile_filter("true")
