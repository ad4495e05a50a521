"""Rows of tables as events and items, each checked by the event contract."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from headwater_client.errors import DataError, EventError
from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE, EventSpec
from headwater_client.events import MAX_FUTURE_MS, Interaction, Item, decode
from headwater_client.topics import ITEMS

from trainer.datasets import columns as column_values
from trainer.datasets import tables

Checked = TypeVar("Checked", bound=Interaction | Item)
Row = dict[str, Any]


@dataclass(frozen=True)
class RefusedRecord:
    """A row that breaks the event contract: where it stands, why, and what it would have been.

    `raw` sent to `topic` ends among the dead letters, so that no row is lost without a trace.
    """

    table: str
    row: int
    reason: str
    topic: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.table}: row {self.row}: {self.reason}"


@dataclass(frozen=True)
class TableRecords:
    """What the rows of one table became."""

    values: Sequence[Any]
    refused: Sequence[RefusedRecord]


def read_events(table: tables.SourceTable) -> TableRecords:
    """The events of a table, in the order of its rows.

    Raises:
        DataError: a column is missing, or no row can be read.
    """
    with _named_in_errors(table):
        columns = _event_columns(table)
        types = _types(table)
    read = _RecordCollector(table)
    for number, row, specs in zip(table.row_numbers(), _iterate_rows(columns), types, strict=True):
        for spec in specs:
            event_id = row.get("event_id") or f"{table.name}/{number}"
            suffix = "" if spec is specs[0] else f"/{spec.name}"
            read.add(spec.struct, spec.topic, row | {"event_id": event_id + suffix}, number)
    constant = tables.event_types_of(table.mapping.constant_type or "")
    # Lines that no table could be made of have no type: they are refused where most events are.
    return read.result(constant[0].topic if constant else CLICK.topic)


def read_items(table: tables.SourceTable) -> TableRecords:
    """The items of a table, each once, as its last row says; none if it says nothing of items.

    Raises:
        DataError: as `read_events`.
    """
    with _named_in_errors(table):
        columns = _item_columns(table)
    if not columns:
        return TableRecords((), ())
    read = _RecordCollector(table)
    last = {
        row.get("item_id"): (number, row)
        for number, row in zip(table.row_numbers(), _iterate_rows(columns), strict=True)
    }
    for number, row in last.values():
        read.add(Item, ITEMS, row, number)
    return read.result(ITEMS)


@contextmanager
def _named_in_errors(table: tables.SourceTable) -> Iterator[None]:
    """What pyarrow cannot read at all (bytes for text, a wrong `time_format`) names its table."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{table.name}: cannot be read: {error}".replace("\n", " ")) from error


class _RecordCollector:
    """Collects what the contract accepts and what it refuses."""

    def __init__(self, table: tables.SourceTable) -> None:
        self.table = table
        self.now_ms = int(time.time() * 1000)
        self.values: list[Interaction | Item] = []
        self.refused: list[RefusedRecord] = []

    def add(self, kind: type[Interaction | Item], topic: str, row: Row, number: int) -> None:
        try:
            self.values.append(_convert(kind, row, self.now_ms))
        except EventError as error:
            self.refused.append(
                RefusedRecord(self.table.name, number, str(error), topic, _encode_row(row))
            )

    def result(self, topic: str) -> TableRecords:
        refused = [
            *self.refused,
            *(_refuse_malformed(self.table, line, topic) for line in self.table.malformed),
        ]
        if refused and not self.values:
            raise DataError(f"{refused[0]} (and so are all of its {len(refused)} rows): see --map")
        return TableRecords(self.values, refused)


def _convert(kind: type[Checked], row: Row, now_ms: int) -> Checked:
    """The row as an event; the slow way that names what is wrong only after a failure."""
    try:
        event = msgspec.convert(row, kind)
    except msgspec.ValidationError:
        return decode(kind, _encode_row(row), now_ms)
    if not isinstance(event, Item) and event.timestamp > now_ms + MAX_FUTURE_MS:
        return decode(kind, _encode_row(row), now_ms)
    return event


