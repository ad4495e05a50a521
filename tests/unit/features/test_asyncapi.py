"""The published interface is the code's."""

from __future__ import annotations

import json
from pathlib import Path

from features.asyncapi import CHANNELS, document
from features.topics import TOPICS

PUBLISHED = Path(__file__).parents[3] / "docs" / "reference" / "asyncapi.json"


def test_the_published_document_is_what_the_code_says() -> None:
    assert json.loads(PUBLISHED.read_text()) == document(), "run `headwater schema` into docs/"


def test_every_topic_is_described() -> None:
    assert {topic.name for topic in TOPICS} == set(CHANNELS) == set(document()["channels"])


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    for part in text.split('"$ref": "')[1:]:
        found = document()
        for name in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[name]


def test_required_fields_stay_required() -> None:
    required = document()["components"]["schemas"]["Click"]["required"]
    assert required == ["event_id", "user_id", "item_id", "timestamp"]
