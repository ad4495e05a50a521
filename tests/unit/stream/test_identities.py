"""What the topic `identities` may hold, and what becomes of the rest; and of circles of merges."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from headwater_client import EventError, encode
from headwater_client.identities import Erasure, HandOver, Merge, key_of
from headwater_client.topics import IDENTITIES

from features.merging import make_hand_over, mark_merged
from features.rows import apply_event, empty_user, observation
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.topics import source_hash
from stream.identities import IdentityReader
from tests.harness.builders import START_MS, click
from tests.harness.identity_log import IdentityLog

SCHEMA = FeatureSchema(FeatureSettings())
MERGE = Merge(merge_id="m", guest="guest", member="ann")
PLACES = {"ann": 0, "bob": 1, "eve": 2}


def refuse_nobody(person: str, field: str) -> None:
    if person == "anon":
        raise EventError(field, person, "stands for nobody")


READER = IdentityReader(SCHEMA, refuse_nobody)


def hand_over() -> HandOver:
    row = empty_user(SCHEMA)
    seen = observation(click("guest", "i1"), source_hash("t", 0), 0)
    apply_event(row, seen, SCHEMA)
    mark_merged(row, MERGE, START_MS)
    assert row.merges
    assert row.merges.into
    return make_hand_over(row.merges.into, SCHEMA)


def test_what_workers_send_they_read() -> None:
    for message in (MERGE, hand_over(), Erasure(erasure_id="e", user_id="ann")):
        told, _ = READER.read(key_of(message).encode(), encode(message))
        assert told == message


@pytest.mark.parametrize(
    ("key", "said", "field"),
    [
        (b"guest", {"member": "guest"}, "member"),
        (b"ann", {}, "<key>"),
        (None, {}, "<key>"),
        (b"anon", {"guest": "anon"}, "guest"),
        (b"guest", {"member": "anon"}, "member"),
        (b"guest", {"member": "x" * 257}, "member"),
        (b"guest", {"type": "marriage"}, "type"),
        (b"guest", {"merge_id": None}, "merge_id"),
    ],
)
def test_a_merge_that_cannot_be_is_refused_by_its_field(
    key: bytes | None, said: dict[str, Any], field: str
) -> None:
    document = {"type": "merge", "merge_id": "m", "guest": "guest", "member": "ann"}
    with pytest.raises(EventError) as refused:
        READER.read(key, encode(document | said))
    assert refused.value.field == field


def test_a_row_that_is_none_or_of_other_settings_is_refused() -> None:
    good = hand_over()
    other = IdentityReader(FeatureSchema(FeatureSettings(history_length=9)), refuse_nobody)
    with pytest.raises(EventError, match="features"):
        other.read(b"ann", encode(good))
    document = {"type": "hand-over", "merge_id": "m", "user_id": "ann", "guest": "guest"}
    document |= {"features": SCHEMA.row_mark, "arrived_time": 1}
    for row in ({"offsets": "AAAA"}, {"counters": "//8="}, {"elsewhere": ""}):
        with pytest.raises(EventError, match=r"row"):
            READER.read(b"ann", encode({**document, "row": {"offsets": "KgA=", **row}}))


@pytest.mark.parametrize("circle", [["ann", "bob"], ["bob", "ann"], ["ann", "bob", "eve"]])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_circle_ends_and_each_event_counts_once(circle: list[str], at_once: bool) -> None:
    async def run() -> IdentityLog:
        log = IdentityLog(SCHEMA, [], PLACES)
        for second, person in enumerate(circle):
            log.send(click(person, "i1", second))
        await log.drain()
        for guest, member in pairwise([*circle, circle[0]]):
            log.send(Merge(merge_id=guest, guest=guest, member=member))
            if not at_once:
                await log.drain()
        await log.drain()
        for second, person in enumerate(circle, 10):
            log.send(click(person, "i2", second))
        await log.drain()
        return log

    log = asyncio.run(run())
    first = "ann" if at_once else circle[-1]
    rows = {person: log.row(person) for person in circle}
    assert rows[first].counters[SCHEMA.user_counters // 2 - 1] == 2 * len(circle)
    assert rows[first].merges
    assert rows[first].merges.into is None
    for person in set(circle) - {first}:
        mine = rows[person].merges
        assert mine
        assert mine.into
    assert len(log.messages[IDENTITIES, 0]) < 40, "it goes round for ever"
