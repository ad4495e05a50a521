"""People and items at the console: what is made again is what was, and what if is what would be."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest
from headwater_client import EventProducer
from headwater_client.topics import RECOMMENDATIONS, SERVED
from playwright.sync_api import Browser

from deploy.jobs.reproduction import TOLERANCE
from deploy.jobs.train import model_registry
from features.events import current_ms
from features.kafka import partition_bounds
from features.model_server import CONFIG, ModelServer
from features.schema import FeatureSchema
from tests.harness.console import Console, serving_console, visiting
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration
HOUR_MS = 3_600_000
ODD_PERSON = 'a/b c?d#e"><script>alert(1)</script>\x01\u202eelpmaxe %2F'
ODD_ITEM = "<i>/../'\"?#%2e\u202e\x07"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """What trends is read at the start, and never again: lists hang on rows and versions alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_WORKER__TRENDS_REFRESH_S", "36000")
        with serving_console(tmp_path_factory.mktemp("people")) as console:
            yield console


def act(console: Console, person: str, *steps: tuple[str, str], start_ms: int = 0) -> list[int]:
    """What a person does, an hour apart until now, each once a worker has taken the one before."""
    times = []
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for number, (kind, item) in enumerate(steps):
            time_ms = (start_ms or current_ms() - 48 * HOUR_MS) + number * HOUR_MS
            fields = {"event_id": f"{person}-{number}-{time_ms}", "timestamp": time_ms}
            getattr(producer, kind)(user_id=person, item_id=item, **fields)
            producer.flush()
            times.append(time_ms)
            before = len(times)
            wait_until(lambda: count_known(console, person) >= before, 30)  # noqa: B023
    wait_until(lambda: len(sent_to(console, person)) >= len(steps), 30)
    return times


def profile(console: Console, person: str) -> Any:
    return console.take("GET", f"/v1/admin/people/{quote(person, safe='')}")


def count_known(console: Console, person: str) -> int:
    """Events that the stored row has counted."""
    status, found = console.call("GET", f"/v1/admin/people/{quote(person, safe='')}")
    if status == 404:
        return 0
    assert status == 200, found
    return round(sum(kind["all"] for kind in found["counters"].values()))


def sent_to(console: Console, person: str) -> list[dict[str, Any]]:
    query = urlencode({"person": person, "limit": 200})
    found: list[dict[str, Any]] = console.take("GET", f"/v1/admin/recommendations?{query}")["lists"]
    return found


def reproduce(console: Console, person: str, sent: dict[str, Any]) -> Any:
    path = f"/v1/admin/recommendations/{sent['recommendation_id']}"
    return console.take("GET", f"{path}?{urlencode({'person': person})}")


def ask(console: Console, person: str, **query: Any) -> Any:
    return console.take("POST", "/v1/admin/what-if", {"person": person, **query})


def names(items: Any) -> list[str]:
    return [item["item_id"] for item in items]


def check_same(made: list[dict[str, Any]], items: list[dict[str, Any]]) -> None:
    """Two lists have the same items, at the same places, with the same scores and reasons."""
    assert names(made) == names(items)
    for one, other in zip(made, items, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=TOLERANCE), one["item_id"]
        assert one["reason"] == other["reason"]


def equal(found: Any) -> dict[str, tuple[bool, Any]]:
    return {each["what"]: (each["must_be"], each.get("is_equal")) for each in found["equalities"]}


def ends(console: Console) -> dict[tuple[str, int], int]:
    kafka = console.settings.kafka
    places = [(name, n) for name in (RECOMMENDATIONS, SERVED) for n in range(kafka.partitions)]
    return {place: end for place, (_, end) in partition_bounds(kafka, places).items()}


STEPS = (
    ("click", "i3"),
    ("click", "i8"),
    ("purchase", "i8"),
    ("click", "i40"),
    ("click", "i3"),
    ("purchase", "i77"),
)


