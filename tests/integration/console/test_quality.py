"""Letters are corrected and counted once, what looks wrong is found, what is shown is measured."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from headwater_client import EventProducer
from playwright.sync_api import Browser

from features.events import current_ms
from features.settings import HOUR_MS
from tests.harness.console import Console, visiting
from tests.harness.models import ITEMS
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration
LETTERS = "/v1/admin/dead-letters"
CORRECTIONS = "/v1/admin/dead-letter-corrections"
WHY = {"reason": "the app called a field by its old name"}


def send_raw(console: Console, topic: str, *messages: tuple[str, bytes]) -> None:
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for key, raw in messages:
            producer.send_raw(topic, key, raw)


def wait_for_letters(console: Console, word: str, count: int = 1) -> list[dict[str, Any]]:
    """The letters whose message has a word, once there are so many; the oldest first."""
    found: list[dict[str, Any]] = []

    def are_there() -> bool:
        listed = console.take("GET", f"{LETTERS}?limit=1000")["letters"]
        found[:] = [each for each in listed if word in each["text"]]
        return len(found) >= count

    wait_until(are_there, 30)
    return found[::-1]


def clicks_of(console: Console, person: str) -> float:
    status, document = console.call("GET", f"/v1/people/{person}")
    return float(document["counters"]["click"]["all"]) if status == 200 else 0.0


def wait_for_clicks(console: Console, person: str, count: int) -> None:
    wait_until(lambda: clicks_of(console, person) >= count, 30)


def old_click(person: str, **said: object) -> bytes:
    """A click as an app of an older release sends it."""
    known = {"event_id": uuid4().hex, "userId": person, "item_id": "i1"}
    return json.dumps(known | {"timestamp": current_ms(), **said}).encode()


def test_a_letter_is_corrected_and_counts_once_however_often_it_is_sent(console: Console) -> None:
    person = uuid4().hex
    send_raw(console, "clicks", (person, old_click(person)))
    (line,) = wait_for_letters(console, person)
    path = f"{LETTERS}/{line['letter']}"
    letter = console.take("GET", path)
    assert (letter["problem"]["field"], letter["topic"]) == ("user_id", "clicks")
    assert letter["suggested"] == [{"do": "rename", "field": "userId", "to": "user_id"}]
    assert letter["suggestion_taken"]
    assert letter["hex"].startswith("00000000  7b 22")
    status, problem = console.call("POST", f"{path}/send", {"text": letter["editable"], **WHY})
    assert (status, problem["field"]) == (400, "user_id")
    assert problem["remedy"]
    wrong = letter["editable"].replace("userId", "user_id").replace("timestamp", "at")
    assert console.call("POST", f"{path}/send", {"text": wrong, **WHY})[1]["field"] == "timestamp"
    good = {"text": letter["editable"].replace("userId", "user_id"), **WHY}
    assert console.call("POST", f"{path}/send", good, key="viewer")[0] == 403
    assert console.call("POST", f"{path}/send", {"text": good["text"]})[1]["field"] == "reason"
    sent = console.take("POST", f"{path}/send", good, key="operator")
    assert sent["topic"] == "clicks"
    wait_for_clicks(console, person, 1)
    status, problem = console.call("POST", f"{path}/send", good)
    assert status == 409
    assert "operator" in problem["detail"]
    again = console.take("POST", f"{path}/send", {**good, "again": True})
    assert again["event_id"] == sent["event_id"]
    # Behind both of them, in the same partition.
    send_raw(console, "clicks", (person, old_click(person).replace(b"userId", b"user_id")))
    wait_for_clicks(console, person, 2)
    assert clicks_of(console, person) == 2
    told = console.take("GET", path)
    assert [each["who"] for each in told["all_sent_again"]] == ["operator", "admin"]
    audit = console.take("GET", "/v1/admin/audit")
    assert audit["breaks"] == []
    entries = [each for each in audit["entries"] if line["letter"] in each["target"]]
    assert {each["reason"] for each in entries} == {WHY["reason"]}
    assert {"asked", "done", "sent"} <= {each["outcome"] for each in entries}


def test_letters_of_one_fault_are_corrected_by_one_rule(console: Console) -> None:
    people = [uuid4().hex for _ in range(5)]
    mark = uuid4().hex
    raws = [(p, old_click(p, session_id=mark, userid_="x", who=p)) for p in people]
    raws = [(p, raw.replace(b'"userId"', b'"usr"')) for p, raw in raws]
    send_raw(console, "clicks", *raws)
    lines = wait_for_letters(console, mark, 5)
    names = [line["letter"] for line in lines]
    (fault,) = {line["fault"] for line in lines}
    rules = [{"do": "rename", "field": "usr", "to": "user_id"}]
    query = f"{CORRECTIONS}?letter={names[0]}&rules={json.dumps(rules).replace(' ', '')}"
    shown = console.take("GET", query.replace('"', "%22"), key="viewer")
    assert (shown["taken"], shown["refused"]) == (1, 0)
    assert all(clicks_of(console, person) == 0 for person in people)
    asked = {"rules": rules, "letters": names, **WHY}
    assert console.call("POST", CORRECTIONS, asked, key="viewer")[0] == 403
    done = console.take("POST", CORRECTIONS, asked, key="operator")
    assert (done["taken"], done["refused"], done["passed_over"]) == (5, 0, 0)
    assert all(each["place"] for each in done["letters"])
    for person in people:
        wait_for_clicks(console, person, 1)
    twice = console.take("POST", CORRECTIONS, asked)
    assert (twice["taken"], twice["passed_over"]) == (0, 5)
    listed = console.take("GET", f"{LETTERS}?fault={fault}")
    assert {each["letter"] for each in listed["letters"] if each.get("sent_again")} >= set(names)
    status, problem = console.call("POST", CORRECTIONS, {**asked, "letters": ["0-99999999"]})
    assert (status, problem["field"]) == (400, "letters")
    assert console.call("GET", f"{CORRECTIONS}?fault={fault}&rules=x")[1]["field"] == "rules"
    assert console.call("POST", CORRECTIONS, {"rules": rules, **WHY})[1]["field"] == "fault"


def test_an_old_item_takes_no_newer_ones_place_unasked(console: Console) -> None:
    item_id = uuid4().hex
    bad = {"item_id": item_id, "title": "old", "available": "perhaps"}
    send_raw(console, "items", (item_id, json.dumps(bad).encode()))
    (line,) = wait_for_letters(console, item_id)
    good = {"text": json.dumps({**bad, "available": True}), **WHY}
    console.take("PUT", "/v1/items", {"items": [{"item_id": item_id, "title": "new"}]})
    path = f"{LETTERS}/{line['letter']}/send"

    def is_refused() -> bool:
        return bool(console.call("POST", path, good)[0] == 409)

    wait_until(is_refused, 30)
    console.take("POST", path, {**good, "over_newer": True, "again": True})


def test_hostile_letters_are_text_and_what_is_none_is_not_found(
    console: Console, browser: Browser
) -> None:
    mark = uuid4().hex
    markup = f"<script>document.title='{mark}'</script>"
    huge = json.dumps({"event_id": mark, "item_id": "x" * 900_000}).encode()
    bytes_ = b"\xff\x00\x1b[2J" + markup.encode()
    send_raw(console, "clicks", (mark, bytes_), (mark, huge), (mark, b"{" * 5000 + mark.encode()))
    wait_for_letters(console, mark, 2)
    lines = console.take("GET", f"{LETTERS}?limit=1000")["letters"]
    (big,) = (each for each in lines if each["size_bytes"] == len(huge))
    assert len(big["text"]) < 400
    (odd,) = (each for each in lines if each["size_bytes"] == len(bytes_))
    told = console.take("GET", f"{LETTERS}/{odd['letter']}")
    assert "UTF-8" in told["not_editable"]
    assert "ff 00 1b 5b 32 4a 3c 73" in told["hex"]
    for name in ("0-999999999", "7-0", "0", "x", "0-1-2", "%2e%2e"):
        assert console.call("GET", f"{LETTERS}/{name}")[0] == 404, name
    with visiting(browser, console) as visit:
        for path in ("/quality", *(f"/quality/letters/{each['letter']}" for each in (odd, big))):
            visit.go(path)
            assert mark not in visit.page.title()
            assert visit.find_faults() == [], path
        assert visit.faults == []


def test_the_page_corrects_a_letter_in_one_step(console: Console, browser: Browser) -> None:
    person = uuid4().hex
    send_raw(console, "clicks", (person, old_click(person)))
    (line,) = wait_for_letters(console, person)
    with visiting(browser, console, "operator") as visit:
        visit.go("/quality")
        visit.page.click(f"tr[data-letter='{line['letter']}'] a")
        text = visit.page.input_value("textarea[name=text]")
        visit.page.fill("textarea[name=text]", text.replace("userId", "user_id"))
        visit.page.fill("form.action input[name=reason]", "corrected by hand")
        visit.page.click("form.action button")
        visit.page.wait_for_selector("p.note.good[role=status]")
        assert visit.faults == []
        wait_for_clicks(console, person, 1)
        other = uuid4().hex
        send_raw(console, "clicks", (other, old_click(other)))
        wait_for_letters(console, other)
        visit.go(f"/quality/faults?fault={line['fault']}")
        assert "rename" in visit.page.input_value("textarea[name=rules]")
        assert visit.find_faults() == []
        visit.page.fill("form.action input[name=reason]", "renamed")
        visit.page.click("form.action button")
        visit.page.wait_for_selector("p.note.good[role=status]")
        wait_for_clicks(console, other, 1)
        assert visit.faults == []
    with visiting(browser, console, "viewer") as visit:
        visit.go(f"/quality/letters/{line['letter']}")
        assert visit.page.locator("form.action").count() == 0


def test_what_looks_wrong_is_found_in_the_newest_events(console: Console) -> None:
    mark, now_ms = uuid4().hex[:12], current_ms()
    odd = ["Ann", "ann", "12.0", "12", "1.5E+11", "ann@shop.example", " x ", "{{ user_id }}"]
    events = [{"user_id": f"{name}", "item_id": "i1"} for name in odd]
    events += [{"user_id": mark, "item_id": "null"}]
    events += [{"user_id": f"{mark}-twice", "item_id": "i2"}] * 2
    late = [{"user_id": f"{mark}{n}", "timestamp": now_ms - 2 * HOUR_MS - n} for n in range(40)]
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for event in events:
            producer.click(**event)
        producer.flush()
    send_raw(
        console,
        "plays",
        *(
            (
                each["user_id"],
                json.dumps({"event_id": f"{n}", "item_id": "i3", "seconds": 9, **each}).encode(),
            )
            for n, each in enumerate(late)
        ),
    )
    found: dict[str, Any] = {}

    def are_found() -> bool:
        found.update(console.take("GET", "/v1/admin/quality"))
        return any(each["type"] == "play" for each in found["clocks"])

    wait_until(are_found, 30)
    told = {(each["field"], each["fault"]) for each in found["ids"]}
    assert told >= {
        ("user_id", "float"),
        ("user_id", "scientific"),
        ("user_id", "email"),
        ("user_id", "blanks"),
        ("user_id", "template"),
        ("item_id", "placeholder"),
    }
    spelled = [{each["value"] for each in one["ids"]} for one in found["spellings"]]
    assert {"Ann", "ann"} in spelled
    assert {"12.0", "12"} in spelled
    (plays,) = (each for each in found["clocks"] if each["type"] == "play")
    assert (plays["shift_minutes"], plays["shifted"]) == (120, 40)
    assert "at_once" in {each["kind"] for each in found["duplicates"]}
    checks = {alert["check"] for alert in found["alerts"]}
    assert checks >= {"ids.user_id.spellings", "clocks.shift", "duplicates.at_once"}
    sample = found["sample"]
    assert 0 < sample["events"] <= sample["in_log"]
    few = console.take("GET", "/v1/admin/quality?sample=20")["sample"]
    assert few["events"] + few["undecodable"] <= 20


def ask_for_lists(console: Console, people: list[str], limit: int = 5) -> list[list[str]]:
    asked = ({"person": person, "limit": limit} for person in people)
    answers = (console.take("POST", "/v1/recommendations", query) for query in asked)
    return [[item["item_id"] for item in answer["items"]] for answer in answers]


def test_what_is_shown_is_what_the_lists_say(console: Console) -> None:
    people = [f"f{n}" for n in range(12)]
    lists = ask_for_lists(console, people * 2)
    seen: dict[str, Any] = {}

    def are_counted() -> bool:
        seen.update(console.take("GET", "/v1/admin/fairness?source=served"))
        if seen["window"]["lists"] < len(lists):
            return False
        # On a busy machine some got what trends: they are asked again.
        is_same = bool(seen["repetition"]["same"] >= len(people))
        if not is_same:
            lists.extend(ask_for_lists(console, people))
        return is_same

    wait_until(are_counted, 30)
    window, found = seen["window"], seen["concentration"]
    assert window["people"] >= len(people)
    assert window["shown"] == pytest.approx(5 * window["lists"], rel=0.2)
    shown = {item for items in lists for item in items}
    assert found["shown_items"] >= len(shown)
    assert 0 < found["coverage"] <= 1
    assert found["catalogue"] >= ITEMS - 1
    # Nothing is known of any of them: all got the same items.
    assert 0 <= found["gini_shown"] <= found["gini"] < 1
    assert found["gini"] > 0.5
    # Nothing has happened to these people in between.
    assert seen["repetition"]["same"] >= len(people)
    titles = seen["repetition"]["common_titles"]
    assert titles == {
        name: console.title if name == "i1" else f"Item {name}"
        for name in seen["repetition"]["common_list"]
    }
    (categories,) = (each for each in seen["shares"] if each["by"] == "category")
    assert sum(line["shown"] for line in categories["lines"]) == pytest.approx(1, abs=0.01)
    assert {each["reason"] for each in seen["reasons"]} <= {"history", "trending", "popular"}
    none = console.take("GET", "/v1/admin/fairness?source=served&placement=nowhere")
    assert (none["window"]["lists"], none["concentration"]) == (0, None)
    assert console.call("GET", "/v1/admin/fairness?source=x")[1]["field"] == "source"


def test_the_report_says_what_the_law_asks_for_and_what_the_rules_are(
    console: Console, browser: Browser
) -> None:
    name = f"p{uuid4().hex[:8]}"
    rules = {"limit": 4, "filter": "'c1' in item.category", "pins": [{"item_id": "i6", "place": 2}]}
    console.take("PUT", f"/v1/placements/{name}", rules)
    report: dict[str, Any] = {}

    def is_told() -> bool:
        report.update(console.take("GET", "/v1/admin/fairness/report", key="viewer"))
        return name in {system["placement"] for system in report["systems"]}

    wait_until(is_told, 30)
    assert {each["article"] for each in report["demands"]} >= {"27(1)", "27(2)(a)", "27(3)"}
    assert report["version"]["version"] == 1
    assert report["version"]["items"] == ITEMS
    (system,) = (each for each in report["systems"] if each["placement"] == name)
    text = json.dumps(system)
    assert "'c1' in item.category" in text
    assert "i6 at place 2" in text
    assert all(each["explanation"] and each["importance"] for each in system["parameters"])
    with visiting(browser, console, "viewer") as visit:
        for path in ("/fairness", "/fairness/report"):
            visit.go(path)
            assert visit.find_faults() == [], path
            for item in visit.page.locator("#commonest a").all():
                assert "Item" in item.inner_text()
        assert "Main parameters" in visit.page.inner_text("main")
        assert name in visit.page.inner_text("main")
        assert visit.faults == []
