"""Ids, numbers, times, types and folders as people have them."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from headwater_client.errors import DataError, SettingsError
from headwater_client.events import Click, Purchase

from features.settings import EventSettings
from trainer.datasets import ColumnMapping, DataSource, Log, examine_log, load_log, summarise_log
from trainer.datasets import mapping_from_options as mapping_of
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowLoader

NOON_MS = 1_714_564_800_000  # 2024-05-01 12:00 UTC
NAN = float("nan")
HEADING = "user_id,item_id,timestamp"


def read(path: Path, maps: Sequence[str] = (), types: Sequence[str] = ("click",)) -> Log:
    return load_log(DataSource(path.parent / "cache", path, mapping_of(maps, types)))


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
    return path


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    table: dict[str, Any] = {
        "user_id": [f"u{n}" for n in range(count)],
        "item_id": [f"i{n}" for n in range(count)],
        "timestamp": [NOON_MS + n for n in range(count)],
    }
    pq.write_table(pa.table(table | columns), path)
    return path


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([17850.0, NAN, None, 1e20]), ["17850", "100000000000000000000"]),
        (pa.array([1.5, float("inf"), -0.0, 2.0]), ["1.5", "0", "2"]),
        (pa.array([Decimal("17850.00"), None], pa.decimal128(10, 2)), ["17850"]),
        (pa.array([16777216, 2], pa.float32()), ["16777216", "2"]),
        (pa.array([1.0, 2.5], pa.float16()), ["1", "2.5"]),
        (pa.array([1.0, NAN, 2.0]).dictionary_encode(), ["1", "2"]),
        (pa.array(["a", "", None], pa.string_view()), ["a"]),
        (pa.array(["17850.0", "nan", "12"], pa.large_string()), ["17850", "12"]),
        (pa.array(["v1.0", "2.0"]), ["v1.0", "2.0"]),
        (pa.array([" 12 ", "12", "  "]), ["12", "12"]),
        (pa.array([7, 8], pa.int8()), ["7", "8"]),
    ],
)
def test_ids_are_the_same_in_any_coat(tmp_path: Path, column: Any, expected: list[str]) -> None:
    path = parquet(tmp_path / "log.parquet", user_id=column)
    log = read(path)
    assert [event.user_id for event in log.events] == expected
    assert {row.reason for row in log.refused} <= {"user_id: <missing>: is required"}
    assert len(log.events) + len(log.refused) == len(column)
    items = parquet(tmp_path / "items.parquet", item_id=column)
    assert [event.item_id for event in read(items).events] == expected


def test_an_id_that_stands_for_nobody_is_refused(tmp_path: Path) -> None:
    names = ["ann", "NULL", "unknown", " Anonymous ", "-1", "undefined", "0", "nobody"]
    rows = [f"{name},i1,{1_714_564_800 + n}" for n, name in enumerate(names)]
    path = text(tmp_path / "log.csv", HEADING, *rows)
    log = read(path)
    assert [event.user_id for event in log.events] == ["ann", "0", "nobody"]
    assert log.counts.refused == 5
    assert str(log.refused[0]).startswith("log.csv: row 2: user_id: 'NULL': stands for nobody")
    settings = EventSettings(nobody=frozenset({"0", "NOBODY "}))
    source = DataSource(tmp_path, path, ColumnMapping(constant_type="click"), settings)
    assert [event.user_id for event in load_log(source).events] == [n.strip() for n in names[:6]]


def test_what_programs_write_for_no_id_is_nobody(tmp_path: Path) -> None:
    """Hive and MySQL, workbooks, Go, JSON: as one person they would be the busiest of all."""
    names = ["\\N", "#N/A", "<nil>", "[object Object]", "{}", "\\N"]
    rows = [f"{name},i,{1_714_564_800 + n}" for n, name in enumerate([*names, "ann"])]
    log = read(text(tmp_path / "log.csv", HEADING, *rows))
    assert [event.user_id for event in log.events] == ["ann"]
    assert log.counts.refused == len(names)


@pytest.mark.parametrize(
    ("written", "maps", "expected"),
    [
        (["1,5", "1.234,56", "2"], [], [1.5, 1234.56, 2.0]),
        (["1.234", "1,5"], ["decimal=,"], [1234.0, 1.5]),
        (["1,234", "1.5"], ["decimal=."], [1234.0, 1.5]),
        (["1,234.56", "2"], [], [1234.56, 2.0]),
        (["1.5", "2", ""], [], [1.5, 2.0, None]),
        # Whole numbers say nothing of the comma; points do.
        (["12", "13", "12,50"], [], [12.0, 13.0, 12.5]),
        (["0,500", "12", "13"], [], [0.5, 12.0, 13.0]),
        (["1,234", "12.50", "9"], [], [1234.0, 12.5, 9.0]),
        (["1,234", "9"], ["decimal=."], [1234.0, 9.0]),
        (["\\N", "1.5"], [], [None, 1.5]),
    ],
)
def test_numbers_of_other_countries(
    tmp_path: Path, written: list[str], maps: list[str], expected: list[float]
) -> None:
    rows = [f"u;i;{1_714_564_800 + n};{price}" for n, price in enumerate(written)]
    path = text(tmp_path / "log.csv", "user_id;item_id;timestamp;price", *rows)
    assert [event.price for event in read(path, maps).events] == expected


def test_a_number_that_may_be_two_is_refused_and_said(tmp_path: Path) -> None:
    rows = [f'u{n},i,{1_714_564_800 + n},"{price}"' for n, price in enumerate(["1,234", "9"])]
    log = read(text(tmp_path / "log.csv", f"{HEADING},price", *rows))
    assert [(event.user_id, event.price) for event in log.events] == [("u1", 9.0)]
    (warning,) = (
        each for each in summarise_log(log, EventSettings()).warnings if "number" in each.name
    )
    assert (warning.name, warning.count) == ("numbers_not_read", 1)
    assert "such as '1,234'" in warning.text


@pytest.mark.parametrize("maps", [["rating=rating"], ["rating=rating", "decimal=,"]])
def test_a_rating_is_read_as_other_numbers_are(tmp_path: Path, maps: list[str]) -> None:
    rows = [f"u{n};i;{1_714_564_800};{rating}" for n, rating in enumerate(["5,0", "4", "4,5", ""])]
    log = read(text(tmp_path / "log.csv", "user_id;item_id;timestamp;rating", *rows), maps, ())
    assert [type(event) for event in log.events] == [Click, Purchase, Click, Click, Click]
    path = text(tmp_path / "odd" / "log.csv", f"{HEADING},rating", "u1,i,1714564800,5 stars")
    log = examine_log(DataSource(tmp_path, path, mapping_of(["rating=rating"], ())))
    assert str(log.refused[0]) == (
        "log.csv: row 1: rating: '5 stars': expected a number, or nothing"
    )


NOON = "2024-05-01 12:00"


@pytest.mark.parametrize(
    "written",
    [
        "2024-05-01 12:00:00 UTC",
        "Wed, 01 May 2024 12:00:00 GMT",
        "01/May/2024:14:00:00 +0200",
        "2024/05/01 12:00",
        "01.05.2024 12:00:00",
        "May 1, 2024 12:00 PM",
        "1 May 2024 12:00",
        "20240501120000",
        "45413.5",
        " 2024-05-01T12:00:00.000Z ",
        dt.datetime(2024, 5, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    ],
)
def test_times_are_read_in_any_form(tmp_path: Path, written: Any) -> None:
    path = parquet(tmp_path / "log.parquet", timestamp=[written])
    assert [event.timestamp for event in read(path).events] == [NOON_MS]


def test_days_are_read_in_any_form(tmp_path: Path) -> None:
    for written in ("2024-05-01", "01.05.2024", "20240501", "45413", "2024/05/01"):
        path = parquet(tmp_path / "log.parquet", timestamp=[written])
        assert read(path).events[0].timestamp == NOON_MS - 43_200_000, written


def test_clocks_of_a_zone_are_read_in_any_form(tmp_path: Path) -> None:
    for written in ("2024-05-01 14:00", "45413.583333333", "20240501140000", "01.05.2024 14:00"):
        path = parquet(tmp_path / "log.parquet", timestamp=[written])
        assert abs(read(path, ["time_zone=Europe/Paris"]).events[0].timestamp - NOON_MS) <= 1


def test_one_file_may_have_times_of_several_forms(tmp_path: Path) -> None:
    forms = ["2024-05-01 12:00", str(NOON_MS), "01.05.2024 12:00", "then", "", str(NOON_MS)]
    log = read(parquet(tmp_path / "log.parquet", timestamp=forms))
    assert [event.timestamp for event in log.events] == [NOON_MS] * 4
    assert [row.row for row in log.refused] == [4, 5]


def test_days_before_months_are_found_out_or_asked_for(tmp_path: Path) -> None:
    day_first = parquet(tmp_path / "a.parquet", timestamp=["24/12/2023", "01/02/2024 10:00"])
    assert [e.timestamp for e in read(day_first).events] == [1_703_376_000_000, 1_706_781_600_000]
    month_first = parquet(tmp_path / "b.parquet", timestamp=["12/24/2023", "02/01/2024"])
    assert [e.timestamp for e in read(month_first).events] == [1_703_376_000_000, 1_706_745_600_000]
    unclear = parquet(tmp_path / "c.parquet", timestamp=["01/02/2024", "03/04/2024"])
    with pytest.raises(DataError, match="timestamp: '01/02/2024'"):
        read(unclear)


@pytest.mark.parametrize(
    "written", [1e300, "1e400", 10**30, "9" * 5000, "0001-01-01", -1e18, "9999-12-31", True]
)
def test_a_time_that_is_none_is_refused_by_name(tmp_path: Path, written: Any) -> None:
    rows = [f"u,i,{value}" for value in (written, 1_714_564_800, 1_714_564_801)]
    log = read(text(tmp_path / "log.csv", HEADING, *rows))
    assert len(log.events) == 2
    assert log.refused[0].reason.startswith("timestamp: ")


def test_a_row_without_a_type_is_refused_or_skipped(tmp_path: Path) -> None:
    rows = ["u1,a,1714564800,View ", "u2,b,1714564801,", "u3,c,1714564802,buy"]
    path = text(tmp_path / "log.csv", f"{HEADING},type", *rows)
    types = ["view=click", "buy=purchase"]
    log = read(path, [], types)
    assert [type(event) for event in log.events] == [Click, Purchase]
    assert [row.row for row in log.refused] == [2]
    assert "--type =skip" in log.refused[0].reason
    log = read(path, [], [*types, "=skip"])
    assert (len(log.events), log.counts.refused) == (2, 0)
    assert dict(log.counts.skipped) == {"of a type that is skipped": 1}
    assert len(read(path, [], [*types, "=click"]).events) == 3
    with pytest.raises(DataError, match=r"'View ' is no known type: say --type View ="):
        read(path, [], ["buy=purchase", "=skip"])


def test_a_type_that_is_nan_is_missing(tmp_path: Path) -> None:
    log = read(
        text(tmp_path / "a.csv", f"{HEADING},type", "u,i,1714564800,view", "u,i,1,nan"),
        [],
        ["view=click"],
    )
    assert (log.counts.events, log.counts.refused) == (1, 1)


def test_the_same_file_name_every_night_counts_each_night(tmp_path: Path) -> None:
    monday = text(tmp_path / "mon" / "orders.csv", HEADING, "c1,A,1714564800", "c2,B,1714564801")
    tuesday = text(tmp_path / "tue" / "orders.csv", HEADING, "c1,C,1714651200", "c2,D,1714651201")
    ids = {event.event_id for path in (monday, tuesday) for event in read(path).events}
    assert len(ids) == 4
    assert read(monday) == read(monday)


def test_an_export_of_everything_says_only_the_new_rows_anew(tmp_path: Path) -> None:
    known = [f"c{n % 7},i{n},{1_714_564_800 + n}" for n in range(100)]
    first = read(text(tmp_path / "a.csv", HEADING, *known))
    second = read(text(tmp_path / "b.csv", HEADING, "c0,new,1714651200", *reversed(known)))
    before = {event.event_id for event in first.events}
    assert [e.item_id for e in second.events if e.event_id not in before] == ["new"]


def test_rows_that_say_the_same_in_one_file_are_two_events(tmp_path: Path) -> None:
    log = read(text(tmp_path / "a.csv", HEADING, *["c1,A,1714564800"] * 3))
    assert len({event.event_id for event in log.events}) == 3


def test_lines_of_an_order_each_count(tmp_path: Path) -> None:
    heading = "order_no,customer,sku,ordered_at,n"
    order = [f"O-1,c1,{sku},2024-05-01 12:00,1" for sku in "ABC"]
    maps = ["event=order_no", "user=customer", "item=sku", "time=ordered_at", "quantity=n"]
    path = text(tmp_path / "o.csv", heading, *order, "O-2,c1,D,2024-05-02 12:00,1")
    log = read(path, maps, ["purchase"])
    ids = [event.event_id for event in log.events]
    assert len(set(ids)) == 4
    assert ids[3] == "O-2"
    assert all(each.startswith("O-1/") for each in ids[:3])
    assert log.order_lines == 3
    assert any("3 rows have the event id of another row" in each for each in log.describe_rows())
    # In another order, and beside a file of the night after, they are the same events.
    text(tmp_path / "both" / "1.csv", heading, *reversed(order))
    text(tmp_path / "both" / "2.csv", heading, *order, "O-3,c2,A,2024-05-03 12:00,1")
    both = read(tmp_path / "both", maps, ["purchase"])
    assert {event.event_id for event in both.events} == {*ids[:3], "O-3"}


def test_an_event_that_is_there_twice_keeps_its_id(tmp_path: Path) -> None:
    path = text(tmp_path / "a.csv", f"{HEADING},event_id", *["c1,A,1714564800,e1"] * 2)
    log = read(path)
    assert [event.event_id for event in log.events] == ["e1", "e1"]
    assert log.order_lines == 0


def test_hidden_files_are_no_part_of_a_folder(tmp_path: Path) -> None:
    parquet(tmp_path / "part-0.parquet", user_id=["ann"])
    for name in (".part-0.parquet", ".~lock.parquet", "_events.parquet", "~$log.csv"):
        parquet(tmp_path / name, user_id=["ann"])
    (tmp_path / "._part-0.parquet").write_bytes(b"\0\0")
    log = read(tmp_path)
    assert len(log.events) == 1
    assert len(log.passed_over) == 5


def test_folders_of_partitions_are_read(tmp_path: Path) -> None:
    for day in ("2024-05-01", "2024-05-02"):
        parquet(tmp_path / f"date={day}" / "part.parquet", user_id=["ann", ""], item_id=[day, "x"])
    (tmp_path / "_SUCCESS").write_text("")
    log = read(tmp_path)
    assert [event.item_id for event in log.events] == ["2024-05-01", "2024-05-02"]
    assert [row.table for row in log.refused] == [
        "date=2024-05-01/part.parquet",
        "date=2024-05-02/part.parquet",
    ]
    parquet(tmp_path / "by" / "kind=buy%20it" / "x.parquet", user_id=["bob"])
    log = read(tmp_path / "by", ["type=kind"], ["buy it=purchase"])
    assert [type(event) for event in log.events] == [Purchase]


def test_our_own_windows_are_a_log(tmp_path: Path) -> None:
    events = [
        kind(event_id=f"e{n}", user_id=f"u{n % 5}", item_id="i", timestamp=NOON_MS + n * 60_000)
        for n, kind in enumerate([Click, Purchase] * 50)
    ]
    store = WindowStore(str(tmp_path / "windows"))
    list(WindowLoader("fingerprint", store, WindowSettings()).write(events))
    log = load_log(DataSource(tmp_path, tmp_path / "windows"))
    assert log.events == events


def test_a_table_that_is_none_of_events_is_named(tmp_path: Path) -> None:
    text(tmp_path / "events.csv", HEADING, "u1,a,1714564800")
    text(tmp_path / "category_tree.csv", "categoryid,parentid", "1,2")
    with pytest.raises(DataError, match=r"category_tree.csv: no column .* name one file with"):
        read(tmp_path)


def test_a_folder_without_tables_says_what_is_there(tmp_path: Path) -> None:
    text(tmp_path / "log.xlsx", "")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match=r"no \.csv, .* file in it, only log\.xlsx, sub"):
        read(tmp_path)


def test_movielens_10m_is_utf_8_and_1m_is_latin_1(tmp_path: Path) -> None:
    for encoding in ("utf-8", "latin-1"):
        (tmp_path / "ratings.dat").write_text("1::7::5::838985046\n")
        content = "7::Amélie (2001)::Comedy\n8::A\ttab: x (1995)::Drama|War\n"
        (tmp_path / "movies.dat").write_bytes(content.encode(encoding))
        log = load_log(DataSource(tmp_path, tmp_path))
        assert [item.title for item in log.items] == ["Amélie", "A\ttab: x"]
        assert [event.event_id for event in log.events] == ["ml-1m/1", "ml-1m/1/purchase"]
        assert (log.counts.rows, log.counts.events, log.counts.items) == (3, 1, 2)


def test_a_mapping_file_may_have_a_mark_of_its_encoding(tmp_path: Path) -> None:
    text(tmp_path / "log.csv", "who,item_id,timestamp", "u1,a,1714564800")
    content = 'user = "who"\nconstant_type = "click"\n'
    (tmp_path / "mapping.toml").write_bytes(content.encode("utf-8-sig"))
    assert len(load_log(DataSource(tmp_path, tmp_path)).events) == 1
    (tmp_path / "mapping.toml").write_bytes(content.encode("utf-16"))
    with pytest.raises(SettingsError, match=r"mapping\.toml: is UTF-16: save it as UTF-8"):
        load_log(DataSource(tmp_path, tmp_path))


def test_items_of_their_own_table_are_counted_and_their_repeats(tmp_path: Path) -> None:
    text(tmp_path / "log.csv", HEADING, "u1,a,1714564800", "u2,b,then")
    text(tmp_path / "items.csv", "item_id,title", "a,Old", "b,B", "a,New", ",nameless")
    log = read(tmp_path, ["items_file=items.csv"])
    assert [item.title for item in log.items] == ["New", "B"]
    counts = log.counts
    assert (counts.rows, counts.events, counts.items, counts.refused) == (6, 1, 2, 2)
    assert dict(counts.skipped) == {"of an item that a later row describes": 1}


def test_what_is_wrong_with_an_item_does_not_cost_its_event(tmp_path: Path) -> None:
    path = text(tmp_path / "a.csv", f"{HEADING},title", f"u1,a,1714564800,{'x' * 2000}")
    log = read(path)
    assert (log.counts.rows, log.counts.events, log.counts.refused) == (1, 1, 0)
    assert [row.is_counted for row in log.refused] == [False]


ODD_COLUMNS = [
    pa.array([b"\xff", None]),
    pa.array([[1, 2], None]),
    pa.array([["a", None], []]),
    pa.array([{"a": 1}, None]),
    pa.nulls(2),
    pa.array([True, None]),
    pa.array([dt.timedelta(1), None]),
    pa.array([dt.time(1), None]),
    pa.array([dt.date(2024, 5, 1), None]),
    pa.array([dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC), None]),
    pa.array([1e300, NAN]),
    pa.array([2**63, None], pa.uint64()),
    pa.array([Decimal("1.50"), None]),
    pa.array(["1e999", "\x00"]),
]


@pytest.mark.parametrize(
    "field", ["user_id", "item_id", "timestamp", "price", "quantity", "type", "title", "event_id"]
)
def test_a_column_of_any_type_is_read_or_named(tmp_path: Path, field: str) -> None:
    for number, column in enumerate(ODD_COLUMNS):
        path = parquet(tmp_path / "log.parquet", **{"timestamp": [NOON_MS] * 2, field: column})
        types = [] if field == "type" else ["click"]
        mapping = mapping_of([], types)
        try:
            said = str(examine_log(DataSource(tmp_path, path, mapping)).counts)
        except DataError as error:
            said = f"2 rows: {error}"
        assert said.startswith("2 rows"), number
        assert "\n" not in said, number


@pytest.mark.parametrize(
    ("maps", "types"),
    [
        (["user=a", "user=b"], ["click"]),
        ([], ["view=click", "view=purchase"]),
        ([], ["click", "purchase"]),
        ([], ["click", "view=purchase"]),
    ],
)
def test_options_that_contradict_each_other_are_refused(maps: list[str], types: list[str]) -> None:
    with pytest.raises(SettingsError, match="give one of them"):
        mapping_of(maps, types)


def test_a_column_of_another_kind_is_named(tmp_path: Path) -> None:
    for column in (pa.array([["a", "b"]]), pa.array([{"a": 1}]), pa.array([b"\xff"])):
        with pytest.raises(DataError, match=r"log\.parquet: column item_id: cannot be read: "):
            read(parquet(tmp_path / "log.parquet", item_id=column))


def test_a_folder_says_what_of_it_was_not_read(tmp_path: Path) -> None:
    text(tmp_path / "log.csv", HEADING, "u1,i1,1714564800")
    text(tmp_path / "2024" / "log.csv", HEADING, "u2,i1,1714564800")
    text(tmp_path / ".git" / "log.csv", HEADING, "u3,i1,1714564800")
    text(tmp_path / "day=1" / "log.csv", HEADING, "u4,i1,1714564800")
    (tmp_path / "gone.csv").symlink_to("nowhere.csv")
    log = read(tmp_path)
    assert {event.user_id for event in log.events} == {"u1", "u4"}
    assert log.passed_over == ["2024/", "gone.csv"]


def test_a_path_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    odd = tmp_path / os.fsdecode(b"b\xff.csv")
    text(odd, HEADING, "u1,i1,1714564800")
    for path, words in [
        (tmp_path / ("a" * 5000), "cannot be read: File name too long"),
        (pipe, "is neither a file nor a folder: save it as a file"),
        (odd, "its name is no UTF-8: rename it"),
    ]:
        with pytest.raises(DataError, match=words):
            read(path)


def test_a_row_of_many_columns_is_no_line_of_many(tmp_path: Path) -> None:
    path = text(tmp_path / "log.csv", ",".join("x" * 500 for _ in range(5000)), "1")
    with pytest.raises(DataError, match="and 4940 more") as refused:
        read(path)
    assert len(str(refused.value)) < 6000
