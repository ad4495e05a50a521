"""Metarank's interface without servers: what is refused, and what a body may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headwater_client import EventError, Item

from features.columns import encode_item
from features.store import CATALOGUE
from stream.api.compat.metarank import NO_COUNTERPART
from stream.api.compat.metarank_forms import MetarankEvent, MetarankField, make_item, read_events
from tests.harness.http_api import HttpAnswer, OfflineApi
from tests.harness.memory_store import MemoryRowStore

PREFIX = "/compat/metarank"
CLICK = {"event": "interaction", "id": "1", "timestamp": "1599391467000", "type": "click"}


def post(path: str, body: Any, api: OfflineApi | None = None, **headers: str) -> HttpAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sized = {"content-length": str(len(raw))} | headers
    (answer,) = (api or OfflineApi()).ask(("POST", PREFIX + path, raw), **sized)
    return answer


@pytest.mark.parametrize("operation", NO_COUNTERPART, ids=lambda one: one.path)
def test_what_has_no_counterpart_is_said(operation: Any) -> None:
    (answer,) = OfflineApi().ask((operation.method, PREFIX + operation.path, b""))
    assert (answer.status, answer.document["detail"]) == (501, operation.summary)


def test_a_body_may_hold_one_event_many_or_one_a_line() -> None:
    one = json.dumps(CLICK, indent=2).encode()
    assert list(map(json.loads, read_events(one))) == [CLICK]
    assert list(map(json.loads, read_events(b"[" + one + b"," + one + b"]"))) == [CLICK, CLICK]
    line = json.dumps(CLICK).encode()
    assert list(map(json.loads, read_events(line + b"\n" + line + b"\n"))) == [CLICK, CLICK]
    with pytest.raises(EventError, match="expected events as JSON"):
        list(read_events(b"{broken"))


@pytest.mark.parametrize(
    ("said", "field", "words"),
    [
        ({**CLICK, "item": "a"}, "user", "is required, or session"),
        ({**CLICK, "item": "a", "user": "ann", "type": "smell"}, "type", "expected one of click"),
        ({**CLICK, "item": "a", "user": "ann", "timestamp": "now"}, "timestamp", "ISO 8601"),
        ({**CLICK, "event": "look"}, "event", "expected one of item, user"),
        ({"event": "item", "id": "1"}, "timestamp", "is required"),
        ([CLICK, {**CLICK, "fields": 3}], "events[0].user", "is required"),
    ],
)
def test_an_event_that_breaks_the_contract_is_named(said: Any, field: str, words: str) -> None:
    answer = post("/feedback", said)
    assert (answer.status, answer.document["field"]) == (400, field), answer.body
    assert words in answer.document["remedy"]


def test_events_that_say_nothing_here_are_told() -> None:
    shown = {"event": "ranking", "id": "1", "timestamp": 1599391467000, "items": [{"id": "a"}]}
    answer = post("/feedback", [shown, shown])
    assert answer.status == 501
    assert answer.document["detail"].startswith("2 of ranking: what was shown is not kept")


def test_a_page_of_a_browser_says_that_it_sends_json() -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert post("/flush", b"{}", **form).status == 200
    assert post("/flush", b"{}", **form, origin="https://elsewhere").status == 415
    assert post("/flush", b"").document["accepted"] == 0


def test_fields_of_an_item_replace_those_alone_that_they_say() -> None:
    said = MetarankEvent(
        event="item",
        timestamp=1,
        item="a",
        fields=[
            MetarankField("title", "New"),
            MetarankField("color", ["red"]),
            MetarankField("size", 4),
        ],
    )
    known = Item(
        item_id="a", title="Old", category=["x"], attributes={"color.blue": True, "soft": False}
    )
    made = make_item(said, known)
    assert (made["title"], made["category"]) == ("New", ["x"])
    assert made["attributes"] == {"soft": False, "color.red": True, "size": 4}


def test_what_the_catalogue_says_of_an_item_is_read_whole() -> None:
    store = MemoryRowStore()
    item = Item(item_id="a", title="Lamp", category=["x"], price=3.5, attributes={"soft": True})
    store.rows[CATALOGUE.name, "a"] = encode_item(item, 1, 1)
    (answer,) = OfflineApi(store).ask(("GET", "/compat/gorse/api/item/a", b""))
    assert answer.document["Comment"] == "Lamp"
    assert answer.document["Labels"] == ["soft"]
    (missing,) = OfflineApi(store).ask(("GET", "/compat/gorse/api/item/b", b""))
    assert missing.status == 404
