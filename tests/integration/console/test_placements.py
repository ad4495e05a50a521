"""Page "Placements" on real servers, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, expect

from features.inputs import MODEL_NAME
from features.kafka import group_members
from features.kafka.access import CONTROLLER_NAME
from features.placement_topic import read_placements
from tests.harness.console import Console, serving_console, visiting
from tests.harness.rollouts import TOKEN, controlling
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("HEADWATER_ROLLOUT__ADMIN_TOKEN", TOKEN)
        with serving_console(tmp_path_factory.mktemp("placements")) as console:
            with console.replaying():
                wait_until(lambda: console.call("GET", "/v1/people/p1")[0] == 200, 30)
            yield console


@pytest.fixture
def name() -> str:
    return f"p{uuid4().hex[:8]}"


def names(items: list[Any]) -> list[str]:
    return [item["item_id"] for item in items]


def post(console: Console, name: str, what: str, key: str = "admin", **fields: Any) -> Any:
    return console.call("POST", f"/v1/admin/placements/{name}/{what}", fields, key)


def test_rules_are_checked_looked_at_and_saved_by_who_may(console: Console, name: str) -> None:
    status, found = post(console, name, "check", "viewer", filter="item.price <")
    assert status == 200
    (fault,) = found["faults"]
    assert (fault["part"], fault["column"], fault["begin"]) == ("filter", 13, 12)
    status, found = post(console, name, "check", "viewer", filter="'c3' in item.category")
    assert (status, found["faults"]) == (200, [])
    assert 0 < found["allowed"] < found["items"]
    status, problem = post(console, name, "change", "viewer", limit=3, reason="x")
    assert (status, problem["type"]) == (403, "/docs#scope")
    status, problem = post(console, name, "change", "operator", limit=3)
    assert (status, problem["field"]) == (400, "reason")
    status, made = post(console, name, "change", "operator", limit=3, follows=-1, reason="a shelf")
    assert (status, made["placement"]) == (200, {"limit": 3})
    # Somebody who had looked before that changes nothing.
    status, problem = post(console, name, "change", "operator", limit=4, follows=-1, reason="me")
    assert status == 409
    assert f"is at revision {made['revision']} by now" in problem["detail"]
    rules = {"filter": "item.cost < 3", "reason": "x"}
    status, problem = post(console, name, "change", "operator", **rules)
    assert (status, problem["field"]) == (400, "filter")
    assert "column 1: there is no item.cost" in problem["detail"]
    known = read_placements(console.settings.kafka).known[name]
    assert (known.revision, known.placement.limit) == (made["revision"], 3)
    told = console.take("GET", f"/v1/admin/placements/{name}")
    assert [each["revision"] for each in told["revisions"]] == [made["revision"]]
    assert told["revisions"][0]["is_current"]
    done = [(each["operation"], each["outcome"], each["who"]) for each in told["actions"]]
    assert done[-1] == ("change_placement", "asked", "operator")
    assert ("change_placement", "done", "operator") in done
    assert {each["reason"] for each in told["actions"]} >= {"a shelf", "me"}
    overview = console.take("GET", "/v1/admin/placements")
    assert name in [each["name"] for each in overview["placements"]]
    status, _ = post(console, name, "remove", "operator", reason="enough")
    assert status == 200
    assert name not in read_placements(console.settings.kafka).known
    gone = console.take("GET", f"/v1/admin/placements/{name}")
    assert "revision" not in gone
    assert "rules" not in gone["revisions"][0]


def test_a_preview_shows_real_people_before_and_after(console: Console, name: str) -> None:
    post(console, name, "change", limit=5, reason="a shelf")
    draft = {"filter": "'c3' in item.category", "limit": 4, "count": 3}

    def preview() -> Any:
        status, found = post(console, name, "preview", **draft)
        assert (status, found["faults"], found["missing"]) == (200, [], [])
        return found["lists"]

    def show(person: str) -> list[str]:
        asked = {"person": person, "placement": name}
        return names(console.take("POST", "/v1/recommendations", asked)["items"])

    # What the page says is what a person is given, once all that they did has been absorbed.
    wait_until(lambda: all(show(each["person"]) == names(each["before"]) for each in preview()), 60)
    lists = preview()
    assert len(lists) == 3
    for each in lists:
        assert re.fullmatch(r"p\d+", each["person"])
        before, after = names(each["before"]), names(each["after"])
        assert {int(item[1:]) % 5 for item in after} == {3}
        assert (len(before), len(after)) == (5, 4)
        places = {item: place for place, item in enumerate(before, 1)}
        for item in each["after"]:
            assert item.get("other_place") == places.get(item["item_id"])
            assert item["title"]
    _, found = post(console, name, "preview", filter="item.price < context.budget")
    assert "the request has no context.budget" in found["lists"][0]["fault"]
    named = {"filter": "item.price < context.budget", "people": ["nobody-yet"]}
    _, found = post(console, name, "preview", context={"budget": 3}, **named)
    assert (found["lists"][0]["person"], found["lists"][0].get("fault", "")) == ("nobody-yet", "")


def test_words_are_those_of_the_catalogue_the_segments_and_the_log(
    console: Console, name: str
) -> None:
    console.take("PUT", f"/v1/segments/{name}", {"filter": "person.tall"})
    console.take("PUT", "/v1/people/p1/attributes", {"attributes": {"tall": True}})
    post(console, name, "change", limit=5, reason="a shelf")
    asked = {"person": "p1", "placement": name, "context": {f"budget_{name}": 3}}
    console.take("POST", "/v1/recommendations", asked)

    def words() -> dict[str, Any]:
        found = console.take("GET", "/v1/admin/placements/vocabulary")
        assert found["missing"] == []
        return {each["text"]: each for each in found["words"]}

    wait_until(lambda: {f"context.budget_{name}", "person.tall"} <= words().keys(), 30)
    found = words()
    assert '"c3"' in found["item.category"]["values"]
    assert found[f"segment.{name}"]["about"] == "person.tall"


def test_a_draft_is_replayed_on_the_log_and_tried_out(
    console: Console, name: str, tmp_path: Path
) -> None:
    status, problem = post(console, name, "replay", limit=5)
    assert (status, problem["detail"]) == (404, f"no placement is named '{name}'")
    post(console, name, "change", limit=5, reason="a shelf")
    for number in range(40):
        asked = {"person": f"p{number % 20}", "placement": name}
        console.take("POST", "/v1/recommendations", asked)

    def replay(**fields: Any) -> Any:
        status, found = post(console, name, "replay", days=1, lists=100, **fields)
        assert status == 200, found
        return found

    wait_until(lambda: replay(limit=5)["logged"] == 40, 60)
    same = replay(limit=5)
    assert (same["compared"], same["changed"]) == (40, 0)
    other = replay(filter="'c3' in item.category", limit=5)
    assert other["changed"] == 40
    assert "could not have been shown" in other["cannot_say"]
    assert replay(filter="item.price <")["faults"]
    with controlling(console.settings, tmp_path / "log", shadow_s=60):
        draft = {"filter": "'c3' in item.category", "limit": 5}
        group = f"{CONTROLLER_NAME}-{MODEL_NAME}"
        wait_until(lambda: bool(group_members(console.settings.kafka, group)), 60)
        status, begun = post(console, name, "try", "operator", reason="a guess", **draft)
        assert (status, begun["state"], begun["steps"][0]["actor"]) == (200, "shadow", "operator")
        overview = console.take("GET", "/v1/admin/placements")["placements"]
        assert {each["name"]: each.get("trial", "") for each in overview}[name] == "shadow"
        told = console.take("GET", f"/v1/admin/placements/{name}")
        assert told["trials"]["trials"][0]["rollout_id"] == begun["rollout_id"]
        ended = console.take("POST", f"/v1/placements/{name}/trials/rollback", {"reason": "enough"})
        assert ended["state"] == "rolled_back"


def test_the_editor_completes_words_shows_faults_and_saves(
    console: Console, browser: Browser, name: str
) -> None:
    post(console, name, "change", limit=5, reason="a shelf")
    with visiting(browser, console, "operator") as visit:
        page = visit.page
        visit.go("/placements")
        page.click(f"#placements a:text-is('{name}')")
        page.wait_for_selector("#editor[data-ready]")
        field = page.locator("#filter")
        # Words are completed by the keyboard alone, and so are values.
        field.press_sequentially("item.cat")
        expect(page.locator("#filter-words li[aria-selected=true]")).to_contain_text(
            "item.category"
        )
        field.press("Enter")
        expect(field).to_have_value("item.category")
        field.fill("")
        field.press_sequentially("'c")
        expect(page.locator("#filter-words li").first).to_contain_text("c")
        field.press("Escape")
        # A fault is told with its column, and marked where it stands.
        field.fill("'c3' in item.category && item.cost < 3")
        fault = page.locator("#verdict button")
        expect(fault).to_contain_text("filter: column 26: there is no item.cost")
        expect(page.locator(".mirror mark").first).to_have_text("item.cost")
        expect(page.locator("button:text-is('Save for everyone')")).to_be_disabled()
        fault.click()
        assert field.evaluate("each => each.selectionStart") == 25
        field.fill("'c3' in item.category")
        expect(page.locator("#verdict .good")).to_contain_text("the filter allows")
        page.click("button[data-ask=preview]")
        expect(page.locator("#preview table")).to_have_count(3)
        shown = page.locator("#preview td[data-item]").evaluate_all(
            "cells => cells.map((each) => [each.cellIndex, each.dataset.item])"
        )
        after = {item for column, item in shown if column == 2}
        assert {int(item[1:]) % 5 for item in after} == {3}
        assert visit.find_faults() == []
        page.fill("input[name=reason]", "only these")
        page.click("button:text-is('Save for everyone')")
        expect(page.locator(".note.good")).to_contain_text("Make a placement, or change it whole")
        rules = read_placements(console.settings.kafka).known[name].placement
        assert (rules.filter, rules.limit) == ("'c3' in item.category", 5)
        expect(page.locator("#revisions tbody tr")).to_have_count(2)
        expect(page.locator("#actions")).to_contain_text("only these")
        # The revision before can be taken back into the editor.
        page.locator("#revisions tbody tr").nth(1).locator("a").click()
        page.wait_for_selector("#editor[data-ready]")
        expect(field).to_have_value("")
        assert visit.faults == []


def test_who_may_only_look_changes_nothing_and_a_phone_shows_all(
    console: Console, browser: Browser, name: str
) -> None:
    evil = "'<img src=x onerror=alert(1)>' in item.category"
    post(console, name, "change", filter=evil, reason="</script><b>bold</b>")
    options = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
    with visiting(browser, console, "viewer", **options) as visit:
        visit.go(f"/placements/{name}")
        visit.page.wait_for_selector("#editor[data-ready]")
        expect(visit.page.locator("#filter")).to_have_value(evil)
        expect(visit.page.locator("text=Save for everyone")).to_have_count(0)
        expect(visit.page.locator("#revisions")).to_contain_text(evil)
        expect(visit.page.locator("#actions")).to_contain_text("<b>bold</b>")
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert visit.page.evaluate(wide)
        assert visit.find_faults() == []
        for path in (f"/placements/{name}-2", "/placements"):
            visit.go(path)
            assert visit.find_faults() == []
        assert visit.faults == []
    for wrong in ("Not a name", "x" * 70, "../etc"):
        status, problem = console.call("GET", f"/v1/admin/placements/{quote(wrong, safe='')}")
        assert status in (400, 404), problem
