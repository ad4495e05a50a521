"""Rows of tables as events and items, each checked by the event contract."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import xxhash
from headwater_client.decoders import convert
from headwater_client.errors import DataError, EventError, HeadwaterError
from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE, EventSpec
from headwater_client.events import MAX_FUTURE_MS, Interaction, Item, decode
from headwater_client.topics import ITEMS

from trainer.datasets import columns as column_values
from trainer.datasets import tables
from trainer.datasets.delimited import MalformedLine

Checked = TypeVar("Checked", bound=Interaction | Item)
Row = dict[str, Any]

# What an event that has no name is named for, beside its type.
SAID = ("user_id", "item_id", "timestamp", "session_id", "price", "quantity")
DIGITS_OF_A_TIME = 8
STANDS_FOR_NOBODY = "stands for nobody, by events.nobody"
MISSING_TYPE = "type", "<missing>", "is required: to leave such rows out, say --type =skip"
Specs = tuple[EventSpec, ...] | EventError
"""What events a row becomes: none of a type that is skipped; an error where it does not say."""


# Why a row is passed over that breaks no rule.
SKIPPED_TYPE = "of a type that is skipped"
SKIPPED_HEADING = "the heading once more"
SKIPPED_ITEM = "of an item that a later row describes"


@dataclass(frozen=True)
class RefusedRecord:
    """A row that breaks the event contract: where it stands, why, and what it would have been.

    `kind` is the reason without the row's own value. `raw` sent to `topic` ends among the dead
    letters, so that no row is lost without a trace. `is_counted` is False for what a row of an
    event says of its item: the row is counted for its event.
    """

    table: str
    row: int
    reason: str
    topic: str
    raw: bytes
    kind: str = ""
    is_counted: bool = True

    def __str__(self) -> str:
        return f"{self.table}: row {self.row}: {self.reason}"


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of some tables: each row is counted once.

    Attributes:
        rows: all that the files have, without headings and empty lines.
        events: those that are an event; a good rating is one, too, though two events are made of
            it.
        items: those of tables of items only.
        refused: those that break the event contract.
        skipped: those passed over, by reason.
        people: those that say something of a person.
    """

    rows: int = 0
    events: int = 0
    items: int = 0
    refused: int = 0
    skipped: Mapping[str, int] = field(default_factory=Counter)
    people: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(
            self.rows + other.rows,
            self.events + other.events,
            self.items + other.items,
            self.refused + other.refused,
            Counter(self.skipped) + Counter(other.skipped),
            self.people + other.people,
        )

    def __str__(self) -> str:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
        items = f"{self.items:,} of items, " if self.items else ""
        items += f"{self.people:,} of people, " if self.people else ""
        return (
            f"{self.rows:,} rows: {self.events:,} of events, {items}{self.refused:,} refused, "
            f"{sum(self.skipped.values()):,} skipped{f' ({skipped})' if skipped else ''}"
        )

    def check(self) -> None:
        """Find out whether a row has vanished.

        Raises:
            HeadwaterError: the parts are not the whole, which is a mistake of Headwater's.
        """
        found = self.events + self.items + self.people + self.refused
        found += sum(self.skipped.values())
        if found != self.rows:
            raise HeadwaterError(
                f"{self}: these are {found:,}: rows have been lost or counted twice: please report "
                "it with a part of the file"
            )


@dataclass(frozen=True)
class TableRecords:
    """What the rows of one table became."""

    values: Sequence[Any] = ()
    refused: Sequence[RefusedRecord] = ()
    counts: RowCounts = field(default_factory=RowCounts)

    def check_any(self) -> None:
        """Find out whether a row can be used.

        Raises:
            DataError: each was refused.
        """
        if self.refused and not self.values:
            raise DataError(
                f"{self.refused[0]} (and so are all of its {len(self.refused)} rows): see --map"
            )


def read_events(table: tables.SourceTable, nobody: Callable[[str], bool]) -> TableRecords:
    """The events of a table, in the order of its rows.

    An event that the source did not name is named for what it says, so that the same row in
    another file, or of another night's, is the same event; of rows that say the same in one file
    the second is another event than the first.

    Args:
        nobody: whether a user_id stands for nobody.

    Raises:
        DataError: a column is missing or cannot be read.
    """
    with tables.named_in_errors(table.name):
        columns = _event_columns(table)
        types = _types(table)
    read, named = _RecordCollector(table, nobody), EventNames()
    events = 0
    for number, row, specs in zip(table.row_numbers(), _iterate_rows(columns), types, strict=True):
        if isinstance(specs, EventError):
            read.refuse(number, row, CLICK.topic, specs)
            continue
        if not specs:
            read.skipped[SKIPPED_TYPE] += 1
            continue
        event_id = row.get("event_id")
        if event_id is None:
            event_id = (
                f"{table.name}/{number}" if table.has_fixed_rows else named.name(specs[0].name, row)
            )
        added = [
            read.add(spec.struct, spec.topic, row | {"event_id": event_id + suffix}, number)
            for spec, suffix in zip(specs, _suffixes(specs), strict=True)
        ]
        events += all(added)
    constant = tables.event_types_of(table.mapping.constant_type or "")
    # Lines that no table could be made of have no type: they are refused where most events are.
    found = read.result(constant[0].topic if constant else CLICK.topic)
    return replace(found, counts=replace(found.counts, events=events))


