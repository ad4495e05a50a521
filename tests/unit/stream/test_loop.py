"""What the loop makes of a batch of messages, before and after the rows change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

from headwater_client.errors import EventError
from headwater_client.events import Click, Item, Purchase, encode
from prometheus_client import REGISTRY

from features.rows import UserRow, empty_user
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.topics import partition_of
from stream.app import RecordDecoder, _requests
from stream.row_updates import ConsumerRecord, RowChanges

SCHEMA = FeatureSchema(FeatureSettings())
NOW_MS = 1_700_000_000_000
SOURCES = {("clicks", 0): 11, ("purchases", 3): 12, ("items", 0): 13}


class DeadLetters:
    """Keeps what would be sent to the dead-letter topic."""

    def __init__(self) -> None:
        self.fields: list[str] = []

    async def send_to_dead_letter(self, event: object, error: EventError) -> None:
        self.fields.append(error.field)


def message(
    topic: str, partition: int, offset: int, value: bytes | None, key: bytes | None = None
) -> SimpleNamespace:
    """A message as Faust hands it over."""
    return SimpleNamespace(
        message=SimpleNamespace(
            topic=topic,
            partition=partition,
            offset=offset,
            key=key,
            value=value,
            timestamp=NOW_MS / 1000,
            headers=[],
        )
    )


def click(offset: int, user_id: str = "ann", time_ms: int = NOW_MS) -> Click:
    return Click(event_id=f"e{offset}", user_id=user_id, item_id="i", timestamp=time_ms)


def test_interactions_keep_their_order_and_name_their_place() -> None:
    bought = Purchase(event_id="p", user_id="bob", item_id="j", timestamp=NOW_MS)
    batch = [
        message("clicks", 0, 5, encode(click(5))),
        message("purchases", 3, 9, encode(bought)),
    ]
    decoder = RecordDecoder(SOURCES, DeadLetters())  # type: ignore[arg-type]
    assert asyncio.run(decoder.interactions(batch)) == [  # type: ignore[arg-type]
        ConsumerRecord(click(5), "clicks_0", 11, 5, NOW_MS),  # type: ignore[arg-type]
        ConsumerRecord(bought, "purchases_3", 12, 9, NOW_MS),  # type: ignore[arg-type]
    ]


def test_a_message_that_breaks_the_contract_is_a_dead_letter_and_the_others_count() -> None:
    letters = DeadLetters()
    decoder = RecordDecoder(SOURCES, letters)  # type: ignore[arg-type]
    late = encode(click(2, time_ms=NOW_MS + 10 * 3_600_000))
    batch = [
        message("clicks", 0, 0, b"{"),
        message("clicks", 0, 1, encode(click(1))),
        message("clicks", 0, 2, late),
    ]
    records = asyncio.run(decoder.interactions(batch))  # type: ignore[arg-type]
    assert [record.offset for record in records] == [1]
    assert len(letters.fields) == 2
    assert letters.fields[1] == "timestamp"


def test_of_several_messages_of_an_item_the_newest_counts() -> None:
    letters = DeadLetters()
    decoder = RecordDecoder(SOURCES, letters)  # type: ignore[arg-type]
    batch = [
        message("items", 0, 0, encode(Item(item_id="i", title="old")), b"i"),
        message("items", 0, 1, encode(Item(item_id="j")), b"i"),
        message("items", 0, 2, encode(Item(item_id="i", title="new")), b"i"),
        message("items", 0, 3, None, b"k"),
    ]
    updates = asyncio.run(decoder.item_updates(batch))  # type: ignore[arg-type]
    assert letters.fields == ["<key>"]
    assert set(updates) == {"i", "k"}
    assert updates["i"].item == Item(item_id="i", title="new")
    assert updates["i"][1:] == (13, 2, NOW_MS)
    assert updates["k"].item is None


def row_at(time_ms: int) -> UserRow:
    row = empty_user(SCHEMA)
    row.events.extend((time_ms, 1, 1))
    return row


def records(*clicks: Click) -> Sequence[ConsumerRecord]:
    return [
        ConsumerRecord(event, "clicks_0", 11, n, NOW_MS + n)  # type: ignore[arg-type]
        for n, event in enumerate(clicks)
    ]


def test_a_user_is_answered_once_a_batch_for_the_last_event() -> None:
    rows = {"ann": row_at(NOW_MS), "bob": row_at(NOW_MS)}
    batch = records(click(0), click(1, "bob"), click(2))
    requests = _requests(batch, RowChanges(rows, {}), 0)
    assert [(r.user_id, r.event and r.event.event_id) for r in requests] == [
        ("ann", "e2"),
        ("bob", "e1"),
    ]
    assert requests[0].row is rows["ann"]


def test_a_late_event_asks_at_the_time_of_the_newest_one() -> None:
    rows = {"ann": row_at(NOW_MS)}
    (late,) = _requests(records(click(0, time_ms=NOW_MS - 9_000)), RowChanges(rows, {}), 0)
    assert late.time_ms == NOW_MS
    (newest,) = _requests(records(click(0, time_ms=NOW_MS + 5)), RowChanges(rows, {}), 0)
    assert newest.time_ms == NOW_MS + 5


def test_an_event_that_arrived_too_long_ago_is_not_answered() -> None:
    rows = {"ann": row_at(NOW_MS), "bob": row_at(NOW_MS)}
    batch = records(click(0), click(1), click(2, "bob"))
    requests = _requests(batch, RowChanges(rows, {}), NOW_MS + 1)
    assert [(r.user_id, r.event and r.event.event_id) for r in requests] == [
        ("ann", "e1"),
        ("bob", "e2"),
    ]
    assert _requests(batch, RowChanges(rows, {}), NOW_MS + 3) == []


def test_a_request_says_where_its_event_stands_and_grows_with_every_event_of_the_row() -> None:
    row = empty_user(SCHEMA)
    batch = [
        ConsumerRecord(click(7), "clicks_0", 11, 7, NOW_MS),  # type: ignore[arg-type]
        ConsumerRecord(click(8), "further_types_0", 12, 0, NOW_MS),  # type: ignore[arg-type]
        ConsumerRecord(click(9), "clicks_0", 11, 9, NOW_MS),  # type: ignore[arg-type]
    ]
    places = []
    for record in batch:
        row.offsets[record.source] = record.offset
        (request,) = _requests([record], RowChanges({"ann": row}, {}), 0)
        assert request.place is not None
        places.append(request.place)
    assert [place[:3] for place in places] == [
        ("clicks", 0, 7),
        ("further_types", 0, 0),
        ("clicks", 0, 9),
    ]
    sequences = [place.sequence for place in places]
    assert sequences == sorted(set(sequences))


def test_what_lies_in_another_partition_than_its_persons_is_counted() -> None:
    name = "headwater_misplaced_events_total"

    def misplaced_counts() -> list[float]:
        labels = [{"topic": "clicks", "reason": reason} for reason in ("partition", "key")]
        return [REGISTRY.get_sample_value(name, label) or 0.0 for label in labels]

    before = misplaced_counts()
    sources = {("clicks", 0): 11, ("clicks", 1): 12}
    decoder = RecordDecoder(sources, DeadLetters())  # type: ignore[arg-type]
    home = {user: partition_of(user, 2) for user in ("ann", "bob", "eve")}
    batch = [
        message("clicks", home["ann"], 0, encode(click(0)), b"ann"),
        message("clicks", 1 - home["ann"], 1, encode(click(1)), b"ann"),
        message("clicks", 1 - home["bob"], 2, encode(click(2, "bob")), None),
        message("clicks", home["eve"], 3, encode(click(3, "eve")), b"a shop"),
    ]
    assert len(asyncio.run(decoder.interactions(batch))) == 4  # type: ignore[arg-type]
    assert [now - then for now, then in zip(misplaced_counts(), before, strict=True)] == [2, 1]


def test_an_event_that_was_answered_before_changes_rows_and_is_not_answered_again() -> None:
    batch = [message("clicks", 0, offset, encode(click(offset))) for offset in (4, 5)]
    decoder = RecordDecoder(SOURCES, DeadLetters(), answered={("clicks", 0): 5})  # type: ignore[arg-type]
    records = asyncio.run(decoder.interactions(batch))  # type: ignore[arg-type]
    assert [record.answered for record in records] == [True, False]
    rows = RowChanges({"ann": row_at(NOW_MS)}, {})
    assert _requests(records[:1], rows, 0) == []
    assert [each.event and each.event.event_id for each in _requests(records, rows, 0)] == ["e5"]
