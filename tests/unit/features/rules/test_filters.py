"""Filters: what they allow, and what is said of one that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.events import Item

from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.rules.parse import MAX_CHARS, MAX_DEPTH
from features.rules.segments import SegmentValues, compile_segment
from features.rules.table import MAX_ATTRIBUTES, CatalogueTable

ITEMS = (
    Item(item_id="lamp", title="Desk lamp", brand="Lux", price=29.0, category=["light", "desk"]),
    Item(item_id="chair", title="Chair", brand="Sit", price=80.0, attributes={"color": "red"}),
    Item(item_id="table", title="Desk", category=["desk"], attributes={"color": "blue", "legs": 4}),
    Item(item_id="stool", price=80.0, available=False, attributes={"color": 7, "legs": 3}),
)


def table_of(*items: Item) -> CatalogueTable:
    table = CatalogueTable()
    for item in items:
        table.put(item)
    return table


def allowed_items(text: str, **context: object) -> list[str]:
    table = table_of(*ITEMS)
    mask = compile_filter(text).mask(table.view(), {"context": context})
    return [table.item_ids[row] for row in np.flatnonzero(mask)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", ["lamp", "chair", "table", "stool"]),
        ("item.price < 80", ["lamp"]),
        ("80.0 <= item.price", ["chair", "stool"]),
        ("item.price != 80", ["lamp", "table"]),
        ("has(item.price) && item.available", ["lamp", "chair"]),
        ("'desk' in item.category", ["lamp", "table"]),
        ("!('desk' in item.category)", ["chair", "stool"]),
        ("item.title.startsWith('Desk')", ["lamp", "table"]),
        ("item.brand in ['Lux', \"Sit\"]", ["lamp", "chair"]),
        ("item.brand < 'M'", ["lamp", "table", "stool"]),
        ("item.attributes.color == 'red'", ["chair"]),
        # What has no colour is in neither list; what has another kind of colour is not red.
        ("item.attributes.color != 'red'", ["table", "stool"]),
        (
            "!has(item.attributes.color) || item.attributes.color != 'red'",
            ["lamp", "table", "stool"],
        ),
        ('item.attributes["legs"] >= 4', ["table"]),
        ("item.category.exists(c, c.startsWith('li'))", ["lamp"]),
        ("item.category.all(c, c == 'desk')", ["chair", "table", "stool"]),
        ("item.available ? item.price > 50 : true", ["chair", "stool"]),
        ("item.id == 'lamp' // a remark", ["lamp"]),
        ("item.title == r'Desk' || item.title == '\\x43hair'", ["chair", "table"]),
    ],
)
def test_a_filter_allows_what_it_says(text: str, expected: list[str]) -> None:
    assert allowed_items(text) == expected


def test_a_filter_asks_for_what_the_request_brings() -> None:
    text = "item.price <= context.budget && (!has(context.brands) || item.brand in context.brands)"
    assert allowed_items(text, budget=80) == ["lamp", "chair", "stool"]
    assert allowed_items(text, budget=80, brands=["Sit"]) == ["chair"]
    found = compile_filter(text)
    found.check_scope({"context": {"budget": 1}})
    for context, column, problem in (
        ({}, 15, "the request has no context.budget: there are none"),
        ({"budgets": 5}, 15, "the request has no context.budget: there are budgets"),
        ({"budget": 5, "brands": "a"}, 72, "context.brands is a text: expected a list"),
    ):
        with pytest.raises(RuleError) as caught:
            found.check_scope({"context": context})
        assert (caught.value.column, caught.value.problem) == (column, problem)


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "it is empty: expected"),
        ("item.price <", 13, "it ends too early: expected a name, a text, a number, true"),
        ("item.price < 5 item", 16, "unexpected 'item': expected"),
        ("item.price = 5", 12, "compare with =="),
        ("item.price * 2 < 5", 12, "no arithmetic"),
        ("true & false", 6, "join conditions with &&"),
        ("price < 5", 1, "person.NAME, segment.NAME; did you mean item.price?"),
        ("item.cost < 5", 1, "there is no item.cost: there are item.id, item.title"),
        ("item.price < 'x'", 14, "is a text, and it is compared with a number"),
        ("item.price", 1, "is a number: expected a condition"),
        ("item.category == 'a'", 1, 'write "shoes" in item.category'),
        ("5 in item.category", 1, "categories are texts"),
        ("item.brand in ['a', 5]", 21, "is a number, and it is compared with a text"),
        ("item.title.matches('x')", 1, "there is no function 'matches': there are has, startsWith"),
        ("size(item.category)", 1, "expected has(...)"),
        ("has(item)", 5, "nothing is called 'item'"),
        ("item.price == null", 15, "ask has(item.price)"),
        ("item.category.exists(c, item.price < 5)", 25, "c alone is known here"),
        ("item.title == 'abc", 15, "this text does not end"),
        ("item.title == 'a\\qc'", 17, "is no escape"),
        ("item.title == '\\ud800'", 16, "is no character"),
        ("item.price < 1e999", 14, "too large a number"),
        ("true &&\n  item.cost", 3, "there is no item.cost"),
        ("true && " * 500 + "true", MAX_CHARS + 1, "has 4004 characters"),
        ("!" * MAX_DEPTH + "true", 1, "nested deeper"),
    ],
)
def test_a_fault_is_said_at_its_column(text: str, column: int, words: str) -> None:
    with pytest.raises(RuleError) as caught:
        compile_filter(text)
    assert words in caught.value.problem
    assert caught.value.column == column
    assert caught.value.line == 1 + ("\n" in text)


def test_an_attribute_that_no_item_has_is_named_with_those_that_there_are() -> None:
    known = table_of(*ITEMS).attributes
    assert known == ["color", "legs"]
    compile_filter("has(item.attributes.colour)").check_attributes(known)
    with pytest.raises(RuleError) as caught:
        compile_filter("item.price < 5 || item.attributes.colour == 'red'").check_attributes(known)
    assert caught.value.column == 19
    assert caught.value.problem == "no item has an attribute 'colour': there are color, legs"
    assert allowed_items("item.attributes.colour == 'red' || item.id == 'lamp'") == ["lamp"]


def test_an_item_that_changes_has_no_more_what_it_had() -> None:
    table = table_of(*ITEMS)
    before = table.revision
    table.put(Item(item_id="chair", price=5.0, attributes={"legs": "four"}))
    assert table.revision > before
    view, scope = table.view(), {"context": {}}
    for text, expected in (
        ("item.brand == 'Sit'", []),
        ("has(item.attributes.color)", ["table", "stool"]),
        ("item.price == 5", ["chair"]),
        ("item.attributes.legs == 'four'", ["chair"]),
    ):
        mask = compile_filter(text).mask(view, scope)
        assert [table.item_ids[row] for row in np.flatnonzero(mask)] == expected, text


def test_values_that_no_item_has_any_more_are_forgotten() -> None:
    table = table_of(Item(item_id="a", title="first"))
    column = table.find_column("title")
    assert column is not None
    other = compile_filter("item.title != 'first'")
    for number in range(5000):
        table.put(Item(item_id="a", title=f"t{number}"))
        assert other.mask(table.view(), {}).tolist() == [True]
    assert len(column.values) < 2000
    assert compile_filter("item.title == 't4999'").mask(table.view(), {}).tolist() == [True]


def test_there_are_no_more_columns_than_may_be() -> None:
    table = table_of(
        *(Item(item_id=f"i{n}", attributes={f"a{n}": n}) for n in range(MAX_ATTRIBUTES + 5))
    )
    assert len(table.attributes) == MAX_ATTRIBUTES


def test_an_item_of_which_nothing_is_known_is_available() -> None:
    table = CatalogueTable()
    table.add(["a", "b", "a"])
    assert table.item_ids == ["a", "b"]
    assert table.rows_of(["b", "c"]).tolist() == [1, -1]
    assert compile_filter("item.available && !has(item.price)").mask(table.view(), {}).all()


def test_what_nobody_has_said_of_a_person_decides_nothing() -> None:
    found = compile_filter("person.vip || item.price < 3")
    assert found.asks_for_person
    for person, expected in (({"vip": True}, True), ({"vip": False}, False), ({}, False)):
        scope = {"context": {}, "person": person}
        found.check_scope(scope)
        assert (found.condition.find(table_of().view(), scope, True) is True) is expected
    with pytest.raises(RuleError, match=r"column 1: the request has no person\.vip"):
        found.check_scope({"context": {}})


def test_a_segment_is_of_people_alone() -> None:
    known = {"vip": "person.spent > 100", "new": "!has(person.spent)"}
    values = SegmentValues(known, {"context": {}, "person": {"spent": 101}})
    assert dict(values) == {"vip": True, "new": False}
    assert dict(SegmentValues(known, {"person": {}})) == {"vip": False, "new": True}
    found = compile_filter("segment.vip && !segment['new']")
    found.check_segments(known)
    assert found.condition.find(table_of().view(), {"segment": values}, True) is True
    with pytest.raises(RuleError, match=r"column 17: there is no segment 'new': there are vip"):
        found.check_segments(["vip"])
    for text, words in (
        ("context.a && item.id == 'a'", "column 14: a segment is of people"),
        ("item.attributes.x == 1", "column 1: a segment is of people"),
        ("segment.vip", "column 1: a segment asks for no other segment"),
        ("person.spent >", "column 15"),
    ):
        with pytest.raises(RuleError, match=words):
            compile_segment(text)