def test_a_list_that_was_sent_is_made_again_from_its_id(console: Console) -> None:
    person = uuid4().hex
    times = act(console, person, *STEPS)
    lists = sent_to(console, person)
    # Each event has led to a list; the newest stands first.
    assert [each["event_time"] for each in reversed(lists)] == times
    for number, sent in enumerate(reversed(lists), 1):
        found = reproduce(console, person, sent)
        assert found["sent"] == sent
        assert found.get("notes", []) == []
        assert found["row"]["sequence"] == sent["sequence"]
        assert found["row"]["reference_time"] == times[number - 1]
        assert [event["timestamp"] for event in found["row"]["events"]] == times[:number][::-1]
        assert sum(kind["all"] for kind in found["row"]["counters"].values()) == number
        for item in found["items"]:
            assert item["model_score"] == pytest.approx(item["score"], abs=TOLERANCE)
            assert item["reason_again"] == item["reason"]
            assert sum(item["parts"].values()) == pytest.approx(item["score"], abs=1e-3)
        # Nothing trends here, so that all has to be equal.
        check_same(found["now"]["items"], sent["items"])
        assert equal(found) == {
            "row": (True, True),
            "model scores": (True, True),
            "past events that explain": (True, True),
            "what trends added": (False, None),
            "the list made again": (False, True),
        }


def test_a_list_of_the_api_is_made_again_as_well(console: Console) -> None:
    person = uuid4().hex
    act(console, person, *STEPS[:3])
    rules = {"filter": "'c2' in item.category", "limit": 5}
    revision = console.take("PUT", "/v1/placements/twos", rules)["revision"]

    def answer() -> Any:
        return console.call("POST", "/v1/recommendations", {"person": person, "placement": "twos"})

    wait_until(lambda: answer()[0] == 200, 30)
    told = answer()[1]
    wait_until(
        lambda: (
            told["recommendation_id"] in [e["recommendation_id"] for e in sent_to(console, person)]
        ),
        30,
    )
    sent = {each["recommendation_id"]: each for each in sent_to(console, person)}
    found = reproduce(console, person, sent[told["recommendation_id"]])
    assert found["rules"] == rules
    assert found["sent"]["placement_revision"] == revision
    assert equal(found)["row"] == (True, True)
    # It was asked at a moment that the log knows to some milliseconds.
    assert names(found["now"]["items"]) == names(told["items"])
    for item in found["items"]:
        assert item["model_score"] == pytest.approx(item["score"], abs=1e-2)
    # With events of its own a request knows more than the log: that is said.
    extra = {"person": person, "events": [{"type": "click", "item_id": "i9"}]}
    other = console.take("POST", "/v1/recommendations", extra)["recommendation_id"]
    wait_until(lambda: other in [e["recommendation_id"] for e in sent_to(console, person)], 30)
    sent = {each["recommendation_id"]: each for each in sent_to(console, person)}
    found = reproduce(console, person, sent[other])
    assert "sequence" not in found["sent"]
    assert equal(found)["row"] == (False, False)
    assert "its request brought events" in found["notes"][0]


def test_what_if_an_event_had_not_happened_is_what_who_has_not_done_it_gets(
    console: Console,
) -> None:
    start_ms = current_ms() - 40 * HOUR_MS
    person, twin = uuid4().hex, uuid4().hex
    act(console, person, *STEPS[:5], start_ms=start_ms)
    # The twin has done all but the third, at the same times.
    act(console, twin, *STEPS[:2], start_ms=start_ms)
    act(console, twin, *STEPS[3:5], start_ms=start_ms + 3 * HOUR_MS)
    events = profile(console, person)["events"]
    third = next(event for event in events if event["timestamp"] == start_ms + 2 * HOUR_MS)
    assert (third["type"], third["item_id"]) == ("purchase", "i8")
    row, at, before = profile(console, person)["sequence"], current_ms(), ends(console)
    found = ask(console, person, leave_out=[third["place"]], at=at)
    expected = ask(console, twin, at=at)["after"]
    check_same(found["after"]["items"], expected["items"])
    assert [event["place"] for event in found["left_out"]] == [third["place"]]
    assert found["counters_before"]["purchase"]["all"] == 1
    assert found["counters_after"]["purchase"]["all"] == 0
    assert names(found["before"]["items"]) != names(found["after"]["items"])
    moves = {each["item_id"]: each for each in found["moves"]}
    for place, item in enumerate(found["after"]["items"], 1):
        assert moves[item["item_id"]]["place_after"] == place
    # Nothing is stored, and nobody is sent anything.
    assert profile(console, person)["sequence"] == row
    assert ends(console) == before


