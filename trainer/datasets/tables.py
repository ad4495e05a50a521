"""Tables of events and items out of files: delimited text (packed too) and Parquet.

Which column holds what is said by options, or by `mapping.toml` beside the files.
"""

import codecs
import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
from headwater_client.documents import read_toml
from headwater_client.errors import DataError, SettingsError
from headwater_client.event_types import EVENT_TYPES, EventSpec
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from features.settings import Section
from trainer.datasets import delimited
from trainer.datasets.delimited import TextFormat

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".gz", ".bz2", ".zst")
# Texts beside the data that are no tables.
PROSE = ("readme", "license", "licence", "notice", "notes", "changelog", "citation")
SHOWN_NAMES = 10
MOST_NAMES, SHOWN_CHARS = 60, 64
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"

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
    EXCEL = "excel"
    """Days since the end of 1899, as a workbook counts them."""


def _as_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class ColumnMapping(Section):
    """Names of a table's columns, and how to read them.

    A column that is named here must exist; one that keeps its default name is read if it does. Only
    `user`, `item`, `time` and a type (of one kind or another) must be there.
    """

    KEEPS_BLANKS: ClassVar[bool] = True
    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    event: str = Field(
        "event_id", description="an id that the source gave; else made of what the row says"
    )
    session: str = "session_id"
    price: str = "price"
    quantity: str = "quantity"

    columns: Names | None = Field(
        None, description="names of the columns, in their order, of a file without a heading"
    )
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
    attributes: Names = ()

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="of text; empty: the one that the heading has"
    )
    quoted: bool | None = Field(
        None, description="whether fields of a text may stand in quotes; empty: not where tabs part"
    )
    decimal: Annotated[str, Field(pattern="^[.,]$")] | None = Field(
        None, description="of numbers, a point or a comma; empty: as most of a column have it"
    )
    encoding: str = Field("utf-8", description="of text")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        except (OSError, ValueError, KeyError) as error:
            raise ValueError("no such time zone: expected a name such as Europe/Paris") from error

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            "".encode(name)
        except LookupError as error:
            raise ValueError("no such encoding: expected a name such as latin-1") from error
        return codecs.lookup(name).name

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
    given: dict[str, Any] = _unique("--map", [_parse_pair("--map", option) for option in maps])
    # A value of a type column may be empty: `=skip`.
    pairs = [option.rpartition("=") for option in types if "=" in option]
    named = _unique("--type", [(value, kind) for value, _, kind in pairs])
    constants = [option for option in types if "=" not in option]
    if len(set(constants)) > 1 or (constants and named):
        raise SettingsError(
            f"--type {constants[-1]}: says what every row is, and another --type says otherwise: "
            "give one of them"
        )
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
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SettingsError(f"{path}: is UTF-16: save it as UTF-8")
    try:
        in_file = read_toml(content.decode("utf-8-sig"))
    except ValueError as error:
        raise SettingsError(f"{path}: not TOML in UTF-8: {error}") from error
    over = given.model_dump(exclude_unset=True) if given else {}
    return _validate(in_file | over, str(path))