def _suffixes(specs: Sequence[EventSpec]) -> list[str]:
    return ["" if spec is specs[0] else f"/{spec.name}" for spec in specs]


class EventNames:
    """Names events for what they say: person, item, type, time and what else is known of them."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()

    def name(self, kind: str, row: Mapping[str, Any]) -> str:
        """16 hexadecimal digits; behind them the number of the row among those that say the same.

        Args:
            row: values by field of the event contract.
        """
        said = [kind, *(row.get(name) for name in SAID)]
        digest = xxhash.xxh3_64_intdigest(json.dumps(said).encode())
        self._seen[digest] += 1
        number = self._seen[digest]
        return f"{digest:016x}" if number == 1 else f"{digest:016x}/{number}"


def read_items(table: tables.SourceTable, *, is_of_items: bool) -> TableRecords:
    """The items of a table, each once, as its last row says; none if it says nothing of items.

    Args:
        is_of_items: whether its rows are no events, so that what becomes of them is counted here.

    Raises:
        DataError: as `read_events`.
    """
    with tables.named_in_errors(table.name):
        columns = _item_columns(table)
    if not columns:
        return TableRecords()
    read = _RecordCollector(table)
    last = {
        # Each row without an id is refused.
        row.get("item_id") or number: (number, row)
        for number, row in zip(table.row_numbers(), _iterate_rows(columns), strict=True)
    }
    items = sum(read.add(Item, ITEMS, row, number) for number, row in last.values())
    read.skipped[SKIPPED_ITEM] += len(table.columns) - len(last)
    found = read.result(ITEMS)
    if is_of_items:
        return replace(found, counts=replace(found.counts, items=items))
    beside = [replace(row, is_counted=False) for row in found.refused]
    return TableRecords(found.values, beside)


class _RecordCollector:
    """Collects what the contract accepts and what it refuses."""

    def __init__(
        self, table: tables.SourceTable, nobody: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.table = table
        self.nobody = nobody
        self.now_ms = int(time.time() * 1000)
        self.values: list[Interaction | Item] = []
        self.refused: list[RefusedRecord] = []
        self.skipped: Counter[str] = Counter()

    def add(self, kind: type[Interaction | Item], topic: str, row: Row, number: int) -> bool:
        """Whether the contract accepts the row."""
        try:
            event = _convert(kind, row, self.now_ms)
            self._check_somebody(event)
        except EventError as error:
            self.refuse(number, row, topic, error)
            return False
        self.values.append(event)
        return True

    def _check_somebody(self, event: Interaction | Item) -> None:
        if isinstance(event, Interaction) and self.nobody(event.user_id):
            raise EventError("user_id", event.user_id, STANDS_FOR_NOBODY)

    def refuse(self, number: int, row: Row, topic: str, error: EventError) -> None:
        """Keep a row that breaks the contract."""
        kind = f"{error.field}: {error.expected.partition(': expected')[0]}"
        self.refused.append(
            RefusedRecord(self.table.name, number, str(error), topic, _encode_row(row), kind)
        )

    def result(self, topic: str) -> TableRecords:
        """What was collected; who counts events and items adds them to the counts."""
        text = self.table.text
        refused = [
            *self.refused,
            *(_refuse_malformed(self.table, line, topic) for line in text.malformed),
        ]
        if text.headings:
            self.skipped[SKIPPED_HEADING] += len(text.headings)
        counts = RowCounts(
            rows=len(self.table.columns) + len(text.malformed) + len(text.headings),
            refused=len({row.row for row in refused}),
            skipped=+self.skipped,
        )
        return TableRecords(self.values, refused, counts)


def _convert(kind: type[Checked], row: Row, now_ms: int) -> Checked:
    """The row as an event; the slow way that names what is wrong only after a failure."""
    try:
        event = convert(row, kind)
    except msgspec.ValidationError:
        return decode(kind, _encode_row(row), now_ms)
    if not isinstance(event, Item) and event.timestamp > now_ms + MAX_FUTURE_MS:
        return decode(kind, _encode_row(row), now_ms)
    return event


def _encode_row(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _refuse_malformed(table: tables.SourceTable, line: MalformedLine, topic: str) -> RefusedRecord:
    raw = line.text.encode()
    return RefusedRecord(table.name, line.row, line.reason, topic, raw, line.kind)


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
        "price": lambda column: column_values.numbers(column, mapping.decimal),
        "quantity": lambda column: column_values.integers(column, mapping.decimal),
    }
    columns = {field: _find_column(table, by, required=True) for field, by in needed.items()}
    _check_heading(table)
    columns |= {field: _find_column(table, by) for field, by in optional.items()}
    return {
        field: _read_column(table, (needed | optional)[field], column, readers.get(field))
        for field, column in columns.items()
        if column is not None
    }


def _read_column(
    table: tables.SourceTable,
    by: str,
    column: Any,
    read: Callable[[Any], Sequence[Any]] | None,
) -> Sequence[Any]:
    with tables.named_in_errors(f"{table.name}: column {tables.show_name(table.column_of(by))}"):
        return (read or column_values.ids)(column)


def _check_heading(table: tables.SourceTable) -> None:
    """A table whose column of times is called by a time has lost its first row to the heading."""
    name = table.column_of("time")
    if sum(map(str.isdigit, name)) >= DIGITS_OF_A_TIME and not table.mapping.columns:
        raise DataError(
            f"{table.name}: its first line is a row, as {name!r} is no name of a column: name the "
            f"columns: --map columns=user,item,time,... ({len(table.columns.column_names)} names)"
        )


def _item_columns(table: tables.SourceTable) -> dict[str, Sequence[Any]]:
    mapping = table.mapping
    texts = {name: _find_column(table, name) for name in ("title", "description", "brand")}
    columns: dict[str, Sequence[Any]] = {
        name: column_values.texts(column) for name, column in texts.items() if column is not None
    }
    if (category := _find_column(table, "category")) is not None:
        columns["category"] = column_values.lists(category, mapping.category_separator)
    if mapping.item_price and (price := _find_column(table, "item_price")) is not None:
        columns["price"] = column_values.numbers(price, mapping.decimal)
    if mapping.attributes:
        columns["attributes"] = _attributes(table)
    if columns or mapping.items_file:
        columns["item_id"] = column_values.ids(_find_column(table, "item", required=True))
    return columns


def _attributes(table: tables.SourceTable) -> Sequence[Any]:
    columns = {
        name: column_values.numbers(table.get("attributes", name), table.mapping.decimal)
        for name in table.mapping.attributes
    }
    return list(_iterate_rows(columns))


def _types(table: tables.SourceTable) -> Sequence[Specs]:
    """What each row says that the person did."""
    mapping = table.mapping
    if mapping.constant_type:
        return [tables.event_types_of(mapping.constant_type)] * len(table.columns)
    for said_by in ("rating", "type") if mapping.is_given("rating") else ("type", "rating"):
        if (column := _find_column(table, said_by)) is not None:
            return (
                _types_by_name(table, column)
                if said_by == "type"
                else _types_by_rating(table, column)
            )
    options = " or ".join(f"--type {name}" for name in EVENT_TYPES)
    raise DataError(
        f"{table.name}: no column {mapping.type!r} that says what a row is: say {options}, or name "
        f"the column: --map type=NAME; it has {table.list_columns()}"
    )


def _types_by_rating(table: tables.SourceTable, column: Any) -> Sequence[Specs]:
    both, click = (CLICK, PURCHASE), (CLICK,)
    lowest = table.mapping.purchase_rating

    def specs_of(value: Any) -> Specs:
        if isinstance(value, str):
            return EventError("rating", value, "expected a number, or nothing")
        return both if value is not None and value >= lowest else click

    return [specs_of(value) for value in column_values.numbers(column, table.mapping.decimal)]


def _types_by_name(table: tables.SourceTable, column: Any) -> Sequence[Specs]:
    values = column_values.texts(column)
    types = {value: _row_type(table, value) for value in dict.fromkeys(values)}
    return [types[value] for value in values]


def _row_type(table: tables.SourceTable, value: str | None) -> Specs:
    known, name = table.mapping.types, value or ""
    # `View ` is `view`, unless both are named.
    plain = {each.strip().casefold(): row_type for each, row_type in known.items()}
    if (row_type := known.get(name) or plain.get(name.strip().casefold())) is not None:
        return tables.event_types_of(row_type)
    if name.strip().casefold() in ("", column_values.NOT_A_NUMBER):
        return EventError(*MISSING_TYPE)
    raise DataError(
        f"{table.name}: {table.mapping.type}: {value!r} is no known type: "
        f"say --type {tables.show_name(name)}={', '.join(EVENT_TYPES)} or {tables.SKIP}"
    )


def _find_column(table: tables.SourceTable, field_name: str, *, required: bool = False) -> Any:
    """The column of a field of the mapping; None where it is not there and need not be."""
    name = table.column_of(field_name)
    if not table.has(name) and not required and not table.mapping.is_given(field_name):
        return None
    return table.get(field_name, name)