def test_as_of_another_time_it_is_what_was_sent_then(console: Console) -> None:
    person = uuid4().hex
    times = act(console, person, *STEPS[:4])
    for sent in sent_to(console, person):
        found = ask(console, person, at=sent["event_time"])
        check_same(found["after"]["items"], sent["items"])
        assert any("as of now" in note for note in found["notes"])
    # In a month all has decayed; nothing has happened.
    later = ask(console, person, at=times[-1] + 30 * 24 * HOUR_MS)
    assert later["counters_after"]["click"]["all"] == later["counters_before"]["click"]["all"]
    for life, value in later["counters_before"]["click"].items():
        assert later["counters_after"]["click"][life] <= value


def test_by_a_placement_and_by_what_is_refused(console: Console) -> None:
    person = uuid4().hex
    act(console, person, *STEPS[:2])
    console.take("PUT", "/v1/placements/threes", {"filter": "'c3' in item.category", "limit": 4})
    body = {"person": person, "placement": "threes"}
    wait_until(lambda: console.call("POST", "/v1/admin/what-if", body)[0] == 200, 30)
    found = ask(console, person, placement="threes")["after"]
    assert len(found["items"]) == 4
    assert {int(name[1:]) % 5 for name in names(found["items"])} == {3}
    assert found["placement"] == "threes"
    for query, field in (
        ({"placement": "nowhere"}, "placement"),
        ({"leave_out": ["clicks/0/999999"]}, "leave_out"),
        ({"leave_out": ["nonsense"]}, "leave_out"),
        ({"at": 12}, "at"),
        ({"version": 0}, "version"),
        ({"filter": "item.price <"}, "filter"),
    ):
        asked = {"person": person, **query}
        status, problem = console.call("POST", "/v1/admin/what-if", asked)
        assert (status, problem["field"].partition("[")[0]) == (400, field), problem
    status, problem = console.call("POST", "/v1/admin/what-if", {"person": person, "version": 99})
    assert (status, "version 99 is not loaded" in problem["detail"]) == (409, True)
    status, problem = console.call("POST", "/v1/admin/what-if", {"person": person}, key="asks")
    assert status == 403


def test_who_and_what_is_not_there_is_said(console: Console) -> None:
    for path in ("people/nobody-of-this-name", "items/nothing-of-this-name"):
        status, problem = console.call("GET", f"/v1/admin/{path}")
        assert (status, "nothing is known of this" in problem["detail"]) == (404, True)
        assert problem["remedy"]
    for path in (f"people/{'x' * 500}", f"items/{'x' * 500}"):
        status, problem = console.call("GET", f"/v1/admin/{path}")
        assert (status, problem["remedy"]) == (400, "expected at most 256 characters")
    status, problem = console.call("GET", "/v1/admin/recommendations/none?person=nobody")
    assert status == 404
    assert console.take("GET", "/v1/admin/recommendations?person=nobody")["lists"] == []


def test_an_item_is_told_with_its_rates_and_what_is_like_it(console: Console) -> None:
    act(console, uuid4().hex, ("click", "i55"), ("click", "i55"), ("purchase", "i55"))
    found = console.take("GET", "/v1/admin/items/i55")
    assert (found["item"]["title"], found["available"]) == ("Item i55", True)
    assert (found["counts"]["click"], found["counts"]["purchase"]) == (2, 1)
    for rate in found["rates"]:
        assert 0 < rate["count"] <= found["counts"][rate["type"]]
        assert rate["per_day"] == pytest.approx(
            rate["count"] * 0.6931471805599453 * 24 * HOUR_MS / rate["half_life_ms"]
        )
    assert found["versions"][0]["is_known"]
    assert len(found["similar"]) == 12
    assert "i55" not in names(found["similar"])
    found = console.take("GET", f"/v1/admin/items?{urlencode({'text': 'item I55'})}")
    assert names(found["items"]) == ["i55"]
    assert found["known"] >= ITEMS
    assert names(console.take("GET", "/v1/admin/items?text=%3Cb")["items"]) == ["i1"]


