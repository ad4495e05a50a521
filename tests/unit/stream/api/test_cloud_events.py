"""CloudEvents become events of the contract, and what is wrong is named as they have it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from headwater_client import Click, EventError, Purchase
from headwater_client.operations import CLOUD_EVENT, CLOUD_EVENTS

from features.settings import EventSettings
from stream.api.cloud_events import is_cloud, read_cloud_event, split_cloud_events
from stream.api.intake import EventIntake
from tests.harness.http_api import OfflineApi

NOW_MS = 1_795_000_000_000
SENT = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/shop",
    "type": "com.example.shop.click",
    "subject": "ann",
    "time": "2026-11-18T10:13:20.5Z",
    "data": {"item_id": "lamp-7", "context": {"device": "phone"}},
}
CLICK = Click(
    event_id="e1",
    user_id="ann",
    item_id="lamp-7",
    timestamp=1_794_996_800_500,
    context={"device": "phone"},
)


def read(headers: dict[str, str], body: bytes) -> list[Any]:
    intake = EventIntake(EventSettings(), clock=lambda: NOW_MS)
    assert is_cloud(headers)
    return [read_cloud_event(intake, raw) for raw in split_cloud_events(headers, body)]


def read_one(**changes: Any) -> Any:
    sent = {name: value for name, value in (SENT | changes).items() if value is not None}
    (event,) = read({"content-type": CLOUD_EVENT}, json.dumps(sent).encode())
    return event


def test_structured_and_batched_events_are_read() -> None:
    assert read_one() == CLICK
    bought = SENT | {"type": "purchase", "data": {"item_id": "lamp-7", "price": 2.5}}
    kind = {"content-type": f"{CLOUD_EVENTS}; charset=utf-8"}
    one, two = read(kind, json.dumps([SENT, bought]).encode())
    assert one == CLICK
    assert isinstance(two, Purchase)
    assert two.price == 2.5


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
def test_what_the_official_library_sends_is_read(write: Any) -> None:
    attributes: dict[str, Any] = {"source": "/shop", "type": "click", "id": "é 1"}
    attributes |= {"subject": "ann/é", "time": datetime.fromtimestamp(NOW_MS / 1000, UTC)}
    event = CloudEvent({**attributes, "specversion": "1.0", "datacontenttype": "application/json"})
    event = CloudEvent(event.get_attributes(), {"item_id": "lamp-7"})
    message = write(event)
    headers = {name.lower(): value for name, value in message.headers.items()}
    (found,) = read(headers, message.body)
    assert (found.event_id, found.user_id, found.item_id) == ("é 1", "ann/é", "lamp-7")
    assert found.timestamp == NOW_MS


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"specversion": "0.3"}, "specversion", "Invalid enum value '0.3'"),
        ({"id": None}, "id", "is required"),
        ({"source": ""}, "source", "length >= 1"),
        ({"subject": None}, "subject", "is required"),
        ({"type": "com.example.look"}, "type", "expected one of click"),
        ({"time": "yesterday"}, "time", "RFC3339"),
        ({"time": "2026-11-18T10:13:20"}, "time", "timezone"),
        ({"time": "1950-01-01T00:00:00Z"}, "time", "since 1973-03-03T09:46:40"),
        ({"time": "2030-01-01T00:00:00Z"}, "time", "in the future"),
        ({"data": {}}, "data.item_id", "is required"),
        ({"data": {"item_id": "a", "price": -1}}, "data.price", ">= 0"),
        ({"data": [1]}, "data", "Expected `object`, got `array`"),
        ({"data": {"item_id": "a", "user_id": "bob"}}, "data.user_id", "that of `subject`"),
        ({"data": {"item_id": "a", "timestamp": 7}}, "data.timestamp", "that of `time`"),
    ],
)
def test_what_is_wrong_is_named_as_the_event_has_it(
    changes: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(EventError, match=expected) as refusal:
        read_one(**changes)
    assert refusal.value.field == field


def test_what_repeats_an_attribute_is_no_fault() -> None:
    data = {"item_id": "lamp-7", "event_id": "e1", "user_id": "ann", "context": {"device": "phone"}}
    assert read_one(data=data) == CLICK


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"content-type": CLOUD_EVENT}, b"[]", f"expected one, or Content-Type: {CLOUD_EVENTS}"),
        ({"content-type": CLOUD_EVENTS}, b"{}", f"expected a batch, or .*{CLOUD_EVENT}"),
        ({"content-type": CLOUD_EVENTS}, b"[]", "expected 1 to 1000"),
        ({"content-type": "application/json", "ce-id": "a"}, b"", "data: .*a JSON object"),
        ({"content-type": "application/json", "ce-id": "a"}, b'1,"x":2', "data: .*a JSON object"),
    ],
)
def test_a_body_is_what_its_headers_say(
    headers: dict[str, str], body: bytes, expected: str
) -> None:
    with pytest.raises(EventError, match=expected.replace("+", r"\+")):
        read(headers, body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": CLOUD_EVENT}, SENT | {"type": "look"}),
        ({"content-type": CLOUD_EVENTS}, [SENT | {"type": "look"}]),
        (
            {f"ce-{name}": str(value) for name, value in SENT.items() if name != "data"}
            | {"ce-type": "look"},
            SENT["data"],
        ),
    ],
)
def test_the_service_reads_each_mode(headers: dict[str, str], body: Any) -> None:
    request = ("POST", "/v1/events", json.dumps(body).encode())
    (answer,) = OfflineApi().ask(request, **headers)
    assert (answer.status, answer.document["field"]) == (400, "type")
    # Only events come in this way.
    other = ("POST", "/v1/rank", json.dumps({"items": ["a"]}).encode())
    (refused,) = OfflineApi().ask(other, **{"content-type": CLOUD_EVENT})
    assert refused.status == 415