def _unique(option: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise SettingsError(
                f"{option} {name}={value}: is {name}={found[name]} as well: give one of them"
            )
    return found


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
class SourceTable:
    """One file's content, and what its columns mean.

    Attributes:
        text: the rows of a text, of which some are not in `columns`.
        columns: a pyarrow.Table.
        has_fixed_rows: the file is published and never changes: its events are named by the
            numbers of their rows.
    """

    name: str
    columns: Any
    mapping: ColumnMapping
    text: delimited.TextRows = field(default_factory=delimited.TextRows)
    has_fixed_rows: bool = False

    def has(self, column: str) -> bool:
        """Whether there is such a column."""
        return column in self.columns.column_names

    def row_numbers(self) -> Sequence[int]:
        """The number in the file, from 1, of each row of `columns`."""
        left_out = {line.row for line in self.text.malformed}.union(self.text.headings)
        total = len(self.columns) + len(left_out)
        return [row for row in range(1, total + 1) if row not in left_out]

    def column_of(self, field_name: str) -> str:
        """What a field's column is called here.

        Where `columns` names them, a field's own name stands for its column.
        """
        name: str = getattr(self.mapping, field_name)
        if self.mapping.columns and not self.has(name) and self.has(field_name):
            return field_name
        return name

    def get(self, field_name: str, name: str) -> Any:
        """A field's column.

        Raises:
            DataError: there is none, or two of this name.
        """
        found = self.columns.column_names.count(name)
        if found == 1:
            return self.columns[name]
        if found:
            raise DataError(f"{self.name}: {found} columns are called {name!r}: rename one of them")
        raise DataError(
            f"{self.name}: no column {name!r}: it has {self.list_columns()}: say "
            f"--map {field_name}={self._nearest(name)}{self._suggest_columns()}"
        )

    def list_columns(self) -> str:
        """The names of the columns, for messages; of many the first."""
        names = self.columns.column_names
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return ", ".join(map(show_name, names[:MOST_NAMES])) + more

    def _nearest(self, name: str) -> str:
        """The column whose name is another spelling of one, or a word for any."""
        plain = {_bare(each): each for each in self.columns.column_names}
        near = difflib.get_close_matches(_bare(name), plain, n=1, cutoff=0.8)
        return shlex.quote(plain[near[0]]) if near else "NAME"

    def _suggest_columns(self) -> str:
        names = self.columns.column_names
        if not any(name[:1].isdigit() for name in names):
            return ""
        return (
            "; if its first line is no heading, name the columns: --map columns=user,item,time,... "
            f"({len(names)} names)"
        )


def show_name(name: str) -> str:
    """A name as messages of one line have it; a long one is cut.

    >>> show_name("a" * 100)
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... (100 characters)'
    """
    if len(name) > SHOWN_CHARS:
        return f"{show_name(name[:SHOWN_CHARS])}... ({len(name)} characters)"
    return name if name.isprintable() else repr(name)


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


@dataclass(frozen=True)
class LogTables:
    """Where the events are, and where the items are; one table can hold both.

    `passed_over` are files of the folder that were not read.
    """

    events: Sequence[SourceTable]
    items: Sequence[SourceTable]
    passed_over: Sequence[str] = ()


def read_tables(path: Path, given: ColumnMapping | None) -> LogTables:
    """The tables of a file, or of all text and Parquet files of a folder.

    Folders of partitions (`date=2026-11-24`) are a part of their folder, and what their names say
    is a column. Hidden files (`.name`, `_name`) are no part of it.
    """
    folder = path if path.is_dir() else path.parent
    mapping = merge_mapping_file(folder, given)
    items_path = folder / mapping.items_file if mapping.items_file else None
    if items_path and not items_path.is_file():
        raise DataError(f"{items_path}: no such file, but items_file names it")
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: is neither a file nor a folder: save it as a file")
    with named_in_errors(path):
        files = [path] if path.is_file() else sorted(_files_below(path))
    paths = [file for file in files if file == path or _is_table(file)]
    if not paths:
        raise DataError(
            f"{path}: neither MovieLens nor a table: no {', '.join(SUFFIXES)} file in it, only "
            f"{', '.join(sorted(file.name for file in path.iterdir())[:SHOWN_NAMES]) or 'nothing'}"
        )
    events = [
        _add_partitions(read_table(file, mapping), file.relative_to(folder))
        for file in paths
        if file != items_path
    ]
    passed_over = [file.name for file in files if file not in paths and file.name != MAPPING_FILE]
    passed_over += _list_unread(path)
    items = events if items_path is None else [read_table(items_path, mapping)]
    return LogTables(events, items, passed_over)


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of its partitions."""
    for entry in folder.iterdir():
        if entry.is_file():
            yield entry
        elif "=" in entry.name and not _is_hidden(entry):
            yield from _files_below(entry)


def _list_unread(folder: Path) -> list[str]:
    """What of a folder is no file and no partition: other folders, links that lead nowhere."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else ()
    return [
        f"{entry.name}/" if entry.is_dir() else entry.name
        for entry in entries
        if not (entry.is_file() or _is_hidden(entry) or (entry.is_dir() and "=" in entry.name))
    ]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "_", "~"))


def _is_table(path: Path) -> bool:
    name = path.name.lower()
    return not _is_hidden(path) and name.endswith(SUFFIXES) and not name.startswith(PROSE)


def _add_partitions(table: SourceTable, path: Path) -> SourceTable:
    """The table with what its folders' names say, where it has no column of that name."""
    columns = table.columns
    for name, _, value in (folder.partition("=") for folder in path.parts[:-1]):
        if name not in columns.column_names:
            said = None if value == NO_PARTITION else unquote(value)
            columns = columns.append_column(name, pa.array([said] * len(columns), pa.string()))
    return replace(table, name=str(path), columns=columns)


def read_table(path: Path, mapping: ColumnMapping) -> SourceTable:
    """One file."""
    with named_in_errors(path):
        if _begins_as_parquet(path):
            # Not `read_table`, which cannot have two columns of one name.
            return SourceTable(path.name, pq.ParquetFile(path).read(), mapping)
        form = TextFormat(
            delimiter=mapping.delimiter,
            quoted=mapping.quoted,
            encoding=mapping.encoding,
            column_names=mapping.columns,
            row_signs=(mapping.time, mapping.item),
        )
        return read_text(path, mapping, form)


def read_text(path: Path, mapping: ColumnMapping, form: TextFormat) -> SourceTable:
    """One file of delimited text."""
    rows = delimited.read_rows(path, form)
    return SourceTable(path.name, rows.columns, mapping, rows)


@contextmanager
def named_in_errors(path: Path | str) -> Iterator[None]:
    """What cannot be read at all (bytes for text, a wrong `time_format`) is one line with a name.

    Raises:
        DataError: the block raised an error of a file or of pyarrow.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: cannot be read: its name is no UTF-8: rename it") from error
    except (OSError, EOFError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}".replace("\n", " ")) from error


def _begins_as_parquet(path: Path) -> bool:
    if path.suffix.lower() == ".parquet":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"
