"""Rows of delimited text: each is read, refused with its number, or passed over with a count.

A quote that opens a field and is not closed in its line may go on in the next: a title of three
lines. It may as well be an inch mark, and what follows are rows. So the lines behind an open quote
are looked at before it is obeyed: where one of them is a row of its own, or where no end comes, the
row in which the quote stands is refused, and reading goes on with the line behind it.
"""

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from headwater_client.errors import DataError

# A text in quotes is at most so many lines.
MAX_LINES = 1000
BATCH_ROWS = 65_536
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_JSON = "JSON, which is not read here: make CSV or Parquet of it"
_PAGE = "a page of the web: export the table itself, as CSV"
FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or a workbook: unpack it, or save its sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a workbook (.xls): save its sheet as CSV",
    b"\xfd7zXZ": "compressed by xz: unpack it, or compress it by gzip",
    b"SQLite": "a database: export its table as CSV",
    b"ARROW1": "Arrow (Feather): save it as Parquet",
    b"Obj\x01": "Avro: make CSV or Parquet of it",
    b"ORC": "ORC: make CSV or Parquet of it",
    b"PAR1": "Parquet that is compressed once more: unpack it",
    b"%PDF": "a PDF: export the table itself, as CSV",
    b"{": _JSON,
    b"[": _JSON,
    b"<!DOCTYPE": _PAGE,
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<?xml": "XML: export the table as CSV",
}
DELIMITERS = (",", "\t", ";", "|")
TABS = ("tsv", "tab")
# What Excel writes above the heading.
SEPARATOR_LINE = re.compile(r'^"?sep=(.)"?$', re.IGNORECASE)
IN_QUOTES = re.compile(r'"[^"]*"')
FIGURE = re.compile(r"\d")
FIGURES_OF_A_TIME = 4
OPEN_QUOTE = "a quote opens a field in it and is not closed"
RAGGED = "not as many fields as columns"


@dataclass(frozen=True)
class TextFormat:
    """How a delimited text is written.

    Attributes:
        delimiter: one character or several; default: of a tab, a comma, `;` and `|` the one that
            the heading has, first of all the one of the file's suffix.
        quoted: whether fields may stand in double quotes; default: unless tabs part them and the
            heading has none.
        encoding: a name that Python knows.
        column_names: default: the first line's.
        null_values: what stands for no value: nothing, and what Hive and MySQL write. A person may
            be called NA.
        row_signs: columns by which a line is known to be a row: of a time, and of an id.
    """

    delimiter: str | None = None
    quoted: bool | None = None
    encoding: str = "utf-8"
    column_names: Sequence[str] | None = None
    null_values: Sequence[str] = ("", "\\N")
    row_signs: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class MalformedLine:
    """A line that cannot be a row of the table; `kind` is the reason without its figures."""

    row: int
    text: str
    reason: str
    kind: str = RAGGED


@dataclass
class TextRows:
    """The rows of a text.

    `columns` is a pyarrow.Table of strings that are not interpreted yet, so that an id 007 stays
    one. Rows are counted from 1, without the heading and empty lines; those of `malformed` and of
    `headings`, which say the heading once more, are not in it.
    """

    columns: Any = None
    malformed: list[MalformedLine] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)


def read_rows(path: Path, text: TextFormat) -> TextRows:
    """Read a file.

    Raises:
        DataError: it is no text, is in another encoding, or has no line.
        OSError: it cannot be read.
    """
    with _open_lines(path, text.encoding) as lines:
        first = next(iter(lines), None)
        if first is None:
            raise DataError(f"{path}: cannot be read: is empty")
        if said := SEPARATOR_LINE.match(first):
            text = replace(text, delimiter=text.delimiter or said[1])
            first = next(iter(lines), "")
        splitter = _Splitter(path, first, text)
        names = [name.strip() for name in text.column_names or splitter.split(first)]
        if text.column_names:
            lines.give_back([first])
        return _RowReader(lines, splitter, text, names).read()