def test_to_whom_an_item_was_recommended_is_told_with_why(
    console: Console, browser: Browser
) -> None:
    person = uuid4().hex
    act(console, person, *STEPS[:3])
    (sent, *_) = sent_to(console, person)
    shown = sent["items"][2]
    path = f"/v1/admin/items/{shown['item_id']}/recommendations"
    found = console.take("GET", f"{path}?limit=100")
    (mine,) = (each for each in found["showings"] if each["person"] == person)
    assert (mine["place"], mine["item"]) == (3, shown)
    assert mine["recommendation_id"] == sent["recommendation_id"]
    assert len(found["showings"]) <= found["found"] <= found["looked_at"]
    assert found["oldest_time"] <= sent["time"]
    assert console.take("GET", path.replace(shown["item_id"], "none"))["showings"] == []
    with visiting(browser, console) as visit:
        # From an item to all that made the list in which it stood.
        visit.go(f"/items/{shown['item_id']}")
        first = visit.page.locator("#showings tbody tr").first
        first.get_by_role("link", name="the whole list").click()
        visit.page.wait_for_selector("#scores")
        assert visit.page.locator(f"#scores tr[data-item='{shown['item_id']}']").count() == 1
        # As of a moment that is written out, as a browser's field for times sends it.
        visit.go(f"/people/{person}")
        visit.page.locator("input[name=at]").fill("2030-01-02T03:04:05")
        visit.page.get_by_role("button", name="Ask what if").click()
        visit.page.wait_for_selector("#moves")
        assert "As of 2030-01-02 03:04:05" in visit.page.inner_text("main")
        assert visit.page.input_value("input[name=at]") == "2030-01-02T03:04:05"
        assert visit.faults == []


