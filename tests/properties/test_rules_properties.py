"""An expression over columns says of each item what CEL says of that item alone.

The other side is plain Python: a tree is drawn, written down as text for the compiler, and worked
out item by item as the language definition has it, errors included.
"""

from __future__ import annotations

import json
import operator
from typing import Any

import numpy as np
import pytest
from headwater_client import HeadwaterError
from headwater_client.events import Item
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.rules.parse import MAX_CHARS
from features.rules.table import CatalogueTable

TEXTS = ["", "a", "b", "ab", 'q"uo', "é\\", "line\nend", "\u2028"]
NUMBERS = [0, 1, -1, 1.5, 2.0, 1e-05]
ATTRIBUTES = ["color", "size", "on sale"]
CONTEXT = ["device", "budget", "brands"]
COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TESTS = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
}
scalars = st.one_of(st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.booleans())
items = st.builds(
    Item,
    item_id=st.sampled_from([f"i{at}" for at in range(12)]),
    title=st.sampled_from(TEXTS),
    brand=st.sampled_from(TEXTS),
    price=st.none() | st.sampled_from([each for each in NUMBERS if each >= 0]),
    available=st.booleans(),
    category=st.lists(st.sampled_from(TEXTS[1:5]), max_size=3),
    attributes=st.dictionaries(st.sampled_from(ATTRIBUTES), scalars | st.none(), max_size=3),
)
contexts = st.dictionaries(
    st.sampled_from(CONTEXT), scalars | st.lists(scalars, max_size=3) | st.none(), max_size=3
)

# An operand is ("text", name), ("number", name), ("any", name), ("context", name) or ("is", value).
texts_of_item = st.sampled_from([("text", name) for name in ("id", "title", "brand")])
anything = st.sampled_from(
    [("any", name) for name in ATTRIBUTES] + [("context", name) for name in CONTEXT]
)


def value_of(kind: Any) -> Any:
    return kind.map(lambda value: ("is", value))


a_text = value_of(st.sampled_from(TEXTS))
a_number = value_of(st.sampled_from(NUMBERS))
a_scalar = value_of(scalars) | st.sampled_from([("context", name) for name in CONTEXT])
pairs = st.one_of(
    st.tuples(texts_of_item, a_text | anything | texts_of_item),
    st.tuples(st.just(("number", "price")), a_number | anything),
    st.tuples(anything, a_scalar | anything | texts_of_item),
    st.tuples(a_text | anything, texts_of_item | anything),
)
lists = st.one_of(
    st.tuples(texts_of_item, st.lists(a_text, max_size=3)),
    st.tuples(st.just(("number", "price")), st.lists(a_number, max_size=3)),
    st.tuples(anything, st.lists(a_scalar, max_size=3)),
    st.tuples(texts_of_item | anything, st.just(("context", "brands"))),
)


def leaves(variable: bool) -> Any:
    some: list[Any] = [
        st.tuples(st.just("compare"), st.sampled_from(sorted(COMPARISONS)), pairs),
        st.tuples(st.just("in"), lists),
        st.tuples(st.just("category"), a_text | st.just(("context", "device"))),
        st.tuples(
            st.just("test"), st.sampled_from(sorted(TESTS)), texts_of_item | anything, a_text
        ),
        st.tuples(
            st.just("has"), texts_of_item | anything | st.sampled_from([("number", "price")])
        ),
        st.tuples(st.just("truth"), anything | st.sampled_from([("truth", "available")])),
        st.tuples(
            st.just("each"),
            st.sampled_from(["exists", "all"]),
            st.tuples(
                st.sampled_from(sorted(COMPARISONS)), a_text | st.just(("context", "device"))
            ),
        ),
    ]
    return st.one_of(some)


def trees() -> Any:
    return st.recursive(
        leaves(variable=False),
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=4)),
            st.tuples(st.just("not"), inner),
            st.tuples(st.just("choose"), inner, inner, inner),
        ),
        max_leaves=8,
    )


def write_operand(operand: Any) -> str:
    kind, value = operand
    if kind == "is":
        return (
            json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
        )
    if kind == "any":
        return f"item.attributes[{json.dumps(value)}]"
    return f"{'context' if kind == 'context' else 'item'}.{value}"


def write(tree: Any) -> str:  # noqa: C901, PLR0911
    match tree:
        case ("compare", comparison, (left, right)):
            return f"{write_operand(left)} {comparison} {write_operand(right)}"
        case ("in", (left, tuple(right))):
            return f"{write_operand(left)} in {write_operand(right)}"
        case ("in", (left, right)):
            return f"{write_operand(left)} in [{', '.join(map(write_operand, right))}]"
        case ("category", value):
            return f"{write_operand(value)} in item.category"
        case ("test", name, operand, argument):
            return f"{write_operand(operand)}.{name}({write_operand(argument)})"
        case ("has", operand):
            return f"has({write_operand(operand)})"
        case ("truth", operand):
            return write_operand(operand)
        case ("each", name, (comparison, value)):
            return f"item.category.{name}(c, c {comparison} {write_operand(value)})"
        case ("not", inner):
            return f"!({write(inner)})"
        case ("choose", *parts):
            asked, chosen, other = map(write, parts)
            return f"(({asked}) ? {chosen} : {other})"
        case (joined, parts):
            sign = " && " if joined == "and" else " || "
            return f"({sign.join(f'({write(part)})' for part in parts)})"
    raise AssertionError(tree)


