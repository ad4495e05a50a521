"""The published interface is the code's."""

from __future__ import annotations

import json
from pathlib import Path

from features.asyncapi import list_channels, make_document
from features.topics import list_topics

PUBLISHED = Path(__file__).parents[3] / "docs" / "reference" / "asyncapi.json"


def test_the_published_document_is_what_the_code_says() -> None:
    assert json.loads(PUBLISHED.read_text()) == make_document(), "run `headwater schema` into docs/"


def test_every_topic_is_described() -> None:
    assert (
        {topic.name for topic in list_topics()}
        == set(list_channels())
        == set(make_document()["channels"])
    )


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(make_document())
    for part in text.split('"$ref": "')[1:]:
        found = make_document()
        for name in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[name]


def test_required_fields_stay_required() -> None:
    required = make_document()["components"]["schemas"]["Click"]["required"]
    assert required == ["event_id", "user_id", "item_id", "timestamp"]
