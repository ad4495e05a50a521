"""Tables of events and items out of files: CSV, TSV (gzipped too) and Parquet.

Which column holds what is said by options, or by `mapping.toml` beside the files.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
from headwater_client.errors import DataError, SettingsError
from headwater_client.event_types import EVENT_TYPES, EventSpec
from pyarrow import csv
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from features.settings import Section

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


MAPPING_FILE = "mapping.toml"


SKIP = "skip"
"""The type of rows that are left out on purpose."""


def _row_type(name: str) -> str:
    if name != SKIP and name not in EVENT_TYPES:
        raise ValueError(f"no such type: one of {', '.join(EVENT_TYPES)} and {SKIP}")
    return name


RowType = Annotated[str, AfterValidator(_row_type)]
"""What a row of a table says that a person did: the name of an event type, or `SKIP`."""


def event_types_of(row_type: str) -> tuple[EventSpec, ...]:
    """The types of the events that such a row becomes."""
    return (EVENT_TYPES[row_type],) if row_type in EVENT_TYPES else ()


class TimeUnit(StrEnum):
    """The unit of times given as numbers; `auto` goes by their size."""

    AUTO = "auto"
    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


def _as_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class ColumnMapping(Section):
    """Names of a table's columns, and how to read them.

    A column that is named here must exist; one that keeps its default name is read if it does. Only
    `user`, `item`, `time` and a type (of one kind or another) must be there.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    event: str = Field("event_id", description="an id that the source gave; else made from the row")
    session: str = "session_id"
    price: str = "price"
    quantity: str = "quantity"

    type: str = Field("type", description="column whose values are named in `types`")
    types: Mapping[str, RowType] = Field(
        default_factory=lambda: {name: name for name in (*EVENT_TYPES, SKIP)}
    )
    constant_type: RowType | None = Field(None, description="every row is one of these")
    rating: str = Field("rating", description="a rating is a click; a good one a purchase too")
    purchase_rating: float = Field(5, description="the lowest rating that is a purchase too")

    time_unit: TimeUnit = TimeUnit.AUTO
    time_zone: str = Field("UTC", description="of dates that name none")
    time_format: str | None = Field(None, description="strptime's; empty: ISO 8601")

    items_file: str | None = Field(None, description="table of items beside the events' files")
    title: str = "title"
    description: str = "description"
    brand: str = "brand"
    category: str = "category"
    category_separator: str = "|"
    item_price: str | None = Field(None, description="column of the item's own price")
    attributes: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="of CSV; empty: a comma, a tab in .tsv"
    )
    encoding: str = Field("utf-8", description="of CSV")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        except (OSError, ValueError, KeyError) as error:
            raise ValueError("no such time zone: expected a name such as Europe/Paris") from error

    def is_given(self, field: str) -> bool:
        """Whether a person named this field's column, which then must exist."""
        return field in self.model_fields_set


def mapping_from_options(maps: Sequence[str], types: Sequence[str]) -> ColumnMapping | None:
    """The mapping of `--map user=customer_id ...` and `--type purchase` or `--type view=click ...`.

    Returns:
        None where no option was given.

    Raises:
        SettingsError: an option is not understood.

    >>> mapping_from_options(["user=customer"], ["purchase"]).user
    'customer'
    """
    given: dict[str, Any] = dict(_parse_pair("--map", option) for option in maps)
    named = dict(_parse_pair("--type", option) for option in types if "=" in option)
    constants = [option for option in types if "=" not in option]
    if named:
        given["types"] = named
    if constants:
        given["constant_type"] = constants[-1]
    return _validate(given, "--map and --type") if given else None


def merge_mapping_file(folder: Path, given: ColumnMapping | None) -> ColumnMapping:
    """What `mapping.toml` in a folder says, overridden by what was given."""
    path = folder / MAPPING_FILE
    if not path.is_file():
        return given or ColumnMapping()
    try:
        in_file = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    over = given.model_dump(exclude_unset=True) if given else {}
    return _validate(in_file | over, str(path))


def _parse_pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise SettingsError(f"{option} {text}: expected NAME=VALUE")
    return name, value


def _validate(given: Mapping[str, Any], where: str) -> ColumnMapping:
    try:
        return ColumnMapping.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(ColumnMapping.model_fields)
            raise SettingsError(f"{where}: {name}: not known: one of {known}") from error
        raise SettingsError(f"{where}: {name}: {first['input']!r}: {first['msg']}") from error


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


@dataclass(frozen=True)
class CsvFormat:
    """How delimited text is written, beside what its mapping says.

    Attributes:
        name: what to call the table; default: the file's name.
        column_names: default: the first line's.
        quoted: whether fields may stand in double quotes.
        null_values: what stands for no value. A person may be called NA.
    """

    name: str | None = None
    column_names: Sequence[str] | None = None
    quoted: bool = True
    null_values: Sequence[str] = ("",)


def read_csv(
    source: Path | pa.BufferReader, mapping: ColumnMapping, text: CsvFormat | None = None
) -> SourceTable:
    """One file of delimited text."""
    text = text or CsvFormat()
    malformed: list[MalformedLine] = []

    def keep(line: csv.InvalidRow) -> str:
        found = f"{line.actual_columns} fields in {line.expected_columns} columns"
        header = 0 if text.column_names else 1
        malformed.append(MalformedLine(line.number - header, line.text, found))
        return "skip"

    parse = csv.ParseOptions(
        delimiter=mapping.delimiter or _delimiter(source),
        quote_char='"' if text.quoted else False,
        newlines_in_values=text.quoted,
        invalid_row_handler=keep,
    )
    # One thread: rows are numbered only then.
    read = csv.ReadOptions(
        use_threads=False, encoding=mapping.encoding, column_names=text.column_names
    )
    names = text.column_names or _heading(source, read, parse)
    malformed.clear()
    # All is text: an id 007 is not 7.
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=text.null_values,
        strings_can_be_null=True,
    )
    columns = csv.read_csv(source, read, parse, convert)
    return SourceTable(text.name or Path(str(source)).name, columns, mapping, tuple(malformed))


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
