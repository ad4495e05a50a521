"""The event contract: what is refused names the field and the value."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from headwater_client.errors import EventError
from headwater_client.events import MAX_FUTURE_MS, Click, DeadLetter, Item, Purchase, decode, encode

NOW_MS = 1_700_000_000_000
GOOD: dict[str, Any] = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "timestamp": NOW_MS}


def raw(**changed: Any) -> bytes:
    return json.dumps(GOOD | changed).encode()


def test_a_good_click_is_read_whole() -> None:
    click = decode(Click, raw(price=1.5, context={"page": "home"}), NOW_MS)
    assert click == Click(**GOOD, price=1.5, context={"page": "home"})
    assert decode(Click, encode(click), NOW_MS) == click


def test_unknown_optional_fields_are_ignored_so_that_the_schema_can_grow() -> None:
    assert decode(Purchase, raw(colour="red"), NOW_MS).quantity == 1


@pytest.mark.parametrize(
    ("changed", "field", "value"),
    [
        ({"event_id": ""}, "event_id", "''"),
        ({"user_id": "u" * 257}, "user_id", "uuu"),
        ({"user_id": 7}, "user_id", "7"),
        ({"item_id": None}, "item_id", "None"),
        ({"timestamp": "yesterday"}, "timestamp", "yesterday"),
        ({"timestamp": NOW_MS // 1000}, "timestamp", str(NOW_MS // 1000)),
        ({"timestamp": -1}, "timestamp", "-1"),
        ({"timestamp": 1.5}, "timestamp", "1.5"),
        ({"timestamp": NOW_MS + MAX_FUTURE_MS + 1}, "timestamp", str(NOW_MS + MAX_FUTURE_MS + 1)),
        ({"price": float("nan")}, "price", "nan"),
        ({"price": float("inf")}, "price", "inf"),
        ({"price": -0.01}, "price", "-0.01"),
        ({"quantity": 0}, "quantity", "0"),
        ({"position": -1}, "position", "-1"),
        ({"context": {"dwell": float("nan")}}, "context.dwell", "nan"),
        ({"context": {"tags": [1]}}, "context", "[1]"),
    ],
)
def test_a_bad_value_is_refused_by_name(changed: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(EventError) as refused:
        decode(Click, raw(**changed), NOW_MS)
    assert refused.value.field.startswith(field)
    assert value in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_missing_required_field_is_named(field: str) -> None:
    with pytest.raises(EventError, match=f"^{field}: <missing>"):
        decode(Click, json.dumps({k: v for k, v in GOOD.items() if k != field}).encode(), NOW_MS)


@pytest.mark.parametrize(
    "junk", [None, b"", b"{", b"[]", b"null", b"\xff\xfe", b"not json", b"[" * 100_000, b'"a"']
)
def test_what_is_no_object_is_refused(junk: bytes | None) -> None:
    with pytest.raises(EventError, match=r"^<message>"):
        decode(Click, junk, NOW_MS)


def test_an_event_a_little_ahead_of_the_clock_is_taken() -> None:
    assert decode(Click, raw(timestamp=NOW_MS + MAX_FUTURE_MS), NOW_MS)


def test_an_item_has_no_time_to_check() -> None:
    assert decode(Item, b'{"item_id": "i"}') == Item(item_id="i")


def test_a_dead_letter_keeps_raw_bytes_that_are_no_text() -> None:
    letter = DeadLetter(
        raw=b"\xff\x00", topic="clicks", partition=1, offset=2, reason="x", refused_time=3
    )
    assert msgspec.json.decode(encode(letter), type=DeadLetter) == letter