class _Lines:
    """The lines of a text without their ends and without empty ones; some can be given back."""

    def __init__(self, stream: Iterator[str]) -> None:
        self._stream = stream
        self._ahead: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        """The lines that count as rows."""
        while (line := self.take()) is not None:
            if line:
                yield line

    def take(self) -> str | None:
        """The next line, an empty one too; None behind the last."""
        if self._ahead:
            return self._ahead.popleft()
        line = next(self._stream, None)
        return None if line is None else line.removesuffix("\n")

    def give_back(self, lines: Sequence[str]) -> None:
        """Have lines be read again."""
        self._ahead.extendleft(reversed(lines))


@contextmanager
def _open_lines(path: Path, encoding: str) -> Iterator[_Lines]:
    with path.open("rb") as file:
        begin = file.read(512)
    found = (name for sign, name in COMPRESSIONS.items() if begin.startswith(sign))
    compression = next(found, None)
    if compression:
        with pa.input_stream(str(path), compression=compression) as packed:
            begin = packed.read(512)
    _check_is_text(path, begin, encoding)
    # A mark of the byte order may stand before UTF-8, too.
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    with pa.input_stream(str(path), compression=compression) as stream:
        try:
            lines = _Lines(io.TextIOWrapper(stream, encoding=codec))
            _pass_over_remarks(lines)
            yield lines
        except UnicodeError as error:
            raise DataError(
                f"{path}: cannot be read: is not {encoding}: {error.reason}: say --map "
                "encoding=NAME (of older exports cp1252 or latin-1)"
                if isinstance(error, UnicodeDecodeError)
                else f"{path}: cannot be read: {error}"
            ) from error


def _check_is_text(path: Path, begin: bytes, encoding: str) -> None:
    if any(begin.startswith(sign) for sign in COMPRESSIONS):
        raise DataError(f"{path}: cannot be read: is compressed twice: unpack it once")
    said = begin.removeprefix(codecs.BOM_UTF8).lstrip()
    for sign, what in FOREIGN.items():
        if said.startswith(sign):
            raise DataError(f"{path}: cannot be read: is {what}")
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: cannot be read: is UTF-16: say --map encoding=utf-16")
    if 3 * begin.count(0) > len(begin):
        raise DataError(
            f"{path}: cannot be read: is no text, or UTF-16 without a mark: then say "
            "--map encoding=utf-16-le"
        )


def _pass_over_remarks(lines: _Lines) -> None:
    """What stands above the heading: `# made by x`."""
    for line in lines:
        if not line.startswith("#") or any(each in line for each in DELIMITERS):
            lines.give_back([line.lstrip("\ufeff")])
            return


class _Splitter:
    """Cuts a line, or several that are one row, into fields."""

    def __init__(self, path: Path, first: str, text: TextFormat) -> None:
        usual = "\t" if path.name.lower().partition(".")[2].startswith(TABS) else ","
        bare, width = IN_QUOTES.sub("", first), len(text.column_names or ())
        found = (
            each
            for each in (usual, *DELIMITERS)
            if each in bare and width in (0, 1 + bare.count(each))
        )
        self.delimiter = text.delimiter or next(found, usual)
        # Programs that write tabs quote nothing; those that do quote the heading as well.
        self.quoted = text.quoted
        if text.quoted is None:
            self.quoted = self.delimiter != "\t" or first.startswith('"')

    def split(self, line: str) -> list[str]:
        """The fields of a line; an open quote ends with it."""
        fields, _ = self._parse([line])
        return fields or line.split(self.delimiter)

    def split_strictly(self, lines: Sequence[str]) -> list[str] | None:
        """The fields of lines that are one row, quoted by the rules; else None."""
        fields, used = self._parse(lines, strict=True)
        return fields if used == len(lines) else None

    def is_open(self, lines: Sequence[str]) -> bool:
        """Whether a quote is open at the end of the lines."""
        _, used = self._parse([*lines, ""])
        return used > len(lines)

    def _parse(self, lines: Sequence[str], strict: bool = False) -> tuple[list[str] | None, int]:
        """The fields of the row that the lines begin with, and how many of them it takes."""
        if not (self.quoted and any('"' in line for line in lines)):
            return lines[0].split(self.delimiter), 1
        ended = (f"{line}\n" for line in lines)
        read = csv.reader(ended, delimiter=self.delimiter, strict=strict)
        try:
            return next(read), read.line_num
        except csv.Error:
            return None, 0


