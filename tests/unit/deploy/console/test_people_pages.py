"""The pages of people and items, rendered of answers that try to be markup."""

from __future__ import annotations

from typing import Any

import pytest
from headwater_client.admin import people
from headwater_client.contract import KnownBy, PlacementRules, Problem
from headwater_client.events import Item, Reason
from starlette.datastructures import QueryParams

from deploy.console import rendering
from deploy.console.pages import PAGES
from stream.api.keys import ANYONE

ODD = "<script>alert('x')</script>\"\u202e\x07"
AT_MS = 1_764_000_000_000
LISTED = people.ExplainedItem(
    item_id=ODD,
    title=ODD,
    score=0.5,
    reason=Reason("history", ODD),
    reason_title=ODD,
    parts={"taste": 0.4, "trends": 0.1},
    placed_by="promotion",
    label=ODD,
)
ASKED = people.AskedList(
    time=AT_MS,
    items=[LISTED],
    model_version="7",
    variant="stable",
    fallback=False,
    placement="home",
)
EVENT = people.HistoryEvent(
    type="click", timestamp=AT_MS, item_id=ODD, title=ODD, place="clicks/1/2", event_id=ODD
)
COUNTERS = {"click": {"3600000": 0.5, "86400000": 0.75, "all": 1.0}}
PERSON = people.PersonProfileAnswer(
    person=ODD,
    time=AT_MS,
    counters=COUNTERS,
    categories=[people.CategoryCounters(category=ODD, counters={"86400000": 1.0})],
    events=[EVENT, people.HistoryEvent(type="purchase", timestamp=AT_MS)],
    seen=1,
    segments=[people.SegmentMembership(name="vip", is_member=True)],
    attributes={ODD: ODD},
    sequence=9,
    offsets={"clicks/1": 2},
    version=7,
    variant="stable",
    missing=[ODD],
    versions={"stable": 7},
    placements=["home"],
)
SENT = people.SentList(
    recommendation_id=ODD,
    place="recommendations/1/2",
    time=AT_MS,
    produced_time=AT_MS,
    items=[LISTED],
    model_version="7",
    variant="stable",
    fallback=False,
    event="clicks/1/2",
    event_id=ODD,
    event_time=AT_MS,
    placement="home",
    placement_revision=3,
)
WHAT_IF = people.WhatIfAnswer(
    person=ODD,
    before=ASKED,
    after=ASKED,
    moves=[people.ItemMove(item_id=ODD, title=ODD, place_before=1, score_before=0.5)],
    left_out=[EVENT],
    counters_before=COUNTERS,
    counters_after=COUNTERS,
    notes=[ODD],
)
MADE_AGAIN = people.ReproductionAnswer(
    person=ODD,
    sent=SENT,
    row=people.PastRow(
        sequence=9,
        offsets={"clicks/1": 2},
        reference_time=AT_MS,
        counters=COUNTERS,
        events=[EVENT],
        seen=1,
    ),
    items=[
        people.ReproducedItem(
            item_id=ODD, title=ODD, score=0.5, reason=Reason("trending"), model_score=0.4
        )
    ],
    equalities=[people.Equality(what="row", must_be=True, why="so", is_equal=False)],
    rules=PlacementRules(filter=f"item.title == '{ODD}'"),
    now=ASKED,
    version_problem="version 7 is not loaded in Triton",
    rules_problem=ODD,
    notes=[ODD],
)
ITEM = people.ItemProfileAnswer(
    item_id=ODD,
    time=AT_MS,
    available=False,
    item=Item(
        item_id=ODD,
        title=ODD,
        description=ODD,
        category=[ODD],
        brand=ODD,
        price=2.5,
        attributes={ODD: ODD},
    ),
    rates=[people.ItemRate(type="click", half_life_ms=3_600_000, count=1.5, per_day=25.0)],
    counts={"click": 2.0},
    versions=[people.ItemVersion(version=7, variant="stable", is_known=True, is_learned=False)],
    together=[people.NeighbourItem(item_id=ODD, score=0.5, known_by=KnownBy.TOGETHER, title=ODD)],
    similar=[],
    similar_problem=ODD,
    trending_place=3,
)
FOUND = people.ItemsFoundAnswer(items=[people.ListedItem(item_id=ODD, title=ODD)], known=1)
RECENT = people.RecentPeopleAnswer(
    people=[people.RecentPerson(person=ODD, time=AT_MS, item_id=ODD, title=ODD)]
)
ANSWERS: dict[str, dict[str, Any]] = {
    "people": {"list_people": RECENT},
    "person": {"show_person": PERSON, "ask_what_if": WHAT_IF, "list_sent": None},
    "recommendation": {"reproduce_list": MADE_AGAIN},
    "items": {"find_items": FOUND},
    "item": {"show_item": ITEM},
}
SAID = Problem(type="/docs#x", title="Away", status=503, detail=ODD, remedy=ODD)


def render(area: str, answers: dict[str, Any], query: str = "") -> str:
    page = next(page for page in PAGES if page.area == area)
    return (
        rendering.make_templates(PAGES)
        .get_template(f"{area}.html")
        .render(
            area=area,
            key=ANYONE,
            role="administrator",
            csrf="c",
            is_open=True,
            done="",
            may={"operate": True},
            here="/",
            page=page,
            path={"person": ODD, "item": ODD, "recommendation_id": ODD},
            query=QueryParams(query),
            problems={name: SAID for name, said in answers.items() if said is None},
            answers=answers,
        )
    )


@pytest.mark.parametrize("area", ANSWERS)
def test_whatever_an_answer_holds_is_shown_as_text(area: str) -> None:
    told = ANSWERS[area]
    for answers in (told, dict.fromkeys(told)):
        page = render(area, answers, "at=1&version=7&placement=home&leave_out=clicks%2F1%2F2")
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
        assert "style=" not in page


def test_a_person_is_shown_as_the_answers_say() -> None:
    answers = {
        **ANSWERS["person"],
        "list_sent": people.SentListsAnswer(
            person=ODD, lists=[SENT], since={"recommendations": AT_MS}
        ),
    }
    page = render("person", answers, "leave_out=clicks%2F1%2F2")
    assert page.count(" checked>") == 1
    assert 'href="/recommendations/%3Cscript%3E' in page
    plain = people.WhatIfAnswer(person=ODD, before=ASKED)
    page = render("person", {**answers, "ask_what_if": plain})
    assert "Recommendations now" in page
    assert " checked>" not in page


def test_what_has_to_be_equal_and_is_not_stands_out() -> None:
    page = render("recommendation", ANSWERS["recommendation"])
    assert '<td class="bad">no</td>' in page
    # An operator can have the version loaded.
    assert 'action="/actions/load_past_version"' in page


def test_empty_pages_say_what_to_do() -> None:
    nobody = people.RecentPeopleAnswer(people=[])
    assert "Nobody has got a list yet" in render("people", {"list_people": nobody})
    nothing = people.ItemsFoundAnswer(items=[], known=0)
    assert "No item is known yet" in render("items", {"find_items": nothing})
