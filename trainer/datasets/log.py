"""Logs of events: MovieLens, or a shop's own tables, in event-time order."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import xxhash
from headwater_client.errors import DataError
from headwater_client.events import Interaction, Item, encode

from trainer.datasets.movielens import LAYOUTS, movielens_100k, read_movielens
from trainer.datasets.records import RefusedRecord, TableRecords, read_events, read_items
from trainer.datasets.tables import ColumnMapping, LogTables, read_tables


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


@dataclass(frozen=True)
class Log:
    """What people did, and with what.

    `events` are in event-time order, within a tie in the order of their file. `refused` are rows
    that break the event contract.
    """

    events: Sequence[Interaction]
    items: Sequence[Item]
    refused: Sequence[RefusedRecord] = ()

    @property
    def fingerprint(self) -> str:
        """Names the events: the same for the same ones in the same order, hexadecimal."""
        digest = xxhash.xxh3_128()
        for event in self.events:
            digest.update(type(event).__name__)
            digest.update(encode(event))
        return digest.hexdigest()

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
        DataError: no such file, a missing column, not a readable row, nothing to fetch it from.
        SettingsError: the mapping is not understood.
    """
    path = source.path or movielens_100k(source.cache_dir)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    log = _build_log(_read_source(path, source.mapping))
    if not log.events:
        raise DataError(f"{path}: no events in it")
    return log


def _read_source(path: Path, mapping: ColumnMapping | None) -> LogTables:
    folder = path.parent if path.name in LAYOUTS else path
    found = read_movielens(folder) if mapping is None and folder.is_dir() else None
    return found or read_tables(path, mapping)


def _build_log(tables: LogTables) -> Log:
    read = [read_events(table) for table in tables.events]
    events = [event for part in read for event in part.values]
    events.sort(key=attrgetter("timestamp"))
    items = [read_items(table) for table in tables.items]
    newest = {item.item_id: item for part in items for item in part.values}
    return Log(events, list(newest.values()), _unique_refusals([*read, *items]))


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
