"""Logs of Gorse and Metarank: each row is an event, of an item, refused or skipped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from headwater_client.errors import DataError
from headwater_client.events import PersonAttributes

from deploy.jobs.foreign_logs import read_gorse, read_metarank
from deploy.jobs.gorse_dump import _FEEDBACK, _ITEMS, _USERS, _make_classes
from features.settings import EventSettings
from stream.api.compat.values import EventAliases
from trainer.datasets import Log

ALIASES = EventAliases(["read=click", "star=purchase"])
NEW_YEAR_MS = 1_640_995_200_000


def from_gorse(path: Path) -> Log:
    return read_gorse(path, EventSettings(), ALIASES).log


def from_metarank(path: Path) -> Log:
    return read_metarank(path, EventSettings(), ALIASES).log


def lines(*rows: Any) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows) + b"\n"


def feedback(kind: str, person: str, item: str, time: str = "2022-01-01T00:00:00Z") -> Any:
    return {"FeedbackType": kind, "UserId": person, "ItemId": item, "Timestamp": time}


def summarise_events(log: Log) -> Sequence[tuple[str, str, str, int]]:
    return [
        (type(event).__name__, event.user_id, event.item_id, event.timestamp)
        for event in log.events
    ]


def test_each_row_of_gorses_exports_is_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").write_bytes(
        lines({"UserId": "ann", "Labels": ["tall"], "Comment": "Ann"}, {"UserId": ""})
    )
    items = gzip.compress(
        lines(
            {"ItemId": "a", "IsHidden": False, "Labels": None, "Comment": "Old"},
            {"ItemId": "a", "IsHidden": True, "Categories": ["x"], "Comment": "New"},
            {"ItemId": "b", "Labels": {"vector": [1.5]}},
        )
    )
    (tmp_path / "items.jsonl.gz").write_bytes(items)
    (tmp_path / "feedback.jsonl").write_bytes(
        lines(
            feedback("star", "ann", "a", "2022-01-02T00:00:00.123456789Z"),
            feedback("read", "ann", "a"),
            feedback("read", "ann", "a"),
            feedback("smell", "ann", "a"),
            feedback("read", "", "a"),
            feedback("read", "ann", "a", "0001-01-01T00:00:00Z"),
            ["no", "row"],
        )
        + b"{broken\n\n"
    )
    (tmp_path / "notes.txt").write_text("of somebody")
    log = from_gorse(tmp_path)
    assert summarise_events(log) == [
        ("Click", "ann", "a", NEW_YEAR_MS),
        ("Purchase", "ann", "a", NEW_YEAR_MS + 86_400_123),
    ]
    (item,) = log.items
    assert (item.title, item.available, item.category) == ("New", False, ["x"])
    counts = log.counts
    assert (counts.rows, counts.events, counts.items, counts.refused) == (13, 2, 1, 7)
    assert (counts.people, sum(counts.skipped.values())) == (1, 2)
    (ann,) = read_gorse(tmp_path, EventSettings(), ALIASES).people
    assert ann == PersonAttributes(user_id="ann", attributes={"tall": True, "Comment": "Ann"})
    assert [(row.table, row.row) for row in log.refused] == [
        ("feedback.jsonl", 4),
        ("feedback.jsonl", 5),
        ("feedback.jsonl", 6),
        ("feedback.jsonl", 7),
        ("feedback.jsonl", 8),
        ("items.jsonl.gz", 3),
        ("users.jsonl", 2),
    ]
    assert "FeedbackType: 'smell': expected one of" in log.refused[0].reason
    assert "Labels.vector: 1.5: expected texts" in log.refused[-2].reason


def test_the_same_log_is_the_same_events_whatever_it_is_written_as(tmp_path: Path) -> None:
    as_json, as_table, as_dump = (tmp_path / name for name in ("a.jsonl", "a.csv", "a.bin"))
    as_json.write_bytes(lines(feedback("read", "ann", "a"), feedback("star", "bob", "b")))
    as_table.write_text(
        "feedback_type,user_id,item_id,time_stamp\r\n"
        "read,ann,a,2022-01-01 00:00:00 +0000 UTC\r\n"
        "star,bob,b,2022-01-01 00:00:00 +0000 UTC\r\n"
    )
    rows = [("read", "ann", "a"), ("star", "bob", "b")]
    as_dump.write_bytes(dump([], [], rows))
    first, *others = [from_gorse(path) for path in (as_json, as_table, as_dump)]
    assert [event.event_id for event in first.events] == [
        event.event_id for event in from_gorse(as_json).events
    ]
    for other in others:
        assert other.events == first.events


def test_gorses_tables_have_quotes_and_labels(tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text(
        "item_id,is_hidden,categories,time_stamp,labels,description\r\n"
        '1,false,x|y,2021-01-01 01:01:01.000000001 +0000 UTC,"{""genre"":[""noir""]}",'
        '"o,n\r\ne"\r\n'
        '2,true,,0001-01-01 00:00:00 +0000 UTC,a|b,"""three"""\r\n'
    )
    one, two = from_gorse(table).items
    assert (one.category, one.title, one.available) == (["x", "y"], "o,n\r\ne", True)
    assert one.attributes == {"genre.noir": True, "Timestamp": "2021-01-01T01:01:01Z"}
    assert (two.attributes, two.title, two.available) == ({"a": True, "b": True}, '"three"', False)
    table.write_text("a,b\r\n1,2\r\n")
    with pytest.raises(DataError, match="its first line is no heading of Gorse's: a, b"):
        from_gorse(table)


def dump(people: Sequence[str], items: Sequence[str], told: Sequence[tuple[str, ...]]) -> bytes:
    """A dump as Gorse writes one."""
    classes = _make_classes()

    def part(kind: int, rows: Sequence[Any]) -> bytes:
        raws = [row.SerializeToString() for row in rows]
        return pack("<q", kind) + b"".join(pack("<q", len(raw)) + raw for raw in raws)

    seconds = NEW_YEAR_MS // 1000
    described = []
    for name in items:
        row = classes[_ITEMS](ItemId=name, Labels=b'["new"]', Comment=f"Item {name}")
        row.Categories.append("x")
        row.Timestamp.seconds = -62_135_596_800
        described.append(row)
    happened = []
    for kind, person, item in told:
        row = classes[_FEEDBACK](FeedbackType=kind, UserId=person, ItemId=item)
        row.Timestamp.seconds = seconds
        happened.append(row)
    return b"".join(
        [
            part(_USERS, [classes[_USERS](UserId=name, Labels=b"null") for name in people]),
            part(_ITEMS, described),
            part(_FEEDBACK, happened),
            pack("<q", 0),
            b'{"Users":1}',
        ]
    )


def test_a_dump_of_gorse_is_read_to_its_end(tmp_path: Path) -> None:
    path, whole = tmp_path / "dump", dump(["ann"], ["a"], [("read", "ann", "a")])
    path.write_bytes(gzip.compress(whole))
    log = from_gorse(path)
    assert summarise_events(log) == [("Click", "ann", "a", NEW_YEAR_MS)]
    assert log.items[0].attributes == {"new": True}
    assert (log.counts.rows, log.counts.items, log.counts.people) == (3, 1, 1)
    end = whole.index(b'{"Users"')
    for cut in range(9, end, 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="it ends"):
            from_gorse(path)
    path.write_bytes(whole[:8] + pack("<q", -9))
    with pytest.raises(DataError, match="byte 8: -9: no part of a dump"):
        from_gorse(path)


def test_each_event_of_metarank_is_accounted_for(tmp_path: Path) -> None:
    item = {"event": "item", "id": "1", "timestamp": "1640995200000", "item": "a"}
    act = {"event": "interaction", "id": "2", "timestamp": "2022-01-01T00:00:00Z", "item": "a"}
    (tmp_path / "events.jsonl.gz").write_bytes(
        gzip.compress(
            lines(
                {**act, "type": "read", "user": "ann", "session": "s", "ranking": "r7"},
                {
                    **act,
                    "type": "star",
                    "session": "s1",
                    "id": "3",
                    "fields": [
                        {"name": "price", "value": 2.5},
                        {"name": "quantity", "value": 2},
                        {"name": "shipping", "value": ["a", "b"]},
                    ],
                },
                {**act, "type": "read", "id": "4"},
                {**act, "type": "smell", "user": "ann", "id": "5"},
                {
                    **item,
                    "fields": [
                        {"name": "title", "value": "Cat"},
                        {"name": "color", "value": ["white", "black"]},
                    ],
                },
                {
                    **item,
                    "fields": [
                        {"name": "color", "value": ["red"]},
                        {"name": "category", "value": "pets"},
                    ],
                },
                {
                    "event": "user",
                    "id": "6",
                    "timestamp": 1,
                    "user": "ann",
                    "fields": [{"name": "age", "value": 33}, {"name": "likes", "value": ["cats"]}],
                },
                {
                    "event": "user",
                    "id": "6",
                    "timestamp": 2,
                    "user": "ann",
                    "fields": [{"name": "likes", "value": ["dogs"]}],
                },
                {"event": "ranking", "id": "7", "timestamp": 1, "items": [{"id": "a"}]},
                {"event": "look", "id": "8", "timestamp": 1},
            )
        )
    )
    log = from_metarank(tmp_path)
    assert summarise_events(log) == [
        ("Click", "ann", "a", NEW_YEAR_MS),
        ("Purchase", "s1", "a", NEW_YEAR_MS),
    ]
    click, purchase = log.events
    assert (click.event_id, click.session_id, click.recommendation_id) == ("2", "s", "r7")
    assert (purchase.price, purchase.quantity) == (2.5, 2)
    assert purchase.context == {"shipping": "a, b", "type": "star"}
    (cat,) = log.items
    assert (cat.title, cat.category, cat.attributes) == ("Cat", ["pets"], {"color.red": True})
    counts = log.counts
    assert (counts.rows, counts.events, counts.items, counts.refused) == (10, 2, 2, 3)
    assert (counts.people, sum(counts.skipped.values())) == (2, 1)
    (ann,) = read_metarank(tmp_path, EventSettings(), ALIASES).people
    assert ann.attributes == {"age": 33, "likes.dogs": True}
    assert "user: <missing>: is required, or session" in log.refused[0].reason


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        from_gorse(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no files in it that end in"):
        from_gorse(tmp_path)
    broken = tmp_path / "a.jsonl.gz"
    broken.write_bytes(gzip.compress(lines(feedback("read", "ann", "a")) * 1000)[:40])
    with pytest.raises(DataError, match=r"a.jsonl.gz: cannot be read: Compressed file ended"):
        from_gorse(broken)
