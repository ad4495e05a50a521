"""The published protocol buffers are the code's, and stay readable to who has older ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from headwater_client import EventError

from stream.api import headwater_pb2
from stream.api.messages import message_class, read_message
from stream.api.proto import Numbers, make_proto, read_numbers

ROOT = Path(__file__).parents[4]
PUBLISHED = ROOT / "docs" / "reference" / "headwater.proto"
MADE = ROOT / "stream" / "api" / "headwater_pb2.py"


def test_the_published_document_is_what_the_code_says() -> None:
    made = make_proto(read_numbers(headwater_pb2.DESCRIPTOR))
    assert made == PUBLISHED.read_text(), "run `headwater schema --grpc` into docs/, then protoc"


def test_the_messages_are_those_of_the_published_document(tmp_path: Path) -> None:
    words = ["-I", str(PUBLISHED.parent), "--python_out", str(tmp_path), PUBLISHED.name]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=True)
    command = "uv run python -m grpc_tools.protoc -I docs/reference --python_out stream/api"
    assert (tmp_path / MADE.name).read_text() == MADE.read_text(), (
        f"run `{command} headwater.proto`"
    )


def test_a_number_is_given_once() -> None:
    known = Numbers({"items": 1, "gone": 2, "person": 5}, reserved=[9])
    (message,) = (
        part for part in make_proto({"RankQuery": known}).split("\n\n") if " RankQuery {" in part
    )
    lines = [line.strip() for line in message.splitlines()]
    assert lines[2:7] == [
        "reserved 2, 9;",
        "repeated string items = 1;",
        "optional string person = 5;",
        "repeated Event events = 10;",
        "optional bool record = 11;",
    ]


def read(kind: str, document: Any) -> Any:
    message = message_class(kind)
    return read_message(message, json_format.ParseDict(document, message()).SerializeToString())


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("RecommendationQuery", {}),
        ("RecommendationQuery", {"limit": 0, "record": False, "min_offset": {"clicks/1": 2**40}}),
        ("RankQuery", {"items": ["a", ""], "events": [{"type": "click", "price": 2.5}, {}]}),
        ("Event", {"context": {"n": 12, "x": 1.5, "on": True, "at": "é", "none": None}}),
        ("ItemsQuery", {"items": [{"item_id": "a", "category": ["x"], "attributes": {"a": 1}}]}),
    ],
)
def test_a_message_is_read_as_json_would_be(kind: str, document: Any) -> None:
    assert read(kind, document) == document


@pytest.mark.parametrize(
    ("kind", "document", "field"),
    [
        ("ItemsQuery", {"items": [{"price": 1}, {"price": "NaN"}]}, "items[1].price"),
        ("RankQuery", {"events": [{"price": "-Infinity"}]}, "events[0].price"),
    ],
)
def test_what_json_has_not_is_refused(kind: str, document: Any, field: str) -> None:
    with pytest.raises(EventError, match="expected a finite number") as refusal:
        read(kind, document)
    assert refusal.value.field == field
    with pytest.raises(EventError, match="is no RankQuery"):
        read_message(message_class("RankQuery"), b"\xff\xff")
