"""No row of a text vanishes: each is an event, is refused by number, or passed over and counted."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import pytest
from headwater_client.errors import DataError, HeadwaterError
from headwater_client.events import Click, Item

from trainer.datasets import ColumnMapping, DataSource, Log, RowCounts, load_log
from trainer.datasets import mapping_from_options as mapping_of

HEADING = "user_id,item_id,timestamp,title"
CLICKS = ColumnMapping(constant_type="click")


def read(path: Path, mapping: ColumnMapping | None = CLICKS) -> Log:
    log = load_log(DataSource(path.parent / "cache", path, mapping))
    counts = log.counts
    assert counts.rows == counts.events + counts.items + counts.refused + sum(
        counts.skipped.values()
    )
    return log


def text(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([*lines, ""]))
    return path


def users(log: Log) -> list[str]:
    return [event.user_id for event in log.events]


@pytest.mark.parametrize(("name", "delimiter", "lost"), [("a.tsv", "\t", 0), ("a.csv", ",", 10)])
@pytest.mark.parametrize("column", ["title", "track"])
def test_ten_stray_quotes_in_20000_rows_cost_at_most_ten_rows(
    tmp_path: Path, name: str, delimiter: str, lost: int, column: str
) -> None:
    stray = set(random.Random(1).sample(range(20_000), 10))
    rows = [
        (f"u{n}", f"i{n % 300}", str(1_714_564_800 + n), '"Heroes' if n in stray else "Plain")
        for n in range(20_000)
    ]
    heading = ("user_id", "item_id", "timestamp", column)
    log = read(text(tmp_path / name, *map(delimiter.join, [heading, *rows])))
    assert (len(log.events), len(log.refused), log.counts.rows) == (20_000 - lost, lost, 20_000)
    if lost:
        assert {row.row - 1 for row in log.refused} == stray
        assert all(row.reason.startswith("a quote opens a field") for row in log.refused)


def test_an_open_quote_is_not_obeyed_to_the_next_one(tmp_path: Path) -> None:
    lines = ['u1,i1,1714564800,"Heroes', "u2,i2,1714564801,Plain", 'u3,i3,1714564802,Loud"']
    log = read(text(tmp_path / "log.csv", HEADING, *lines, 'u4,i4,1714564803,12" mix'))
    assert users(log) == ["u2", "u3", "u4"]
    assert [item.title for item in log.items] == ["Plain", 'Loud"', '12" mix']
    assert [str(row) for row in log.refused] == [
        "log.csv: row 1: a quote opens a field in it and is not closed"
    ]


@pytest.mark.parametrize(
    "behind",
    [
        ['u2,i2,1714564801,"Plain, too"', "u3,i3,1714564802,x"],
        ["u2,i2", "u3,i3,1714564802,x"],
        ['u2,i2,1714564801,"a"', "u3,i3,1714564802,x"],
        ['"u2","i2","1714564801","a"', "u3,i3,1714564802,x"],
        ["", "u2,i2,1714564801,x", "u3,i3,1714564802,x"],
    ],
)
def test_what_stands_behind_an_open_quote_is_read(tmp_path: Path, behind: list[str]) -> None:
    log = read(text(tmp_path / "log.csv", HEADING, 'u1,i1,1714564800,"Heroes', *behind))
    assert users(log)[-1] == "u3"
    assert log.counts.rows == 1 + sum(map(bool, behind))
    assert log.refused[0].row == 1


def test_a_quoted_text_may_have_lines_and_quotes_and_delimiters(tmp_path: Path) -> None:
    title = 'One, two\n\n"three"\nfour: 1, 2, 3\n'
    quoted = title.replace('"', '""')
    log = read(
        text(tmp_path / "log.csv", HEADING, f'u1,i1,1714564800,"{quoted}"', "u2,i2,1714564801,x")
    )
    assert [item.title for item in log.items] == [title, "x"]
    assert not log.refused


def test_a_tsv_has_no_quotes_unless_its_heading_has(tmp_path: Path) -> None:
    lines = ["user_id\titem_id\ttimestamp\ttitle", 'u1\ti1\t1714564800\t"Heroes"']
    [item] = read(text(tmp_path / "log.tsv", *lines)).items
    assert item.title == '"Heroes"'
    [item] = read(
        text(tmp_path / "log.tsv", lines[0].replace("title", '"title"'), lines[1]),
        mapping_of(["quoted=true"], ["click"]),
    ).items
    assert item.title == "Heroes"
    heading = '"user_id"\t"item_id"\t"timestamp"\t"title"'
    [item] = read(text(tmp_path / "log.tsv", heading, lines[1])).items
    assert item.title == "Heroes"


def test_ragged_rows_are_refused_and_an_empty_end_is_none(tmp_path: Path) -> None:
    log = read(
        text(
            tmp_path / "log.csv",
            "user_id,item_id,timestamp",
            *("u1,i1", "u2,i2,1714564800,,", "", "u3,i3,1714564801,x", "u4,i4,1714564802"),
        )
    )
    assert users(log) == ["u2", "u4"]
    assert [str(row) for row in log.refused] == [
        "log.csv: row 1: 2 fields in 3 columns",
        "log.csv: row 3: 4 fields in 3 columns",
    ]
    assert {row.kind for row in log.refused} == {"not as many fields as columns"}


def test_line_ends_may_be_mixed_and_a_zero_byte_is_a_letter(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(
        b"user_id,item_id,timestamp\r\nu1,a\0b,1714564800\ru2,b,1714564801\nu3,c,1714564802"
    )
    log = read(tmp_path / "log.csv")
    assert users(log) == ["u1", "u2", "u3"]
    assert log.events[0].item_id == "a\0b"


def test_a_heading_that_comes_once_more_is_passed_over_and_counted(tmp_path: Path) -> None:
    lines = [HEADING, "u1,i1,1714564800,x", HEADING, "u2,i2", "u3,i3,1714564801,x"]
    log = read(text(tmp_path / "log.csv", *lines))
    assert (log.counts.rows, dict(log.counts.skipped)) == (4, {"the heading once more": 1})
    assert log.refused[0].row == 3


@pytest.mark.parametrize("above", ["sep=;", '"sep=;"', "# made by x", ""])
def test_what_stands_above_the_heading_is_understood(tmp_path: Path, above: str) -> None:
    lines = ["user_id;item_id;timestamp;title", "u1;i1;1714564800;a, b"]
    log = read(text(tmp_path / "log.csv", above, *lines))
    assert log.items == [Item(item_id="i1", title="a, b")]
    assert log.counts.rows == 1


@pytest.mark.parametrize(("delimiter", "name"), [("\t", "a.csv"), ("|", "a.csv"), (",", "a.tsv")])
def test_the_delimiter_is_the_one_that_the_heading_has(
    tmp_path: Path, delimiter: str, name: str
) -> None:
    (tmp_path / "x.tsv.d").mkdir()
    path = tmp_path / "x.tsv.d" / name
    lines = ["user_id,item_id,timestamp", "u1,i1,1714564800"]
    assert users(read(text(path, *(line.replace(",", delimiter) for line in lines)))) == ["u1"]


def test_without_a_heading_the_columns_are_named(tmp_path: Path) -> None:
    path = text(tmp_path / "log.csv", "1,2014-04-07T10:51:09Z,A,0", "2,2014-04-07T10:54:00Z,B,0")
    for columns in ("user,time,item,category", "user_id,timestamp,item_id,category"):
        log = read(path, mapping_of([f"columns={columns}"], ["click"]))
        assert [(event.user_id, event.item_id) for event in log.events] == [("1", "A"), ("2", "B")]
        assert log.items[0].category == ["0"]
    session = ["columns=session,time,item,category", "user=session"]
    assert users(read(path, mapping_of(session, ["click"]))) == ["1", "2"]
    with pytest.raises(DataError, match=r"no heading, name the columns: --map columns=user,.*\(4"):
        read(path)
    by_first_row = ["user=1", "time=2014-04-07T10:51:09Z", "item=A"]
    with pytest.raises(DataError, match=r"its first line is a row, .*--map columns="):
        read(path, mapping_of(by_first_row, ["click"]))


@pytest.mark.parametrize(
    ("heading", "message"),
    [
        ("user_id,item_id,timestamp,item_id", r"2 columns are called 'item_id': rename one"),
        ("User_ID,item_id,timestamp,x", r"no column 'user_id': .*--map user=User_ID"),
        ("userid,item_id,timestamp,x", r"--map user=userid"),
        ("user_id,item_id,time stamp,x", r"--map time='time stamp'"),
    ],
)
def test_an_odd_heading_is_one_line(tmp_path: Path, heading: str, message: str) -> None:
    path = text(tmp_path / "log.csv", heading, "u1,i1,1714564800,b")
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_double_column_that_nobody_needs_is_read(tmp_path: Path) -> None:
    path = text(tmp_path / "log.csv", " user_id,item_id , timestamp,x,x", "u1,i1,1714564800,1,2")
    assert users(read(path)) == ["u1"]


def test_encodings_are_read_or_named(tmp_path: Path) -> None:
    path, content = tmp_path / "log.csv", f"{HEADING}\nu1,i1,1714564800,Café\n"
    for encoding, given in [("utf-8-sig", None), ("latin-1", "latin-1"), ("utf-16", "utf-16")]:
        path.write_bytes(content.encode(encoding))
        mapping = mapping_of([f"encoding={given}"] if given else [], ["click"])
        assert read(path, mapping).items == [Item(item_id="i1", title="Café")]
    for encoding, words in [
        ("utf-16", "is UTF-16: say --map encoding=utf-16"),
        ("utf-16-le", "UTF-16 without a mark: then say --map encoding=utf-16-le"),
        ("latin-1", "is not utf-8: .*--map encoding="),
    ]:
        path.write_bytes(content.encode(encoding))
        with pytest.raises(DataError, match=words):
            read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xd0\xcf\x11\xe0" + bytes(600), "a workbook .*: save its sheet as CSV"),
        (b"ARROW1\0\0" + bytes(600), "save it as Parquet"),
        (b"Obj\x01\x04", "Avro"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b'\n [\n {"user_id": 1}]', "JSON"),
        (b"<!DOCTYPE html><table>", "a page of the web"),
        (gzip.compress(gzip.compress(b"a,b\n", mtime=0), mtime=0), "is compressed twice"),
        (gzip.compress(b"PAR1" + bytes(40), mtime=0), "Parquet that is compressed once more"),
    ],
)
def test_a_file_of_another_program_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(path)


def test_packed_files_are_known_by_their_content(tmp_path: Path) -> None:
    content = f"{HEADING}\nu1,i1,1714564800,x\n".encode()
    for name, packed in [
        ("log.gz", gzip.compress(content, mtime=0)),
        ("log.csv.bz2", bz2.compress(content)),
        ("log.csv.gz", content),
        ("LOG.CSV", content),
        ("log.txt", content),
    ]:
        folder = tmp_path / name.replace(".", "")
        folder.mkdir()
        (folder / name).write_bytes(packed)
        (folder / "README.txt").write_text("About this log.")
        assert users(read(folder)) == ["u1"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"PK\x03\x04rest", "ZIP archive or a workbook"),
        (b'{"user_id": "u1"}\n', "JSON, which is not read here"),
        (gzip.compress(b"user_id,item_id,timestamp\n" * 9999, mtime=0)[:50], "cannot be read"),
        (bytes(range(256)), "cannot be read"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read(tmp_path / "log.csv")
    assert "\n" not in str(error.value)


def test_rows_that_do_not_add_up_are_an_error_of_ours() -> None:
    whole = RowCounts(5, events=2, items=1, refused=1, skipped={"of a type": 1})
    whole.check()
    (whole + whole).check()
    with pytest.raises(HeadwaterError, match="lost or counted twice"):
        RowCounts(5, events=2, items=1, refused=1).check()


def test_random_texts_lose_no_row(tmp_path: Path) -> None:
    """Whatever stands in it: the rows that are read are rows of the file."""
    pieces = ["u1", "i1", "1714564800", ",", ",", '"', '""', "\n", "\r\n", "\0", "é", "x y", "\t"]
    chance = random.Random(7)
    for _ in range(100):
        body = "".join(chance.choices(pieces, k=chance.randrange(120)))
        content = f"{HEADING}\nann,lamp,1714564800,t\n{body}\nbob,lamp,1714564801,t\n"
        (tmp_path / "log.csv").write_bytes(content.encode())
        log = read(tmp_path / "log.csv")
        # A quote that the last line ends may be one text with it.
        assert users(log)[0] == "ann"
        assert "bob" in users(log) or log.refused or '"' in body
        assert all(isinstance(event, Click) for event in log.events)