class _RowReader:
    """Makes columns of lines."""

    def __init__(
        self, lines: _Lines, splitter: _Splitter, text: TextFormat, names: list[str]
    ) -> None:
        self._lines = lines
        self._splitter = splitter
        self._text = text
        self._names = names

    def read(self) -> TextRows:
        """All rows."""
        rows, batches, fields = TextRows(), [], []
        for number, line in enumerate(self._lines, 1):
            values = self._fields(line)
            if values is None:
                rows.malformed.append(MalformedLine(number, line, OPEN_QUOTE, OPEN_QUOTE))
            elif len(values) != len(self._names):
                why = f"{len(values)} fields in {len(self._names)} columns"
                rows.malformed.append(MalformedLine(number, line, why))
            elif values == self._names:
                rows.headings.append(number)
            else:
                fields.append(values)
                if len(fields) == BATCH_ROWS:
                    batches.append(self._make_batch(fields))
                    fields = []
        batches.append(self._make_batch(fields))
        rows.columns = pa.Table.from_batches(batches)
        return rows

    def _fields(self, line: str) -> list[str] | None:
        """The fields of the row that begins with a line; None where a quote stays open."""
        fields = self._splitter.split_strictly([line])
        if fields is None:
            is_open = self._splitter.is_open([line])
            fields = self._close(line) if is_open else self._splitter.split(line)
        if fields and not any(fields[len(self._names) :]):
            # Some programs end each row, but not the heading, with the delimiter.
            del fields[len(self._names) :]
        return fields

    def _close(self, first: str) -> list[str] | None:
        """The fields of a row of several lines; None where its quote is only a sign."""
        lines, rows = [first], 0
        has_times = self._text.row_signs[0] in self._names
        while len(lines) < MAX_LINES and (line := self._lines.take()) is not None:
            lines.append(line)
            rows += self._is_row(line)
            # Of a table of items a line of prose may look like a row, but hardly most of them.
            if rows and has_times:
                break
            if '"' not in line or self._splitter.is_open(lines):
                continue
            fields = self._splitter.split_strictly(lines)
            if fields is None or 2 * rows > len(lines) - 1:
                break
            return fields
        self._lines.give_back(lines[1:])
        return None

    def _is_row(self, line: str) -> bool:
        """Whether a line behind an open quote is a row by itself.

        Its fields are as many as the columns, that of the time has the figures of one, and that of
        the item is one word.
        """
        fields = self._splitter.split(line)
        if len(fields) != len(self._names):
            return False
        time, item = (
            fields[self._names.index(name)] if name in self._names else None
            for name in self._text.row_signs
        )
        is_time = time is None or len(FIGURE.findall(time)) >= FIGURES_OF_A_TIME
        return is_time and (item is None or len(item.split()) == 1)

    def _make_batch(self, rows: list[list[str]]) -> Any:
        nothing = pa.array(self._text.null_values, pa.string())
        columns = zip(*rows, strict=True) if rows else ([] for _ in self._names)
        read = [pa.array(column, pa.string()) for column in columns]
        none = pa.scalar(None, pa.string())
        kept = [pc.if_else(pc.is_in(column, nothing), none, column) for column in read]
        return pa.RecordBatch.from_arrays(kept, self._names)
