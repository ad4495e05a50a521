"""Whatever a caller sends, the answer is a list or a problem that names field, value and remedy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from headwater_client import EVENT_TYPES, Item
from headwater_client.contract import Scope
from headwater_client.operations import OPERATIONS

from features.columns import encode_item, encode_user
from features.rows import apply_event, empty_user, observation
from features.schema import FeatureSchema
from stream.api.keys import make_key, write_keys
from stream.api.problems import KINDS, MEDIA_TYPE
from tests.harness.builders import ASKED, START_MS, click
from tests.harness.http_api import CONFIG, SOURCES, HttpAnswer, OfflineApi, ask
from tests.harness.memory_store import MemoryRowStore
from tests.unit.stream.test_recommender import store_where_trend

ASK = "/v1/recommendations"
SCHEMA = FeatureSchema(CONFIG.features)


def post(path: str, body: Any, api: OfflineApi | None = None, **headers: str) -> HttpAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    (answer,) = (api or OfflineApi()).ask(("POST", path, raw), **headers)
    return answer


def problem(answer: HttpAnswer, status: int) -> Any:
    assert (answer.status, answer.headers["content-type"]) == (status, MEDIA_TYPE), answer.body
    found = answer.document
    assert found["status"] == status
    assert found["type"].partition("#")[2] in KINDS
    return found


def now_event(**fields: Any) -> dict[str, Any]:
    return {"type": "click", "user_id": "ann", "item_id": "a", **fields}


@pytest.mark.parametrize(
    ("body", "field", "value", "remedy"),
    [
        ({"person": ""}, "person", "''", "length >= 1"),
        ({"person": "ann", "limit": 0}, "limit", "0", ">= 1"),
        ({"person": "ann", "limit": "ten"}, "limit", "'ten'", "int"),
        ({"person": "ann", "limt": 3}, "limt", "3", "is no field"),
        ({"person": "ann", "exclude": ["a", 7]}, "exclude[1]", "['a', 7]", "str"),
        ({"person": "ann", "events": [{}]}, "events[0].type", "<missing>", "click, purchase"),
        (
            {"person": "ann", "events": [now_event(), now_event(type="look")]},
            "events[1].type",
            "'look'",
            "click, purchase",
        ),
        (
            {"person": "ann", "events": [now_event(timestamp=4_000_000_000_000)]},
            "events[0].timestamp",
            "4000000000000",
            "in the future",
        ),
        (
            {"person": "ann", "events": [now_event(user_id="bob")]},
            "events[0].user_id",
            "'bob'",
            "the person of the request",
        ),
        ({"person": "ann", "events": [7]}, "events[0]", "b'7'", "a JSON object"),
        ({"events": [now_event()], "record": True}, "person", "<missing>", "is required"),
        ([], "<message>", "<JSON>", "object"),
    ],
)
def test_a_field_that_breaks_the_contract_is_named(
    body: Any, field: str, value: str, remedy: str
) -> None:
    found = problem(post(ASK, body), 400)
    assert (found["field"], found["value"]) == (field, value)
    assert remedy in found["remedy"]
    assert found["detail"].startswith(field)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"person": "\\ud800"}',
        b'{"person": NaN}',
        b"[" * 3000,
        b'{"person": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"person": 1e999}',
        b'{"person": "ann", "events": [' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"]}",
    ],
)
@pytest.mark.parametrize("path", [ASK, "/v1/events", "/v1/rank", "/v1/items/similar"])
def test_what_is_no_json_of_this_kind_is_refused(path: str, raw: bytes) -> None:
    found = problem(post(path, raw), 400)
    assert found["remedy"]
    assert b"Traceback" not in json.dumps(found).encode()


def test_a_request_has_a_size_and_a_media_type() -> None:
    assert problem(post(ASK, b" " * 5000), 413)["remedy"] == "send at most 4096 bytes at once"
    long = {"content-length": "9" * 400}
    problem(post(ASK, b"{}", **long), 413)
    found = problem(post(ASK, b"a=b", **{"content-type": "application/x-www-form-urlencoded"}), 415)
    assert "application/json" in found["remedy"]
    problem(post(ASK, b"{}", **{"content-encoding": "gzip"}), 415)


def test_paths_and_methods_that_there_are_not_are_problems_too() -> None:
    missing, wrong = OfflineApi().ask(("GET", "/v2", b""), ("GET", "/v1/rank", b""))
    assert problem(missing, 404)["detail"] == "/v2"
    problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    person, inner = OfflineApi().ask(
        ("PATCH", "/v1/people/a/b", b""), ("PATCH", "/v1/people/a/b/attributes", b"")
    )
    assert person.headers["allow"] == "DELETE, GET, HEAD"
    assert inner.headers["allow"] == "PUT"


def test_what_ends_like_a_longer_path_is_no_person() -> None:
    """Whoever mistypes a method must not erase somebody."""
    for path in ("/v1/people/ann/attributes", "/v1/people/ann/merge"):
        (refused,) = OfflineApi().ask(("DELETE", path, b""))
        problem(refused, 405)


def test_without_keys_only_this_machine_is_answered() -> None:
    found = problem(post(ASK, {}, host="evil.example:8080"), 401)
    assert "evil.example" in found["detail"]
    assert post(ASK, {}, host="localhost:8080").status == 200
    assert post(ASK, {}, host="[::1]:8080").status == 200


def with_keys(folder: Path, **scopes: Scope) -> tuple[OfflineApi, dict[str, str]]:
    made = {name: make_key(name, [scope], None) for name, scope in scopes.items()}
    write_keys(folder / "keys.toml", [key for _, key in made.values()])
    api = OfflineApi(store_where_trend("a", "b"), folder / "keys.toml")
    return api, {name: f"Bearer {secret}" for name, (secret, _) in made.items()}


def test_no_key_no_answer_beyond_health(tmp_path: Path) -> None:
    api, _ = with_keys(tmp_path, shop=Scope.ASK)
    paths = [
        (operation.method, operation.path.replace("{person}", "ann"), b"{}")
        for operation in OPERATIONS
    ]
    answers = api.ask(*paths, ("GET", "/elsewhere", b""), ("DELETE", "/v1/rank", b""))
    is_open = [operation.is_open for operation in OPERATIONS]
    assert [answer.status for answer in answers] == [
        *(200 if each else 401 for each in is_open),
        401,
        401,
    ]
    assert answers[0].headers["www-authenticate"] == "Bearer"


def test_a_key_is_for_its_scopes(tmp_path: Path) -> None:
    api, headers = with_keys(tmp_path, asks=Scope.ASK, sends=Scope.SEND)
    question = json.dumps({"person": "ann", "events": [now_event()], "record": True}).encode()
    for request, name, scope in (
        (("POST", "/v1/events", b"{}"), "asks", "send"),
        (("POST", ASK, b"{}"), "sends", "ask"),
        (("POST", ASK, question), "asks", "send"),
        (("GET", "/v1/people/ann", b""), "asks", "read-people"),
        (("PUT", "/v1/items", b"{}"), "sends", "administer"),
    ):
        (answer,) = api.ask(request, authorization=headers[name])
        assert problem(answer, 403)["remedy"] == f"use one with the scope {scope}"
    (answer,) = api.ask(("POST", ASK, b"{}"), authorization=headers["asks"])
    assert answer.status == 200


def test_without_a_version_what_trends_answers_and_says_so() -> None:
    api = OfflineApi(store_where_trend("a", "b", "c", "d", "e"))
    body = {"person": "ann", "events": [now_event()], "exclude": ["c"], "limit": 2}
    found = post(ASK, body, api).document
    assert [item["item_id"] for item in found["items"]] == ["b", "d"]
    assert found["items"][0]["reason"] == {"kind": "popular"}
    assert (found["fallback"], found["model_version"]) == (True, "popular-items")
    assert found["person"] == "ann"
    assert 0 <= found["event_age_ms"] < 60_000
    assert len(found["recommendation_id"]) == 32
    assert "missing" not in found
    assert post(ASK, {"person": "ann", "exclude": list("abcd")}, api).document["missing"] == 2


def test_requests_that_arrive_together_are_one_read() -> None:
    store = store_where_trend("a", "b", "c")
    requests = [("POST", ASK, json.dumps({"person": f"u{n}"}).encode()) for n in range(7)]
    reads: list[int] = []

    async def work(app: Any) -> list[HttpAnswer]:
        before = store.reads
        found = await asyncio.gather(*(ask(app, *request) for request in requests))
        reads.append(store.reads - before)
        return found

    assert {answer.status for answer in OfflineApi(store).run(work)} == {200}
    # The rows of all, and whether what trends may be shown.
    assert reads == [2]


class LateStore(MemoryRowStore):
    """A store that answers too late, once it has told what trends."""

    late = False

    async def read(self, reads: Any) -> Any:
        if self.late:
            await asyncio.sleep(5)
        return await super().read(reads)


def test_a_store_that_is_away_is_not_waited_for() -> None:
    store = LateStore()
    store.rows = store_where_trend("a", "b", "c", "d").rows
    body = json.dumps({"person": "ann", "events": [now_event()]}).encode()

    async def work(app: Any) -> list[HttpAnswer]:
        store.late = True
        ranked = {"person": "ann", "items": ["d", "x", "b"]}
        return [
            await ask(app, "POST", ASK, body),
            await ask(app, "POST", "/v1/rank", json.dumps(ranked).encode()),
            await ask(app, "GET", "/v1/people/ann"),
            await ask(app, "GET", "/v1/popular"),
        ]

    listed, ranked, person, popular = OfflineApi(store, deadline_s=0.05).run(work)
    assert [item["item_id"] for item in listed.document["items"]] == ["b", "c", "d"]
    assert listed.document["failed"] == "the store does not answer"
    assert listed.document["fallback"]
    # Who comes next does not wait for it again.
    assert ranked.document["failed"] == "the store is not asked, it failed a moment ago"
    assert [item["item_id"] for item in ranked.document["items"]] == ["b", "d", "x"]
    assert problem(person, 503)["remedy"] == "send it again in a moment"
    assert person.headers["retry-after"] == "1"
    assert len(popular.document["items"]) == 3


def test_events_that_kafka_does_not_take_are_to_be_sent_again() -> None:
    answer = post("/v1/events", now_event(event_id="e1"))
    found = problem(answer, 503)
    assert found["remedy"] == "send it again, with its event_id"
    assert answer.headers["retry-after"] == "1"
    asked = {"person": "ann", "events": [now_event()], "record": True}
    listed = post(ASK, asked, OfflineApi(deadline_s=20)).document
    assert "recorded" not in listed
    assert listed["not_recorded"].startswith("Kafka: ")


def test_events_that_are_all_refused_are_each_named() -> None:
    found = problem(post("/v1/events", [now_event(item_id=""), {"type": "click"}]), 400)
    assert [each["field"] for each in found["errors"]] == ["events[0].item_id", "events[1].user_id"]
    assert problem(post("/v1/events", now_event(item_id="")), 400)["field"] == "item_id"
    too_many = problem(
        post("/v1/events", [now_event()] * 1001, OfflineApi(max_body_bytes=2**20)), 400
    )
    assert "1 to 1000" in too_many["remedy"]
    problem(post("/v1/events", []), 400)


def test_a_person_is_described_by_their_row() -> None:
    store, row = MemoryRowStore(), empty_user(SCHEMA)
    for offset, item in enumerate(["a", "b"]):
        apply_event(
            row, observation(click("ann", item, offset), SOURCES["clicks", 0], offset), SCHEMA
        )
    store.rows["user_activity", "ann/1"] = dict(encode_user(row))
    known, nobody = OfflineApi(store).ask(
        ("GET", "/v1/people/ann/1", b""), ("GET", "/v1/people/bob", b"")
    )
    found = known.document
    assert found["counters"]["click"]["all"] == 2
    assert found["counters"]["purchase"]["all"] == 0
    assert [event["timestamp"] for event in found["events"]] == [START_MS, START_MS + 1000]
    assert (found["seen"], found["offsets"]) == (2, {"clicks/0": 1})
    problem(nobody, 404)


def test_what_is_popular_in_a_category() -> None:
    store = store_where_trend("a", "b", "c")
    for name, kind in {"a": "x", "b": "y", "c": "y"}.items():
        entry = encode_item(Item(item_id=name, category=[kind], available=name != "c"), 1, 1)
        store.rows["item_catalogue", name] = dict(entry)
    overall, some, wrong, none, zero = OfflineApi(store).ask(
        ("GET", "/v1/popular?limit=5", b""),
        ("GET", "/v1/popular?category=y", b""),
        ("GET", "/v1/popular?limit=many", b""),
        ("GET", "/v1/popular?limit=null", b""),
        ("GET", "/v1/popular?limit=0", b""),
    )
    assert [item["item_id"] for item in overall.document["items"]] == ["a", "b"]
    assert [item["item_id"] for item in some.document["items"]] == ["b"]
    assert problem(wrong, 400)["field"] == "limit"
    assert problem(none, 400)["value"] == "'null'"
    assert problem(zero, 400)["value"] == "0"


def test_the_document_and_its_page_are_served() -> None:
    document, page, metrics, version = OfflineApi().ask(
        *(("GET", path, b"") for path in ("/openapi.json", "/docs", "/metrics", "/version"))
    )
    assert document.document["openapi"] == "3.1.0"
    assert not any(word in page.body for word in (b"<script", b"://", b"src="))
    for operation in OPERATIONS:
        assert f"id='{operation.name}'".encode() in page.body
    assert b"headwater_api_requests_total" in metrics.body
    assert version.document["versions"] == {}


def test_every_type_of_event_is_taken() -> None:
    events = [now_event(type=name, event_id=name, **ASKED.get(name, {})) for name in EVENT_TYPES]
    found = post(ASK, {"person": "ann", "events": events}, OfflineApi(store_where_trend("a", "b")))
    assert [item["item_id"] for item in found.document["items"]] == ["b"]
