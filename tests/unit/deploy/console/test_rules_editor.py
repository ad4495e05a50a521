"""Drafts of rules: what is wrong with them, and where in the text that an editor shows."""

from __future__ import annotations

import json

import pytest
from headwater_client import EventError, Item
from headwater_client.admin.placements import EditorWord, RulesDraft, WordKind
from headwater_client.contract import Fallback, PlacementRules, SegmentRules
from headwater_client.rules import Boost, Diversity, Pin

from deploy.console.rules_editor import DraftReader, draft_of, list_words
from features.placements import PlacementTable
from features.rules.table import CatalogueTable


def table() -> CatalogueTable:
    made = CatalogueTable()
    made.put(
        Item(
            item_id="a",
            title="A lamp",
            brand='"Oak" & co',
            category=["lamps", "gifts"],
            attributes={"color": "red", "year made": 1999.0, "is_new": True},
        )
    )
    return made


def placements() -> PlacementTable:
    made = PlacementTable()
    made.take("segment/vip", SegmentRules(filter="person.spent > 500"), 3)
    made.take("segment/big-spenders", SegmentRules(filter="person.spent > 900"), 4)
    return made


READER = DraftReader(table(), placements())


def test_rules_that_are_shown_and_saved_are_the_same() -> None:
    rules = PlacementRules(
        filter="item.price < 5",
        limit=3,
        fallback=Fallback.NOTHING,
        boosts=[Boost(filter="item.brand == 'ö\"'", factor=2)],
        pins=[Pin(item_id="a", place=1)],
        diversity=Diversity(strength=0.3),
    )
    draft = draft_of(rules)
    assert READER.read("home", draft) == (rules, [])
    assert READER.read("home", draft_of(PlacementRules())) == (PlacementRules(), [])
    assert draft_of(PlacementRules()).more == ""


@pytest.mark.parametrize(
    ("text", "marked", "line", "column"),
    [
        ("item.price <", "", 1, 13),
        ("item.price < 5 &&\n  item.cost < 3", "item.cost", 2, 3),
        ("segment.vips", "segment.vips", 1, 1),
        ("item.attributes.colour == 'red'", "item.attributes.colour", 1, 1),
        ("item.price = 5", "= 5", 1, 12),
        ('"é" == item.cost', "item.cost", 1, 8),
    ],
)
def test_a_fault_of_the_filter_is_at_its_column(
    text: str, marked: str, line: int, column: int
) -> None:
    rules, (fault,) = READER.read("home", RulesDraft(filter=text))
    assert rules is None
    assert (fault.part, fault.field, fault.line, fault.column) == ("filter", "filter", line, column)
    assert fault.begin is not None
    assert text[fault.begin :].startswith(marked)
    assert bool(text[fault.begin :]) == bool(marked)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_fault_within_json_is_where_the_editor_shows_it(indent: int | None) -> None:
    expression = 'item.brand == "ö" &&\nitem.cost < 3'
    boosts = [{"filter": "item.available", "factor": 2}, {"filter": expression, "factor": 3}]
    more = json.dumps({"boosts": boosts}, indent=indent, ensure_ascii=False)
    _, (fault,) = READER.read("home", RulesDraft(more=more))
    assert (fault.part, fault.field) == ("more", "boosts[1].filter")
    assert (fault.line, fault.column) == (2, 1)
    assert fault.begin is not None
    assert more[fault.begin :].startswith("item.cost < 3")


@pytest.mark.parametrize(
    ("more", "field", "marked"),
    [
        ('{"boosts": [{"filter": "true", "factor": 2}', "", ""),
        ('{"boosts": 3}', "boosts", '"boosts"'),
        ('{"limits": 3}', "limits", '"limits"'),
        ('{"at_most": [{"by": "size", "items": 1}]}', "at_most[0].by", '"size"'),
        ('{"pins": [{"item_id": "a", "place": 0}]}', "pins[0].place", '"place"'),
        ("[1]", "", None),
        ("[" * 5000, "", None),
    ],
)
def test_what_is_no_rule_is_named(more: str, field: str, marked: str | None) -> None:
    rules, (fault,) = READER.read("home", RulesDraft(more=more))
    assert rules is None
    assert (fault.part, fault.field) == ("more", field)
    assert fault.problem
    if marked is not None:
        assert fault.begin is not None
        assert more[fault.begin :].startswith(marked)


def test_a_name_that_no_placement_can_have_is_refused() -> None:
    with pytest.raises(EventError, match="small letters"):
        READER.read("Not a name", RulesDraft())


def words() -> dict[str, EditorWord]:
    heard = {WordKind.PERSON: ["spent", "shoe size"], WordKind.CONTEXT: ["budget"]}
    return {each.text: each for each in list_words(table(), placements(), heard)}


def test_every_word_can_stand_in_an_expression() -> None:
    for text, each in words().items():
        if each.kind in (WordKind.FUNCTION, WordKind.OPERATOR, WordKind.RULE):
            continue
        whole = text if each.kind is WordKind.SEGMENT else f"has({text})"
        assert READER.read("home", RulesDraft(filter=whole))[1] == [], text
        for value in each.values:
            shown = f"{value} in {text}" if text == "item.category" else f"{text} == {value}"
            assert READER.read("home", RulesDraft(filter=shown))[1] == [], shown


def test_the_words_are_those_that_there_are() -> None:
    found = words()
    assert found["item.attributes.color"].values == ['"red"']
    assert found["item.category"].values == ['"lamps"', '"gifts"']
    assert found["item.brand"].values == ['"\\"Oak\\" & co"']
    assert found["segment.vip"].about == "person.spent > 500"
    assert {
        'item.attributes["year made"]',
        'segment["big-spenders"]',
        'person["shoe size"]',
        "person.spent",
        "context.budget",
        "startsWith(",
        "has(",
        '"boosts"',
    } <= found.keys()