class Reader:
    """Reads pages as a browser without scripts does, logged in."""

    def __init__(self, console: Console, key: str) -> None:
        self._console = console
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        form = urlencode({"key": console.secrets[key]}).encode()
        with closing(self._opener.open(f"{console.url}/login", form)):
            pass

    def get(self, path: str) -> tuple[int, str]:
        try:
            with closing(self._opener.open(self._console.url + path, timeout=30)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def test_hostile_ids_are_shown_as_text_and_lead_where_they_should(console: Console) -> None:
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        producer.item(ODD_ITEM, title="</title><script>alert(2)</script>", category=["<b>c</b>"])
    act(console, ODD_PERSON, ("click", ODD_ITEM), ("click", "i1"))
    reader = Reader(console, "admin")
    status, page = reader.get("/people/" + quote(ODD_PERSON, safe=""))
    assert status == 200
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b onmouseover=alert(1)&gt;Item&lt;/b&gt;" in page
    (item,) = set(re.findall(r'href="(/items/[^"]*alert|/items/%3Ci[^"]*)"', page))
    status, page = reader.get(item)
    assert status == 200
    assert "<script>alert" not in page
    assert "&lt;b&gt;c&lt;/b&gt;" in page
    found = reader.get("/people?" + urlencode({"id": ODD_PERSON}))
    assert found[0] == 200
    assert "&lt;script&gt;alert(1)" in found[1]
    for path, status in (
        ("/people/" + "x" * 500, 400),
        ("/items/" + quote("\u202e" * 500), 400),
        ("/people/nobody", 404),
        ("/items/nothing", 404),
        ("/recommendations/none?person=nobody", 404),
        ("/people?id=..", 200),
        ("/people", 200),
        ("/items?text=" + quote("<script>"), 200),
        ("/recommendations/none", 400),
    ):
        found = reader.get(path)
        assert found[0] == status, (path, found[1][:500])
        assert "<script>alert" not in found[1]


def test_the_pages_show_what_the_operations_say(console: Console) -> None:
    person = uuid4().hex
    act(console, person, *STEPS[:3])
    reader = Reader(console, "admin")
    _, page = reader.get(f"/people/{person}")
    events = profile(console, person)["events"]
    for event in events:
        assert f'value="{event["place"]}"' in page
    (newest, *_) = sent_to(console, person)
    assert f"/recommendations/{newest['recommendation_id']}?person={person}" in page
    query = urlencode([("leave_out", event["place"]) for event in events[:2]])
    _, page = reader.get(f"/people/{person}?{query}")
    asked = ask(console, person, leave_out=[event["place"] for event in events[:2]])
    shown = re.search(r'<table id="moves">.*?</table>', page, re.DOTALL)
    assert shown
    assert re.findall(r'data-item="([^"]*)"', shown[0]) == names(asked["moves"])
    status, page = reader.get(f"/recommendations/{newest['recommendation_id']}?person={person}")
    assert status == 200
    found = reproduce(console, person, newest)
    scores = re.findall(r'<data value="([^"]*)">', page)
    for item in found["items"]:
        assert str(item["score"]) in scores
    assert page.count('<td class="good">yes</td>') >= 3
    _, page = reader.get("/people")
    assert f'href="/people/{person}"' in page
    _, page = reader.get("/items/i8")
    assert "Item i8" in page
    assert "Item i8" in reader.get("/items?text=i8")[1]


def test_pages_with_something_on_them_can_be_used_by_all(
    console: Console, browser: Browser
) -> None:
    person = uuid4().hex
    act(console, person, *STEPS[:3])
    (newest, *_) = sent_to(console, person)
    (event, *_) = profile(console, person)["events"]
    paths = (
        "/people",
        f"/people/{person}",
        f"/people/{person}?leave_out={event['place']}&at={current_ms()}",
        f"/recommendations/{newest['recommendation_id']}?person={person}",
        "/items?text=Item",
        "/items/i8",
    )
    with visiting(browser, console) as visit:
        for path in paths:
            visit.page.emulate_media(color_scheme="light")
            visit.go(path)
            assert visit.find_faults() == [], path
            visit.page.emulate_media(color_scheme="dark")
            assert visit.find_faults("color-contrast") == [], path
        # By hand: leave an event out, and see what is otherwise.
        visit.go(f"/people/{person}")
        visit.page.check(f"input[value='{event['place']}']")
        visit.page.get_by_role("button", name="Ask what if").click()
        visit.page.wait_for_selector("#moves")
        asked = ask(console, person, leave_out=[event["place"]])
        rows = visit.page.locator("#moves tbody tr")
        shown = [rows.nth(at).get_attribute("data-item") for at in range(rows.count())]
        assert shown == names(asked["moves"])
        assert visit.faults == []
    with visiting(browser, console, viewport={"width": 360, "height": 740}) as visit:
        for path in paths:
            visit.go(path)
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert visit.page.evaluate(wide) <= 0, path


def test_an_older_version_is_asked_where_it_can_be_and_else_it_is_said(console: Console) -> None:
    person = uuid4().hex
    act(console, person, *STEPS[:2])
    (sent, *_) = sent_to(console, person)
    assert sent["model_version"] == "1"
    settings = console.settings
    with closing(model_registry(settings, SETTINGS)) as registry:
        registry.publish(untrained(FeatureSchema(settings.features), 2))
        config = (registry.repository.model / CONFIG).read_text()
    wait_until(lambda: profile(console, person)["version"] == 2, 30)
    # The version before stays loaded.
    assert equal(reproduce(console, person, sent))["model scores"] == (True, True)
    found = ask(console, person, version=1, at=sent["event_time"])
    check_same(found["after"]["items"], sent["items"])
    assert (found["before"]["model_version"], found["after"]["model_version"]) == ("2", "1")
    server = ModelServer(settings.triton.urls[0], control_key=control_key(console))
    with server.connect() as triton:
        triton.load(config, [2])
    found = reproduce(console, person, sent)
    assert "version 1 is not loaded" in found["version_problem"]
    assert equal(found)["row"] == (True, True)
    assert "now" not in found
    body = {"version": 1, "reason": "to see why"}
    assert console.call("POST", "/v1/admin/past-versions", body, key="reader")[0] == 403
    assert console.take("POST", "/v1/admin/past-versions", body, key="operator") == {"version": 1}
    assert equal(reproduce(console, person, sent))["model scores"] == (True, True)
    entries = console.take("GET", "/v1/admin/audit")["entries"]
    assert any(each["operation"] == "load_past_version" for each in entries)


def control_key(console: Console) -> str:
    key = console.settings.triton.control_key
    return key.get_secret_value() if key else ""
