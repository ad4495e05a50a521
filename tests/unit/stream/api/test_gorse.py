"""Gorse's interface without servers: what is refused, and what items become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headwater_client import EventError, Item, SettingsError, decode

from stream.api.compat.gorse_forms import GorsePatch, describe_item, make_item
from stream.api.compat.gorse_operations import NO_COUNTERPART
from stream.api.compat.values import EventAliases, flatten, read_time_ms
from tests.harness.http_api import HttpAnswer, OfflineApi

PREFIX = "/compat/gorse/api"


def ask(method: str, path: str, body: Any = None, **headers: str) -> HttpAnswer:
    raw = b"" if body is None else json.dumps(body).encode()
    sized = {"content-length": str(len(raw))} | headers
    (answer,) = OfflineApi().ask((method, PREFIX + path, raw), **sized)
    return answer


@pytest.mark.parametrize("operation", NO_COUNTERPART, ids=lambda one: f"{one.method} {one.path}")
def test_what_has_no_counterpart_is_said_in_a_line(operation: Any) -> None:
    answer = ask(operation.method, operation.path.removeprefix("/api"))
    assert answer.status == 501
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body.decode() == operation.summary


def test_a_slash_at_the_end_of_a_path_says_nothing() -> None:
    for path in ("/popular", "/popular/", "/popular/lamps", "/popular/lamps/"):
        assert (ask("GET", path).status, ask("GET", path).document) == (200, [])
    assert ask("GET", "/users/").status == 501
    assert ask("GET", "/dashboard/cluster").status == 501
    assert ask("PATCH", "/popular").status == 501


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("n=0", "n: 0: expected 1 or more"),
        ("n=60&offset=60", "n: 60: expected at most 100 together with offset"),
        ("n=ten", "n: 'ten': Expected `int`"),
        ("n=3&n=4", "n: ['3', '4']: Expected `int`"),
        ("offset=-1", "offset: -1: expected 0 or more"),
    ],
)
def test_a_page_that_cannot_be_is_named(query: str, words: str) -> None:
    for path in ("/popular", "/recommend/ann", "/item/a/neighbors"):
        answer = ask("GET", f"{path}?{query}")
        assert answer.status == 400
        assert answer.body.decode().startswith(words)


def test_feedback_that_kafka_does_not_take_is_to_be_sent_again() -> None:
    answer = ask("POST", "/feedback", [{"FeedbackType": "read", "UserId": "ann", "ItemId": "a"}])
    assert answer.status == 503
    assert "send it again" in answer.body.decode()


@pytest.mark.parametrize("raw", [b"", b"{", b"[{]", b"[]]", b'["a"]', b"null", b'{"a": 1}'])
def test_what_is_no_feedback_is_refused(raw: bytes) -> None:
    sized = {"content-length": str(len(raw) or 1)}
    (answer,) = OfflineApi().ask(("POST", f"{PREFIX}/feedback", raw), **sized)
    assert answer.status == 400, answer.body
    assert "feedback" in answer.body.decode() or "JSON" in answer.body.decode()


def test_an_item_comes_back_as_it_was_put() -> None:
    said = decode(GorsePatch, json.dumps(LAMP).encode())
    item = decode(Item, json.dumps(make_item("lamp-7", said)).encode())
    assert item.category == ["lighting"]
    assert item.attributes["tags.new"] is True
    found = describe_item(item)
    assert found == {"ItemId": "lamp-7", **LAMP, "Labels": {"material": "tin", "tags.new": True}}


LAMP = {
    "IsHidden": False,
    "Categories": ["lighting"],
    "Timestamp": "2022-02-24T00:00:00Z",
    "Labels": {"material": "tin", "tags": ["new"]},
    "Comment": "Desk lamp",
}


def test_what_is_said_of_an_item_replaces_that_alone() -> None:
    known = Item(item_id="a", title="Old", category=["x"], attributes={"c": 1}, brand="B", price=3)
    made = make_item("a", GorsePatch(is_hidden=True), known)
    assert made["available"] is False
    assert {**made, "available": True} == make_item("a", GorsePatch(), known)
    assert make_item("a", GorsePatch(labels=["new"]), known)["attributes"] == {"new": True}
    assert make_item("a", GorsePatch(comment="x" * 2000))["description"] == "x" * 2000


def test_labels_that_no_attribute_can_be_are_named() -> None:
    with pytest.raises(EventError, match=r"Labels.vector: 0.5: expected texts in a list"):
        dict(flatten("Labels", {"vector": [0.5, 0.25]}))
    with pytest.raises(EventError, match="Labels: 'tall': expected a list"):
        dict(flatten("Labels", "tall"))


@pytest.mark.parametrize("value", ["today", "12", "2022-13-01", "99999-01-01", "²022020202"])
def test_a_time_that_is_none_is_named(value: str) -> None:
    with pytest.raises(EventError, match=r"Timestamp: '.*': expected a time of ISO 8601"):
        read_time_ms(value, "Timestamp")


def test_aliases_are_of_registered_events() -> None:
    aliases = EventAliases(["star=purchase", "read=click", "like=click"])
    assert [aliases.event_of(name, "type") for name in ("star", "like", "click")] == [
        "purchase",
        "click",
        "click",
    ]
    # Several types became clicks: which of them it was cannot be told any more.
    assert [aliases.name_of(event) for event in ("purchase", "click")] == ["star", "click"]
    assert [aliases.kept_as(name, "type") for name in ("star", "rating", "dislike")] == [
        "purchase",
        "click",
        "",
    ]
    with pytest.raises(SettingsError, match=r"api.event_aliases: star=buy: no such event"):
        EventAliases(["star=buy"])
