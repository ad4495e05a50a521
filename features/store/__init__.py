"""The store of feature rows, whichever server holds it: its tables, and how they are used.

Tables and their columns are read from `features/repo/views.yaml`, which Feast's own definitions
read too: Feast is not needed to know what a column is called.

A row is read as bytes by column, and written only if one column, its version, is still as it was
read: so two workers that hold the same person for a moment never lose an event. Feast's own
`OnlineStore` interface cannot promise that; `features.store.redis` is the one implementation of
`RowStore`, and docs/decisions/0001 says what another would have to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any, NamedTuple, Protocol

import structlog
import yaml
from headwater_client.errors import ServerError, SettingsError
from headwater_client.event_types import EVENT_TYPES

from features.metrics import make_counter
from features.schema import FeatureSchema, RowMark

VIEWS_FILE = "views.yaml"
# The column that a conditional write compares: every event absorbed changes it.
VERSION = "offsets"
ROWS_MARK = "headwater:layout"
_LOADED_MARK = "headwater:loaded"
_set_aside: set[int] = set()
log = structlog.get_logger()


class ColumnType(StrEnum):
    """What a column holds, by the name of the field of Feast's `Value` without `_val`."""

    BOOL = "bool"
    BYTES = "bytes"
    DOUBLE = "double"
    DOUBLES = "double_list"
    INT64 = "int64"
    INT64S = "int64_list"
    STRING = "string"
    STRINGS = "string_list"


@dataclass(frozen=True, eq=False)
class StoreTable:
    """A feature view as the store holds it.

    Attributes:
        name: of the view.
        join_key: what its entity's ids are called.
        types: of its columns, by name and in order.
    """

    name: str
    join_key: str
    types: Mapping[str, ColumnType]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(self.types)


def read_views() -> dict[str, Any]:
    """The views file of this package, as it stands."""
    text = (files("features.repo") / VIEWS_FILE).read_text()
    views: dict[str, Any] = yaml.safe_load(text)
    return views


def views_for(partitions: int) -> dict[str, Any]:
    """The views file for topics of so many partitions: what a rendered repository holds."""
    return read_views() | {"topics": list(EVENT_TYPES.item_topics), "partitions": partitions}


def item_sources(partitions: int) -> list[str]:
    """Names of the columns of `item_popularity`: one for each topic and partition."""
    parts = [*map(str, range(partitions)), LOADED]
    return [f"{topic}_{part}" for topic in EVENT_TYPES.item_topics for part in parts]


def _join_key(view: str) -> str:
    key: str = _VIEWS["entities"][_VIEWS["views"][view]["entity"]]["join_key"]
    return key


def _table(view: str) -> StoreTable:
    columns = _VIEWS["views"][view]["columns"]
    return StoreTable(view, _join_key(view), {n: ColumnType(kind) for n, kind in columns.items()})


_VIEWS = read_views()
DAMAGED_ROWS = make_counter(
    "headwater_damaged_rows_total",
    "Rows that did not decode and were begun anew",
    "table",
    _VIEWS["views"],
)
LOADED: str = _VIEWS["loaded"]
USERS = _table("user_activity")
ATTRIBUTES = _table("person_attributes")
SHOWN = _table("person_shown")
CATALOGUE = _table("item_catalogue")
TRENDING = _table("trending")
FEEDBACK = _table("rollout_feedback")


def popularity_table(partitions: int) -> StoreTable:
    """The table of item rows for the topics of all event types, each of so many partitions."""
    kind = ColumnType(_VIEWS["views"]["item_popularity"]["column_per_source"])
    types = dict.fromkeys(item_sources(partitions), kind)
    return StoreTable("item_popularity", _join_key("item_popularity"), types)


class StoreRestartedError(ServerError):
    """The store was restarted or failed over: rows that were not yet on disk may be gone."""


class StoreRefusalError(SettingsError):
    """The store will not do what it is asked, however long one waits."""


