"""Events that come together: each read as it is written, one after the other."""

from __future__ import annotations

import json

import pytest
from headwater_client import EventError

from features.settings import EventSettings
from stream.api.intake import EventIntake, name_list, split_events

NOW_MS = 1_794_996_800_500
CLICK = {"type": "click", "user_id": "ann", "item_id": "lamp"}


def test_events_without_a_time_keep_their_order() -> None:
    intake = EventIntake(EventSettings(), clock=lambda: NOW_MS)
    raws = split_events(json.dumps([CLICK, CLICK | {"item_id": "sofa"}, CLICK]).encode())
    read = [intake.read(raw, ago_ms=len(raws) - 1 - at) for at, raw in enumerate(raws)]
    assert [event.timestamp for event in read] == [NOW_MS - 2, NOW_MS - 1, NOW_MS]
    told = intake.read(json.dumps(CLICK | {"timestamp": NOW_MS - 9}).encode(), ago_ms=5)
    assert told.timestamp == NOW_MS - 9, "its own time stands"


@pytest.mark.parametrize(
    "body",
    [b'[1],"events":[2]', b'[1],"x":1', b"[1] [2]", b"[1]}", b"[1", b"[" * 10_000],
)
def test_what_is_no_array_is_none_whatever_is_put_around_it(body: bytes) -> None:
    for read in (split_events, lambda raw: name_list("items", raw)):
        with pytest.raises(EventError) as refused:
            read(body)
        assert refused.value.field == "<message>"


def test_an_array_is_split_as_it_is_written() -> None:
    assert split_events(b' [ {"a": 1} , [2] ] ') == [b'{"a": 1}', b"[2]"]
    assert split_events(b'{"a": 1}') == [b'{"a": 1}']
    assert name_list("items", b"[1]") == b'{"items":[1]}'
