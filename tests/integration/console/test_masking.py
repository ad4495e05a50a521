"""Where people are masked, who may not read people sees what nobody is called: nowhere."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from headwater_client import EventProducer
from headwater_client.admin import ADMIN_OPERATIONS
from headwater_client.operations import OPERATIONS, Operation
from playwright.sync_api import Browser

from deploy.console.pages import PAGES
from features.events import current_ms
from tests.harness.console import Console, serving_console, visiting
from tests.harness.servers import asleep
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration
# All that tells who somebody is has this word in it.
WORD = "quillfeather"
PERSON, GUEST, GONE = f"{WORD}@shop.example", f"guest of {WORD}", f"{WORD}-gone"
# Ids that look wrong, as the page of quality looks for them.
ODD = (
    PERSON.upper(),
    f" {WORD}\u00a0",
    f"{WORD}-${{id}}",
    f"{{{{a}}}} {WORD} {{{{b}}}}",
    f'it\'s "{WORD}": x',
    f"{WORD}Ã«",
)
LETTERS = "/v1/admin/dead-letters"
WHY = {"reason": "the app named it so"}
# Nothing is tried out here, and no window is written.
NOT_THERE = {"describe_rollout", "forecast_item"}


def spell(word: str) -> Iterator[str]:
    """What a word looks like in answers: as text, as hex, and as base64 wherever it begins."""
    raw = word.encode()
    yield from (word, raw.hex(), raw.hex(" "))
    for before in range(3):
        whole = b64encode(b"\0" * before + raw + b"\0\0")
        yield whole[-(-8 * before // 6) : (before + len(raw)) * 8 // 6].decode().casefold()


SPELLINGS = tuple(spell(WORD))


def names_anyone(text: str) -> bool:
    return any(each in text.casefold() for each in SPELLINGS)


def test_a_name_is_found_however_it_is_written() -> None:
    for before in ("", "x", "xy", "xyz"):
        raw = f"{before}{WORD} of the shop".encode()
        for text in (raw.decode().upper(), raw.hex(), raw.hex(" "), b64encode(raw).decode()):
            assert names_anyone(text), text
    assert not names_anyone("person-0f3b")


@dataclass
class Masked:
    """A masked console in which everything that can name a person does.

    Attributes:
        name: what the person is called before who may not know.
        path: what the names in paths stand for; `letters` and `faults` are of dead letters.
    """

    console: Console
    name: str = ""
    path: dict[str, str] = field(default_factory=dict)
    letters: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    place: str = ""

    def list_paths(self, operation: Operation) -> Iterator[str]:
        """What to ask an operation that is read."""
        path = operation.path.format(**{n: quote(v, safe="") for n, v in self.path.items()})
        person = urlencode({"person": self.name})
        match operation.name:
            case "list_sent" | "reproduce_list":
                yield f"{path}?{person}"
            case "show_dead_letter":
                yield from (f"{LETTERS}/{letter}" for letter in self.letters)
            case "preview_corrections":
                yield from (f"{path}?fault={fault}" for fault in self.faults)
                yield from (f"{path}?letter={letter}&rules=nonsense" for letter in self.letters[:1])
            case _:
                yield path

    def list_pages(self) -> Iterator[str]:
        """All pages; of those of letters and faults some."""
        person = urlencode({"person": self.name})
        for page in PAGES:
            path = page.path.format(**{n: quote(v, safe="") for n, v in self.path.items()})
            match page.area:
                case "letter":
                    yield from (f"/quality/letters/{letter}" for letter in self.letters[:3])
                case "faults":
                    yield from (f"{path}?fault={fault}" for fault in self.faults[:3])
                case "person":
                    yield from (path, f"{path}?leave_out={self.place}&at={current_ms()}")
                case "recommendation":
                    yield f"{path}?{person}"
                case _:
                    yield path


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Masked]:
    """What names people is planted wherever an app, a person or a fault can put it."""
    with serving_console(tmp_path_factory.mktemp("masked"), mask_people=True) as console:
        send_events(console)
        send_refused(console)
        act(console)
        yield find_names(Masked(console))


def send_events(console: Console) -> None:
    """Events under odd ids, with ids of their own that name people, and some of them twice."""
    said: dict[str, Any] = {"session_id": f"s-{WORD}", "context": {"customer": WORD}}
    now_ms = current_ms()
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for number, name in enumerate((PERSON, GUEST, GONE, *ODD)):
            for item in ("i1", "i2"):
                fields = {"event_id": f"{WORD}-{number}-{item}", **said}
                producer.click(user_id=name, item_id=item, **fields)
        for item in ("i3", "i3", "i4"):
            # One id for two events; and one of them twice.
            again = {"event_id": f"{WORD}-again", "timestamp": now_ms - 5000}
            producer.click(user_id=PERSON, item_id=item, **again)
        for number in range(2):
            once = {"event_id": f"{WORD}-once-{number}", "timestamp": now_ms - 3000}
            producer.click(user_id=PERSON, item_id="i5", **once)


def send_refused(console: Console) -> None:
    """Messages that break the contract, each in its way, and name somebody."""
    now_ms = current_ms()
    good = {"event_id": f"{WORD}-r", "user_id": PERSON, "item_id": "i1", "timestamp": now_ms}
    clicks = [
        {**good, "user_id": {WORD: 1}},
        {**good, "user_id": PERSON * 40},
        {**good, "item_id": [PERSON]},
        {**good, "timestamp": WORD},
        {**good, "context": {WORD: float("nan")}},
        {**good, "context": {"customer": {WORD: 1}}},
        {"event_id": f"{WORD}-old", "userId": PERSON, "item_id": "i1", "timestamp": now_ms},
    ]
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for each in clicks:
            producer.send_raw("clicks", PERSON, json.dumps(each).encode())
        producer.send_raw("clicks", PERSON, f'{{"user_id": "{PERSON}", '.encode())
        other = json.dumps({"user_id": f'it\'s "{WORD}"', "attributes": {"a": 1}})
        producer.send_raw("people", PERSON, other.encode())
        producer.send_raw("people", PERSON, b'{"attributes": {"a": [1]}}')
        merge = json.dumps({"type": "merge", "guest": GUEST, "member": WORD, "merge_id": WORD})
        producer.send_raw("identities", PERSON, merge.encode())
        # Whoever may write there, may write anything.
        producer.send_raw("audit", "x", json.dumps({"number": WORD}).encode())
        producer.send_raw("recommendations", PERSON, json.dumps({"user_id": WORD}).encode())


def act(console: Console) -> None:
    """What people are said to be, and what is done at the console; some of it in vain."""
    of = f"/v1/people/{quote(PERSON)}"
    wait_until(lambda: console.call("GET", of)[0] == 200, 30)
    console.take("PUT", f"{of}/attributes", {"attributes": {"mail": PERSON, "likes": "c1"}})
    console.take("POST", f"/v1/people/{quote(GUEST)}/merge", {"member": PERSON})
    console.call("DELETE", f"/v1/people/{quote(GONE)}")
    console.take("PUT", "/v1/placements/home", {"filter": "'c1' in item.category"})
    asked = {"person": PERSON, "context": {"customer": WORD}, "limit": 3}
    console.take("POST", "/v1/recommendations", asked)

    def find_letters() -> dict[str, dict[str, Any]]:
        listed = console.take("GET", f"{LETTERS}?limit=100")["letters"]
        return {each["letter"]: each for each in listed if names_anyone(each["text"])}

    wait_until(lambda: len(find_letters()) >= 10, 60)
    (renamed,) = [name for name, each in find_letters().items() if "userId" in each["text"]]
    bad = {"text": json.dumps({"user_id": [PERSON]}), **WHY}
    assert console.call("POST", f"{LETTERS}/{renamed}/send", bad)[0] == 400
    rules = [{"do": "rename", "field": "userId", "to": "user_id"}]
    corrected = {"letters": [renamed], "rules": rules, **WHY}
    assert console.take("POST", "/v1/admin/dead-letter-corrections", corrected)["taken"] == 1


def find_names(masked: Masked) -> Masked:
    """What a viewer is shown, and goes on with."""
    console = masked.console

    def find_person() -> str:
        """Of those whom nobody can tell apart, who has got a list by the API."""
        for each in console.take("GET", "/v1/admin/people", key="viewer")["people"]:
            path = f"/v1/admin/people/{each['person']}"
            status, found = console.call("GET", path, key="viewer")
            # The one who was erased is not there any more.
            events = found["events"] if status == 200 else []
            if any(event.get("item_id") == "i5" for event in events):
                masked.place = next(event["place"] for event in events if event.get("item_id"))
                return str(each["person"])
        return ""

    wait_until(lambda: find_person() != "", 60)
    masked.name = find_person()
    sent = console.take("GET", f"/v1/admin/recommendations?person={masked.name}", key="viewer")
    found = console.take("GET", f"{LETTERS}?limit=100", key="viewer")
    masked.letters = [each["letter"] for each in found["letters"]]
    masked.faults = [each["fault"] for each in found["faults"]]
    masked.path = {
        "person": masked.name,
        "recommendation_id": sent["lists"][0]["recommendation_id"],
        "item": "i1",
        "version": "1",
        "rollout": "none",
        "name": "home",
        "letter": masked.letters[0],
    }
    return masked


@pytest.fixture(scope="module", params=["viewer", "steers"])
def key(request: pytest.FixtureRequest) -> str:
    """One who looks, and one who may change things; neither may read people."""
    return str(request.param)


def test_what_was_planted_is_there_for_who_may_read_it(masked: Masked) -> None:
    for path in (
        "/v1/admin/people",
        f"/v1/admin/people/{quote(PERSON)}",
        "/v1/admin/audit",
        "/v1/admin/quality",
        LETTERS,
        f"{LETTERS}/{masked.letters[0]}",
    ):
        assert names_anyone(json.dumps(masked.console.take("GET", path, key="admin"))), path
    assert masked.name.startswith("person-")


def test_no_answer_names_anyone(masked: Masked, key: str) -> None:
    """Of every operation that is read, so of those too that are added."""
    reads = [each for each in (*OPERATIONS, *ADMIN_OPERATIONS) if each.method == "GET"]
    for operation in reads:
        if operation.name == "stream_live":
            continue
        for path in masked.list_paths(operation):
            status, answer = masked.console.call("GET", path, key=key)
            assert not names_anyone(json.dumps(answer, ensure_ascii=False)), path
            if operation.is_admin and operation.name not in NOT_THERE and "nonsense" not in path:
                assert status == 200, (path, answer)


ASKED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "preview of those who did something last": (
        "/v1/admin/placements/home/preview",
        {"filter": "'c1' in item.category", "count": 10},
    ),
    "check": ("/v1/admin/placements/home/check", {"filter": "person.mail > "}),
    "replay": ("/v1/admin/placements/home/replay", {"filter": "'c2' in item.category", "days": 1}),
}


@pytest.mark.parametrize("asked", ASKED)
def test_no_question_leads_to_a_name(masked: Masked, key: str, asked: str) -> None:
    path, body = ASKED[asked]
    status, answer = masked.console.call("POST", path, body, key=key)
    assert status == 200, answer
    assert not names_anyone(json.dumps(answer, ensure_ascii=False)), answer


def test_no_filter_tells_what_is_known_of_anyone(masked: Masked, key: str) -> None:
    """By which lists are empty an attribute could be read letter by letter."""
    console = masked.console
    for text in ("person.mail != ''", "person.mail > 3 || person.likes == 5"):
        for path, body in (
            ("/v1/admin/placements/home/preview", {"filter": text, "count": 10}),
            ("/v1/admin/what-if", {"person": masked.name, "filter": text}),
        ):
            status, problem = console.call("POST", path, body, key=key)
            assert status == 403, (path, problem)
            assert "asks what is known of a person" in problem["detail"]
        console.take("POST", "/v1/admin/placements/home/preview", {"filter": text})
    known = console.take("GET", f"/v1/admin/people/{masked.name}", key=key)
    assert known["segments"] == []


def test_nobody_is_found_by_trying_names_out(masked: Masked, key: str) -> None:
    """A name leads back, an id nowhere: what is said of it does not hang on whether it is one."""
    console, answers = masked.console, []
    for name in (PERSON, "nobody-at-all"):
        status, problem = console.call("GET", f"/v1/admin/people/{quote(name)}", key=key)
        answers.append((status, problem["detail"].replace(name, ""), problem["remedy"]))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    for body in ({"person": masked.name}, {"person": masked.name, "leave_out": [masked.place]}):
        status, answer = console.call("POST", "/v1/admin/what-if", body, key=key)
        assert (status, answer["person"]) == (200, masked.name)
        assert not names_anyone(json.dumps(answer, ensure_ascii=False))


def test_the_stream_names_nobody(masked: Masked, key: str) -> None:
    headers = {"Authorization": f"Bearer {masked.console.secrets[key]}"}
    request = urllib.request.Request(f"{masked.console.url}/v1/admin/live", headers=headers)
    said = ""
    with urllib.request.urlopen(request, timeout=30) as stream:
        while said.count("data:") < 2:
            said += stream.readline().decode()
    assert not names_anyone(said)


def test_no_page_names_anyone(masked: Masked, browser: Browser) -> None:
    """Neither what it shows, nor its title, its address, its links, nor what it asks for."""
    told: list[str] = []
    with visiting(browser, masked.console, "viewer") as visit:
        visit.page.on("request", lambda request: told.append(request.url))
        for path in masked.list_pages():
            visit.go(path)
            told += [visit.page.url, visit.page.title(), visit.page.content()]
            named = [each for each in told if names_anyone(each)]
            assert named == [], path
            told.clear()
    with visiting(browser, masked.console, "viewer") as visit:
        visit.go("/people")
        assert masked.name in visit.page.content()


def test_what_is_said_of_a_server_that_is_away_names_nobody(masked: Masked) -> None:
    with asleep(masked.console.local, "store"):
        for method, where, what in (
            ("GET", f"/v1/admin/people/{masked.name}", None),
            ("POST", "/v1/admin/what-if", {"person": masked.name}),
        ):
            status, problem = masked.console.call(method, where, what, key="viewer")
            assert status >= 500
            assert not names_anyone(json.dumps(problem, ensure_ascii=False)), where