class StoreUnavailableError(ServerError):
    """The store is away, or takes no writes for now; `reason` is a word for metrics."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what)
        self.reason = reason


class RowRead(NamedTuple):
    """Columns of one row to read."""

    table: StoreTable
    entity_id: str
    columns: Sequence[str]


class RowWrite(NamedTuple):
    """Columns of one row to write if column `version` still holds `expected` (None: nothing)."""

    table: StoreTable
    entity_id: str
    columns: Mapping[str, bytes]
    time_ms: int
    version: str
    expected: bytes | None


class EntryAppend(NamedTuple):
    """Entries to add to a column of bytes: each a time, then what it is about.

    Attributes:
        entries: one after another, of `ENTRY_BYTES` each: a time (`ENTRY_TIME_BYTES`), then its
            subject. What there is of the same subject goes.
        limit: entries that the column keeps, the last ones; 0: none.
    """

    table: StoreTable
    entity_id: str
    column: str
    entries: bytes
    time_ms: int
    limit: int


ENTRY_TIME_BYTES, ENTRY_BYTES = 4, 12
DAMAGED_KEPT_S = 30 * 86_400


class RowStore(Protocol):
    """Reads many rows in one round trip, and writes each only if it is still as it was read."""

    @property
    def address(self) -> str:
        """Where the store is, as its settings say."""

    async def check(self) -> None:
        """Ask the server whether it keeps what it is given, and lets this user work.

        Raises:
            SettingsError: it does not; a line for each reason says what to change.
            ServerError: the store does not answer.
        """

    async def read(self, reads: Sequence[RowRead]) -> list[dict[str, bytes | None]]:
        """The raw columns of each row, in one round trip; None for a column without a value.

        Raises:
            ServerError: the store does not answer.
        """

    async def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        """Write each row that is still as it was read; False where another has written since.

        A row is written whole or not at all; the batch is not atomic, and its order is kept.

        Raises:
            ServerError: the store does not answer. Some rows may have been written: read again.
        """

    async def append(self, appends: Sequence[EntryAppend]) -> None:
        """Add entries to columns, each at once: several writers take nothing from each other.

        Raises:
            ServerError: the store does not answer. Adding the same again changes nothing.
        """

    async def wait_until_durable(self, timeout_ms: int) -> bool:
        """Wait until all that was written so far is on disk, as the settings ask.

        Returns:
            False when the time ran out.

        Raises:
            StoreRestartedError: the server is not the one that took the earlier writes.
            ServerError: it does not answer, or cannot say what is on disk.
        """

    async def claim(self, mark: str, text: str, replace: bool = False) -> str:
        """Mark the store with a text, where it has no such mark yet; `replace` it where it has.

        Returns:
            What the mark was before, or `text` where there was none: of several that come at the
            same moment one decides, and the others learn what it wrote.

        Raises:
            ServerError: the store does not answer.
        """

    async def keep_damaged(self, read: RowRead, stored: Mapping[str, bytes | None]) -> str:
        """Keep what columns hold under a key of its own, for 30 days; the row is left as it is.

        Returns:
            The key. It does not tell a person's id.

        Raises:
            ServerError: the store does not answer.
        """

    async def read_mark(self, mark: str) -> str | None:
        """A mark of the store; None where it has none.

        Raises:
            ServerError: the store does not answer.
        """

    async def positions(self) -> dict[str, bytes]:
        """What the store says of how far its rows are, by name: `features.positions`.

        Raises:
            ServerError: the store does not answer.
        """

    async def move_positions(self, moves: Mapping[str, tuple[bytes, bytes]]) -> dict[str, bytes]:
        """Write positions, each where it is still as it was read: all of them, or none.

        Args:
            moves: by name, what was read (b"" where there was none) and what is to be there.

        Returns:
            What is there now, by name: what was to be there, if they were written.

        Raises:
            ServerError: the store does not answer.
        """

    async def close(self) -> None:
        """Close the connections."""


async def set_aside(
    store: RowStore, read: RowRead, stored: Mapping[str, bytes | None], error: Exception
) -> None:
    """Keep what does not decode before the row is begun anew; say so, and count it.

    The row itself goes with the next write, which is conditional on what was read, as any other.

    Raises:
        ServerError: the store does not answer.
    """
    damage = hash((read.table.name, read.entity_id, *stored.values()))
    if damage in _set_aside:
        # Read again and again until it is written.
        return
    key = await store.keep_damaged(read, stored)
    _set_aside.add(damage)
    tell_damaged(read.table, key, error)


def tell_damaged(table: StoreTable, kept: str, error: Exception) -> None:
    """Count a row that does not decode, and say where what it held is kept."""
    DAMAGED_ROWS.labels(table.name).inc()
    log.error("row_damaged", table=table.name, kept=kept, error=str(error))


async def claim_rows(store: RowStore, schema: FeatureSchema) -> None:
    """Check the store, and that its rows are of this schema; whoever comes first decides.

    Raises:
        SettingsError: rows of another schema are there, or the store does not keep rows.
        ServerError: the store does not answer.
    """
    found = await store.claim(ROWS_MARK, schema.row_mark)
    _check_mark(store, schema, found)
    if RowMark(found) != RowMark(schema.row_mark):
        # Rows that this process writes count types of events that the mark does not know of.
        await store.claim(ROWS_MARK, schema.row_mark, replace=True)


async def check_rows(store: RowStore, schema: FeatureSchema) -> None:
    """Check that rows are of this schema, for who only reads them.

    Raises:
        SettingsError: rows of another schema are there.
        ServerError: the store does not answer.
    """
    if (found := await store.read_mark(ROWS_MARK)) is not None:
        _check_mark(store, schema, found)


def _check_mark(store: RowStore, schema: FeatureSchema, found: str) -> None:
    if not RowMark(found).fits(RowMark(schema.row_mark)):
        raise SettingsError(
            f"features: the store at {store.address} holds rows of other settings, {found}: "
            "set these, or use an empty store"
        )


async def claim_log(store: RowStore, fingerprint: str) -> None:
    """Check that this is the log that was loaded from files; whoever comes first decides.

    Rows know what they have absorbed of it by its place alone.

    Raises:
        SettingsError: another log was loaded.
        ServerError: the store does not answer.
    """
    if await store.claim(_LOADED_MARK, fingerprint) != fingerprint:
        raise SettingsError(
            f"--data: another log was loaded into the store at {store.address}: "
            "load that one again, or use an empty store"
        )
