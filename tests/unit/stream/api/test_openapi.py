"""The published document of the HTTP API is the code's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headwater_client import EVENT_TYPES

from stream.api.openapi import ALL_OPERATIONS, make_openapi

PUBLISHED = Path(__file__).parents[4] / "docs" / "reference" / "openapi.json"


def test_the_published_document_is_what_the_code_says() -> None:
    made = json.loads(json.dumps(make_openapi()))
    assert json.loads(PUBLISHED.read_text()) == made, "run `headwater schema --http` into docs/"


def test_every_reference_leads_somewhere() -> None:
    document = make_openapi()
    for part in json.dumps(document).split('"$ref": "')[1:]:
        found: Any = document
        for name in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[name]


def test_every_operation_is_described() -> None:
    named = {
        operation["operationId"]
        for methods in make_openapi()["paths"].values()
        for operation in methods.values()
    }
    assert named == {operation.name for operation in ALL_OPERATIONS}


def test_an_event_has_its_type_and_may_leave_out_what_is_filled_in() -> None:
    schemas = make_openapi()["components"]["schemas"]
    assert schemas["ClickEvent"]["required"] == ["type", "item_id"]
    assert schemas["Click"]["required"] == ["event_id", "user_id", "item_id", "timestamp"]
    assert set(schemas["Event"]["discriminator"]["mapping"]) == set(EVENT_TYPES)
