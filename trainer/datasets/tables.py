"""Tables of events and items out of files: CSV, TSV (gzipped too) and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from headwater_client.errors import DataError
from pyarrow import csv

from trainer.datasets.mapping import ColumnMapping, merge_mapping_file

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


@dataclass(frozen=True)
class MalformedLine:
    """A line that has another number of fields than the table has columns."""

    row: int
    text: str
    reason: str


@dataclass(frozen=True)
class SourceTable:
    """One file's content, and what its columns mean.

    `columns` is a pyarrow.Table; text of CSV is not interpreted yet, so that an id 007 stays one.
    `malformed` rows, counted from 1 like all, are not in it.
    """

    name: str
    columns: Any
    mapping: ColumnMapping
    malformed: Sequence[MalformedLine] = field(default_factory=tuple)

    def has(self, column: str) -> bool:
        """Whether there is such a column."""
        return column in self.columns.column_names

    def row_numbers(self) -> Sequence[int]:
        """The number in the file, from 1, of each row."""
        if not self.malformed:
            return range(1, len(self.columns) + 1)
        left_out = {line.row for line in self.malformed}
        total = len(self.columns) + len(left_out)
        return [row for row in range(1, total + 1) if row not in left_out]


@dataclass(frozen=True)
class LogTables:
    """Where the events are, and where the items are; one table can hold both."""

    events: Sequence[SourceTable]
    items: Sequence[SourceTable]


def read_tables(path: Path, given: ColumnMapping | None) -> LogTables:
    """The tables of a file, or of all CSV and Parquet files of a folder."""
    folder = path if path.is_dir() else path.parent
    mapping = merge_mapping_file(folder, given)
    items_path = folder / mapping.items_file if mapping.items_file else None
    paths = [found for found in _table_files(path) if found != items_path]
    events = [read_table(found, mapping) for found in paths]
    if items_path is None:
        return LogTables(events, events)
    if not items_path.is_file():
        raise DataError(f"{items_path}: no such file, but items_file names it")
    return LogTables(events, [read_table(items_path, mapping)])


def read_table(path: Path, mapping: ColumnMapping) -> SourceTable:
    """One file."""
    try:
        if path.suffix == ".parquet":
            return SourceTable(path.name, pq.read_table(path), mapping)
        return read_csv(path, mapping)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}".replace("\n", " ")) from error


def read_csv(
    source: Path | pa.BufferReader,
    mapping: ColumnMapping,
    *,
    name: str | None = None,
    column_names: Sequence[str] | None = None,
    quoted: bool = True,
    nothing: Sequence[str] = ("",),
) -> SourceTable:
    """One file of delimited text.

    Args:
        source: where it is.
        mapping: what its columns mean, its delimiter and its encoding.
        name: what to call it; default: the file's name.
        column_names: default: the first line's.
        quoted: whether fields may stand in double quotes.
        nothing: what stands for no value. A person may be called NA.
    """
    malformed: list[MalformedLine] = []

    def keep(line: csv.InvalidRow) -> str:
        found = f"{line.actual_columns} fields in {line.expected_columns} columns"
        header = 0 if column_names else 1
        malformed.append(MalformedLine(line.number - header, line.text, found))
        return "skip"

    parse = csv.ParseOptions(
        delimiter=mapping.delimiter or _delimiter(source),
        quote_char='"' if quoted else False,
        newlines_in_values=quoted,
        invalid_row_handler=keep,
    )
    # One thread: rows are numbered only then.
    read = csv.ReadOptions(use_threads=False, encoding=mapping.encoding, column_names=column_names)
    names = column_names or _heading(source, read, parse)
    malformed.clear()
    # All is text: an id 007 is not 7.
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=nothing,
        strings_can_be_null=True,
    )
    columns = csv.read_csv(source, read, parse, convert)
    return SourceTable(name or Path(str(source)).name, columns, mapping, tuple(malformed))


def _heading(path: Path, read: csv.ReadOptions, parse: csv.ParseOptions) -> Sequence[str]:
    with csv.open_csv(path, read, parse) as reader:
        return list(reader.schema.names)


def _delimiter(source: object) -> str:
    return "\t" if ".tsv" in str(source) else ","


def _table_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    if not found:
        raise DataError(f"{path}: neither MovieLens nor a table: no {', '.join(SUFFIXES)} file")
    return found