class UndecidedError(Exception):
    """CEL's error."""


def read(operand: Any, item: Item, context: dict[str, Any]) -> Any:
    kind, value = operand
    if kind == "is":
        return value
    if kind in {"text", "number", "truth"}:
        return item.item_id if value == "id" else getattr(item, value)
    found = (item.attributes if kind == "any" else context).get(value)
    if found is None:
        raise UndecidedError
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def are_alike(left: Any, right: Any) -> bool:
    return type(left) is type(right) or (is_number(left) and is_number(right))


def relate(comparison: str, left: Any, right: Any) -> bool:
    if not are_alike(left, right):
        if comparison in ("==", "!="):
            return comparison == "!="
        raise UndecidedError
    if isinstance(left, list):
        if comparison not in ("==", "!="):
            raise UndecidedError
        same = len(left) == len(right) and all(
            relate("==", one, other) for one, other in zip(left, right, strict=True)
        )
        return same is (comparison == "==")
    return bool(COMPARISONS[comparison](left, right))


def decide_all(decisions: list[Any], deciding: bool) -> bool:
    """Of conditions that are joined: one that decides stands above an error."""
    found = []
    for decide in decisions:
        try:
            found.append(decide())
        except UndecidedError:
            found.append(None)
    if deciding in found:
        return deciding
    if None in found:
        raise UndecidedError
    return not deciding


def work_out(tree: Any, item: Item, context: dict[str, Any]) -> bool:  # noqa: C901, PLR0911, PLR0912
    match tree:
        case ("compare", comparison, (left, right)):
            return relate(comparison, read(left, item, context), read(right, item, context))
        case ("in", (left, right)):
            value = read(left, item, context)
            listed = (
                read(right, item, context)
                if isinstance(right, tuple)
                else [read(each, item, context) for each in right]
            )
            if not isinstance(listed, list):
                raise UndecidedError
            return any(relate("==", value, each) for each in listed)
        case ("category", operand):
            return read(operand, item, context) in item.category
        case ("test", name, operand, argument):
            value = read(operand, item, context)
            if not isinstance(value, str):
                raise UndecidedError
            return bool(TESTS[name](value, read(argument, item, context)))
        case ("has", (kind, name)):
            if kind in ("any", "context"):
                return (item.attributes if kind == "any" else context).get(name) is not None
            return read((kind, name), item, context) not in ("", None)
        case ("truth", operand):
            value = read(operand, item, context)
            if not isinstance(value, bool):
                raise UndecidedError
            return value
        case ("each", name, (comparison, operand)):
            decisions = [
                lambda c=c: relate(comparison, c, read(operand, item, context))
                for c in item.category
            ]
            return decide_all(decisions, name == "exists")
        case ("not", inner):
            return not work_out(inner, item, context)
        case ("choose", asked, chosen, other):
            way = chosen if work_out(asked, item, context) else other
            return work_out(way, item, context)
        case (joined, parts):
            decisions = [lambda part=part: work_out(part, item, context) for part in parts]
            return decide_all(decisions, joined == "or")
    raise AssertionError(tree)


def is_allowed(tree: Any, item: Item, context: dict[str, Any]) -> bool:
    try:
        return work_out(tree, item, context)
    except UndecidedError:
        return False


@settings(max_examples=200, deadline=None)
@given(
    st.lists(items, min_size=1, max_size=25), contexts, st.lists(trees(), min_size=1, max_size=4)
)
def test_columns_decide_as_each_item_does(
    sent: list[Item], context: dict[str, Any], drawn: list[Any]
) -> None:
    table, newest = CatalogueTable(), {}
    scope = {"context": context}
    for item in sent:
        table.put(item)
        newest[item.item_id] = item
        # Asked in between: what is remembered of a question must hold for items that come later.
        for tree in drawn:
            compile_filter(write(tree)).mask(table.view(), scope)
    for tree in drawn:
        text = write(tree)
        expected = [is_allowed(tree, newest[name], context) for name in table.item_ids]
        found = compile_filter(text).mask(table.view(), scope)
        assert found.tolist() == expected, text
        some = np.arange(len(table))[::-2]
        part = compile_filter(text).mask(table.view(some), scope)
        assert part.tolist() == [expected[row] for row in some], text


PIECES = [*"()[]{}!?:.,<>=&|\"'\\+-0x \n", "item", "context", "has", "in", "category", "true", "&&"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)))
def test_any_text_compiles_or_is_refused_at_a_column(text: str) -> None:
    try:
        compile_filter(text)
    except RuleError as refused:
        error = refused
    else:
        return
    assert 1 <= error.column <= len(text) + 1
    assert error.problem


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_CHARS,
        "!" * (MAX_CHARS - 4) + "true",
        "[" * MAX_CHARS,
        '"' + "\\n" * (MAX_CHARS // 2 - 1),
        "true ? " * (MAX_CHARS // 7 - 1),
        "item" + ".a" * (MAX_CHARS // 2 - 2),
        "a" * MAX_CHARS,
        "9" * MAX_CHARS,
        "true && " * (MAX_CHARS // 8 - 1) + "true x",
    ],
)
def test_hostile_texts_are_refused(text: str) -> None:
    with pytest.raises(HeadwaterError):
        compile_filter(text)
