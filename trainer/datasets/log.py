"""Logs of events: MovieLens, or a shop's own tables, in event-time order."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

import msgspec
import xxhash
from headwater_client.errors import DataError
from headwater_client.events import Interaction, Item, encode

from features.settings import EventSettings
from trainer.datasets import records
from trainer.datasets.movielens import LAYOUTS, movielens_100k, read_movielens
from trainer.datasets.records import RefusedRecord, RowCounts, TableRecords
from trainer.datasets.tables import ColumnMapping, LogTables, read_tables

# An id of a source may be 256 characters, and what tells its lines apart comes behind it.
LONGEST_ORDER = 200
SHOWN_REFUSALS = 3


@dataclass(frozen=True)
class DataSource:
    """Where a log is.

    Args:
        cache_dir: where what is fetched stays.
        path: a file or a folder: MovieLens in any of its layouts, or tables; default:
            MovieLens-100K.
        mapping: which column of a table holds what; what it leaves open, `mapping.toml` beside
            the files may say.
    """

    cache_dir: Path
    path: Path | None = None
    mapping: ColumnMapping | None = None
    events: EventSettings = field(default_factory=EventSettings)


@dataclass(frozen=True)
class Log:
    """What people did, and with what.

    Attributes:
        events: in event-time order, within a tie in the order of their file.
        refused: rows that break the event contract.
        counts: what became of all rows of the files that the log was read from.
        order_lines: events whose id another one has, too, that says something else: the id of an
            order. Each was given an id of its own.
        passed_over: files of the folder that were not read.
    """

    events: Sequence[Interaction]
    items: Sequence[Item]
    refused: Sequence[RefusedRecord] = ()
    counts: RowCounts = field(default_factory=RowCounts)
    order_lines: int = 0
    passed_over: Sequence[str] = ()

    @property
    def fingerprint(self) -> str:
        """Names the events: the same for the same ones in the same order, hexadecimal."""
        digest = xxhash.xxh3_128()
        for event in self.events:
            digest.update(type(event).__name__)
            digest.update(encode(event))
        return digest.hexdigest()

    def describe_rows(self) -> list[str]:
        """Lines that say what became of the rows of the files: none has vanished."""
        lines = [f"refused: {row}" for row in self.refused[:SHOWN_REFUSALS]]
        if self.order_lines:
            lines.append(
                f"{self.order_lines:,} rows have the event id of another row that says something "
                "else, as if it were the id of an order: each counts, under an id of its own"
            )
        if beside := sum(not row.is_counted for row in self.refused):
            lines.append(f"what rows of events say of {beside:,} items is refused; they count")
        return [*lines, str(self.counts)]

    def head(self, count: int) -> "Log":
        """The first `count` events."""
        return replace(self, events=self.events[:count])

    def split(self, share: float) -> "tuple[Log, Log]":
        """The first `share` of the events, and the rest with the refused rows.

        Events of one instant stay together, so the first part can be a little longer. Both parts
        have all items.
        """
        cut = round(len(self.events) * share)
        while 0 < cut < len(self.events) and self._is_tie(cut):
            cut += 1
        first = replace(self, events=self.events[:cut], refused=())
        return first, replace(self, events=self.events[cut:])

    def split_after(self, time_ms: int) -> "tuple[Log, Log]":
        """The events up to a time, and those after it with the refused rows; as `split`."""
        cut = bisect_right(self.events, time_ms, key=attrgetter("timestamp"))
        first = replace(self, events=self.events[:cut], refused=())
        return first, replace(self, events=self.events[cut:])

    def _is_tie(self, index: int) -> bool:
        return self.events[index].timestamp == self.events[index - 1].timestamp


def load_log(source: DataSource) -> Log:
    """Read a log.

    The same files give the same events with the same ids. A row that breaks the event contract is
    in `Log.refused`; a file that cannot be used as a whole is an error.

    Raises:
        DataError: no such file, a missing column, no row can be used, nothing to fetch it from.
        SettingsError: the mapping is not understood.
    """
    log, parts = _read(source)
    for part in parts:
        part.check_any()
    if not log.events:
        raise DataError(f"{source.path or 'MovieLens-100K'}: no events in it")
    return log


def examine_log(source: DataSource) -> Log:
    """`load_log`, where a log without one event is one, too."""
    return _read(source)[0]


def examine_catalogue(path: Path, source: DataSource) -> Log:
    """The items of tables whose rows describe items, and are no events; as `examine_log`.

    Raises:
        DataError: no such file, or no column describes an item.
        SettingsError: the mapping is not understood.
    """
    _check_is_there(path)
    found = read_tables(path, source.mapping)
    items = [*found.events, *(found.items if found.items is not found.events else ())]
    log, _ = _build_log(LogTables([], items, found.passed_over), source.events)
    if not log.counts.rows:
        raise DataError(
            f"{path}: no row describes an item: its columns are {items[0].list_columns()}: say "
            "--map item=NAME and --map title=NAME (or category, brand, description)"
        )
    return log


def _check_is_there(path: Path) -> None:
    try:
        is_there = path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_there:
        raise DataError(f"{path}: no such file or folder")


def _read(source: DataSource) -> tuple[Log, Sequence[TableRecords]]:
    path = source.path or movielens_100k(source.cache_dir)
    _check_is_there(path)
    folder = path.parent if path.name in LAYOUTS else path
    found = read_movielens(folder) if source.mapping is None and folder.is_dir() else None
    return _build_log(found or read_tables(path, source.mapping), source.events)


def _build_log(tables: LogTables, settings: EventSettings) -> tuple[Log, Sequence[TableRecords]]:
    with _one_of(len(tables.events)):
        read = [records.read_events(table, settings.is_nobody) for table in tables.events]
        is_of_items = tables.items is not tables.events
        items = [records.read_items(table, is_of_items=is_of_items) for table in tables.items]
    parts, order_lines = _tell_lines_apart([part.values for part in read])
    events = [event for part in parts for event in part]
    events.sort(key=attrgetter("timestamp"))
    newest = {item.item_id: item for part in items for item in part.values}
    counts = sum((part.counts for part in (*read, *items)), RowCounts())
    counts.check()
    log = Log(
        events,
        list(newest.values()),
        _unique_refusals([*read, *items]),
        counts,
        order_lines,
        tables.passed_over,
    )
    return log, [*read, *items] if is_of_items else read


@contextmanager
def _one_of(tables: int) -> Iterator[None]:
    """What to do where one of several tables is none of events."""
    try:
        yield
    except DataError as error:
        if tables == 1:
            raise
        raise DataError(
            f"{error}; it is one of {tables} tables in its folder: name one file with --data, or "
            "--map items_file=NAME if it describes the items"
        ) from error


def _tell_lines_apart(
    parts: Sequence[Sequence[Interaction]],
) -> tuple[Sequence[Sequence[Interaction]], int]:
    """Give each line of an order an id of its own, where the source named the order only.

    Two events are taken for one if person, type and id are the same: of an order of three items one
    would count. Events that say the same altogether stay one.

    Returns:
        The events of each table, and how many have got another id.
    """
    times = Counter(event.event_id for part in parts for event in part)
    said: dict[tuple[type, str, str], set[bytes]] = {}
    for event in (each for part in parts for each in part if times[each.event_id] > 1):
        said.setdefault(_identity(event), set()).add(encode(event))
    orders = {identity for identity, contents in said.items() if len(contents) > 1}
    if not orders:
        return parts, 0
    names = [records.EventNames() for _ in parts]
    told = [
        [_name_line(event, each) if _identity(event) in orders else event for event in part]
        for part, each in zip(parts, names, strict=True)
    ]
    return told, sum(_identity(event) in orders for part in parts for event in part)


def _identity(event: Interaction) -> tuple[type, str, str]:
    return type(event), event.user_id, event.event_id


def _name_line(event: Interaction, names: records.EventNames) -> Interaction:
    said = names.name(type(event).__name__, msgspec.structs.asdict(event))
    return msgspec.structs.replace(event, event_id=f"{event.event_id[:LONGEST_ORDER]}/{said}")


def _unique_refusals(parts: Sequence[TableRecords]) -> list[RefusedRecord]:
    """Each row once, though it may have been read as an event and as an item."""
    first: dict[tuple[str, int], RefusedRecord] = {}
    for part in parts:
        for row in part.refused:
            first.setdefault((row.table, row.row), row)
    return list(first.values())


def item_texts(items: Iterable[Item]) -> dict[str, str]:
    """The text of each item that has one, by item id."""
    texts = {item.item_id: item_text(item) for item in items}
    return {item_id: text for item_id, text in texts.items() if text}


def item_text(item: Item) -> str:
    """What the language model reads of an item; empty where nothing is known of it.

    >>> item_text(Item(item_id="1", title="Alien", category=["Horror"], attributes={"year": 1979}))
    'Alien. Horror. year: 1979'
    """
    attributes = [f"{name}: {value}" for name, value in sorted(item.attributes.items())]
    parts = (item.title, item.brand, ", ".join(item.category), *attributes, item.description)
    return ". ".join(part for part in parts if part)