def _encode_row(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _refuse_malformed(
    table: tables.SourceTable, line: tables.MalformedLine, topic: str
) -> RefusedRecord:
    return RefusedRecord(table.name, line.row, line.reason, topic, line.text.encode())


def _iterate_rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[Row]:
    """One dictionary a row, without what is empty in it."""
    names = tuple(columns)
    for values in zip(*columns.values(), strict=True):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _event_columns(table: tables.SourceTable) -> dict[str, Sequence[Any]]:
    mapping = table.mapping
    needed = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    optional = {
        "event_id": "event",
        "session_id": "session",
        "price": "price",
        "quantity": "quantity",
    }
    readers: dict[str, Callable[[Any], Sequence[Any]]] = {
        "timestamp": lambda column: column_values.times_ms(column, mapping),
        "price": column_values.numbers,
        "quantity": column_values.integers,
    }
    columns = {field: _find_column(table, by, required=True) for field, by in needed.items()}
    columns |= {field: _find_column(table, by) for field, by in optional.items()}
    return {
        field: readers.get(field, column_values.texts)(column)
        for field, column in columns.items()
        if column is not None
    }


def _item_columns(table: tables.SourceTable) -> dict[str, Sequence[Any]]:
    mapping = table.mapping
    texts = {name: _find_column(table, name) for name in ("title", "description", "brand")}
    columns: dict[str, Sequence[Any]] = {
        name: column_values.texts(column) for name, column in texts.items() if column is not None
    }
    if (category := _find_column(table, "category")) is not None:
        columns["category"] = column_values.lists(category, mapping.category_separator)
    if mapping.item_price and (price := _find_column(table, "item_price")) is not None:
        columns["price"] = column_values.numbers(price)
    if mapping.attributes:
        columns["attributes"] = _attributes(table)
    if columns or mapping.items_file:
        columns["item_id"] = column_values.texts(_find_column(table, "item", required=True))
    return columns


def _attributes(table: tables.SourceTable) -> Sequence[Any]:
    columns = {
        name: column_values.numbers(_get_column(table, "attributes", name))
        for name in table.mapping.attributes
    }
    return list(_iterate_rows(columns))


def _types(table: tables.SourceTable) -> Sequence[tuple[EventSpec, ...]]:
    """What each row says that the person did."""
    mapping = table.mapping
    if mapping.constant_type:
        return [tables.event_types_of(mapping.constant_type)] * len(table.columns)
    for field in ("rating", "type") if mapping.is_given("rating") else ("type", "rating"):
        if (column := _find_column(table, field)) is not None:
            return (
                _types_by_name(table, column)
                if field == "type"
                else _types_by_rating(table, column)
            )
    options = " or ".join(f"--type {name}" for name in EVENT_TYPES)
    raise DataError(
        f"{table.name}: no column {mapping.type!r} that says what a row is: say {options}, or name "
        f"the column: --map type=NAME; it has {_list_columns(table)}"
    )


def _types_by_rating(table: tables.SourceTable, column: Any) -> Sequence[tuple[EventSpec, ...]]:
    both, click = (CLICK, PURCHASE), (CLICK,)
    lowest = table.mapping.purchase_rating
    return [
        both if isinstance(value, int | float) and value >= lowest else click
        for value in column_values.numbers(column)
    ]


def _types_by_name(table: tables.SourceTable, column: Any) -> Sequence[tuple[EventSpec, ...]]:
    return [tables.event_types_of(_row_type(table, value)) for value in column_values.texts(column)]


def _row_type(table: tables.SourceTable, value: str | None) -> str:
    try:
        return table.mapping.types[value or ""]
    except KeyError:
        raise DataError(
            f"{table.name}: {table.mapping.type}: {value!r} is no known type: "
            f"say --type {value}={', '.join(EVENT_TYPES)} or {tables.SKIP}"
        ) from None


def _find_column(table: tables.SourceTable, field: str, *, required: bool = False) -> Any:
    """The column of a field of the mapping; None where it is not there and need not be."""
    name = getattr(table.mapping, field)
    if not table.has(name) and not required and not table.mapping.is_given(field):
        return None
    return _get_column(table, field, name)


def _get_column(table: tables.SourceTable, field: str, name: str) -> Any:
    if not table.has(name):
        raise DataError(
            f"{table.name}: no column {name!r}: it has {_list_columns(table)}: "
            f"say --map {field}=NAME"
        )
    return table.columns[name]


def _list_columns(table: tables.SourceTable) -> str:
    return ", ".join(table.columns.column_names)
