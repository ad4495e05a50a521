"""What the pages of placements show of what their operations answer."""

from __future__ import annotations

import re
from typing import Any

from headwater_client.admin import placements as admin
from headwater_client.admin.audit import AuditEntry
from headwater_client.contract import (
    PlacementRules,
    SegmentAnswer,
    SegmentRules,
    TrialAnswer,
    TrialsAnswer,
    TrialStep,
    TrialVariant,
)
from headwater_client.rules import Boost, Exploration

from deploy.console.pages import PAGES
from deploy.console.rendering import make_templates
from deploy.console.rules_editor import draft_of

EVIL = "'<img src=x onerror=alert(1)>' in item.category"
RULES = PlacementRules(
    filter=EVIL,
    limit=4,
    boosts=[Boost(filter="item.available", factor=2)],
    exploration=Exploration(share=0.1),
)
TIME_MS = 1_764_000_000_000


def show(area: str, *, may_operate: bool = True, **answers: Any) -> str:
    page = next(page for page in PAGES if page.area == area)
    context = {
        "area": area,
        "page": page,
        "key": None,
        "csrf": "t",
        "is_open": False,
        "role": "",
        "done": "",
        "here": "/placements/home",
        "path": {"name": "home"},
        "query": {},
        "may": {"operate": may_operate},
        "problems": {},
        "answers": answers,
    }
    return make_templates(PAGES).get_template(f"{area}.html").render(**context)


def details(**more: Any) -> admin.PlacementDetails:
    trial = TrialAnswer(
        placement="home",
        rollout_id="placement:home-1",
        state="shadow",
        variants=[TrialVariant(variant="stable", share=1.0, revision=7)],
        steps=[TrialStep(time=TIME_MS, state="shadow", share=0.1, actor="<b>ann</b>", reason="x")],
        rules=RULES,
        revision=7,
    )
    entry = AuditEntry(
        number=1,
        time=TIME_MS,
        action_id="a",
        who="ann",
        role="operator",
        operation="change_placement",
        target="name='home'",
        reason="<script>alert(1)</script>",
        outcome="done",
        before="0",
    )
    known: dict[str, Any] = {
        "name": "home",
        "draft": draft_of(RULES),
        "revisions": [
            admin.RevisionFigures(revision=8, time=TIME_MS, ignored="is not signed", rules=RULES),
            admin.RevisionFigures(
                revision=7, time=TIME_MS, rules=RULES, changed=["filter"], is_current=True
            ),
            admin.RevisionFigures(revision=3, time=TIME_MS),
        ],
        "trials": TrialsAnswer(placement="home", trials=[trial], breaks=["step 2 was changed"]),
        "actions": [entry],
        "missing": ["the audit: Kafka is away"],
        "rules": RULES,
        "revision": 7,
    }
    return admin.PlacementDetails(**(known | more))


def test_a_placement_is_shown_with_all_that_is_known_of_it() -> None:
    shown = show("placement", describe_placement=details())
    assert "<img" not in shown
    assert "<script>alert" not in shown
    assert "<b>ann" not in shown
    assert 'name="follows" value="7"' in shown
    for words in ("ignored: is not signed", "counts now", "removed", "step 2 was changed"):
        assert words in shown
    assert 'formaction="/actions/try_draft"' in shown
    assert "/actions/remove_placement" in shown


def test_what_the_form_sends_is_what_the_action_takes() -> None:
    shown = show("placement", describe_placement=details())
    form = shown.partition('<form id="editor"')[2].partition("</form>")[0]
    tags = re.findall(r"<(?:input|textarea|select)\b[^>]*>", form)
    sent = {re.findall(r' name="(\w+)"', tag)[0] for tag in tags if ' form="' not in tag}
    # Of a form of their own are the questions that change nothing.
    assert sent == {*admin.ChangeQuery.__struct_fields__, "csrf", "next", "name"}


def test_who_may_only_look_has_no_button_that_changes_anything() -> None:
    shown = show("placement", may_operate=False, describe_placement=details())
    assert "formaction" not in shown
    assert "/actions/remove_placement" not in shown
    assert "Save for everyone" not in shown
    assert 'data-ask="preview"' in shown


def test_a_name_that_is_free_can_be_made() -> None:
    nothing = TrialsAnswer(placement="home", trials=[])
    found = details(revision=None, rules=None, revisions=[], trials=nothing, actions=[], missing=[])
    shown = show("placement", describe_placement=found)
    assert 'name="follows" value="-1"' in shown
    assert "There is no placement of this name" in shown
    assert "formaction" not in shown


def test_the_list_says_what_there_is_and_what_to_do_where_there_is_nothing() -> None:
    figures = admin.PlacementFigures(
        name="home", revision=7, rules=RULES, trial="running", trial_share=0.1
    )
    segment = SegmentAnswer(name="vip", revision=3, segment=SegmentRules(filter=EVIL))
    found = admin.PlacementsOverview(placements=[figures], segments=[segment], missing=[])
    shown = show("placements", list_placement_figures=found)
    assert "<img" not in shown
    assert '<a href="/placements/home">home</a>' in shown
    assert 'boosts <data value="1">' in shown
    assert "running" in shown
    empty = admin.PlacementsOverview(placements=[], segments=[], missing=["what is tried out: x"])
    shown = show("placements", list_placement_figures=empty)
    for words in ("There is no placement yet", "headwater segments put", "Not told: what is tried"):
        assert words in shown
