"""A batch changes user and item rows, each event once, whatever else happens meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from headwater_client.errors import ServerError
from headwater_client.events import Click, Item
from msgspec import structs
from structlog.testing import capture_logs

from features.columns import CatalogueEntry, decode_group, decode_user, encode_columns
from features.rows import ItemGroup, UserRow
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.store import DAMAGED_ROWS, USERS, RowWrite, StoreTable, popularity_table
from features.topics import Hash
from stream import metrics
from stream.catalogue import CatalogueCache, ItemUpdate, write_items
from stream.row_updates import (
    ConsumerRecord,
    ItemGroupKey,
    RowChanges,
    RowReader,
    RowUpdater,
    RowView,
)
from tests.harness.memory_store import MemoryRowStore

SCHEMA = FeatureSchema(FeatureSettings())
POPULARITY = popularity_table(1)
NOW_MS = 1_700_000_000_000
KEY = ItemGroupKey("i", "clicks_0")


def updater(store: MemoryRowStore, cache_size: int = 100) -> RowUpdater:
    return RowUpdater(store, SCHEMA, CatalogueCache(store, 5.0), POPULARITY, cache_size)  # type: ignore[arg-type]


def click(offset: int, user_id: str = "ann") -> ConsumerRecord:
    event = Click(event_id=f"e{offset}", user_id=user_id, item_id="i", timestamp=NOW_MS + offset)
    return ConsumerRecord(event, "clicks_0", 1, offset)  # type: ignore[arg-type]


def user(store: MemoryRowStore, name: str = "ann") -> UserRow:
    return decode_user(store.rows["user_activity", name], SCHEMA)


def group(store: MemoryRowStore) -> ItemGroup:
    return decode_group(store.rows["item_popularity", "i"]["clicks_0"], SCHEMA)


def apply(found: RowUpdater, *records: ConsumerRecord) -> RowChanges:
    return asyncio.run(found.apply(records))


def test_a_batch_changes_the_rows_of_its_users_and_items() -> None:
    store = MemoryRowStore()
    changes = apply(updater(store), click(0), click(1, "bob"), click(2))
    assert set(changes.users) == {"ann", "bob"}
    assert [len(user(store, name).history) for name in ("ann", "bob")] == [2, 1]
    assert changes.groups[KEY].values[-1] == group(store).values[-1] == 3


@pytest.mark.parametrize("cache_size", [0, 100])
def test_events_that_are_read_again_change_nothing(cache_size: int) -> None:
    store = MemoryRowStore()
    rows = updater(store, cache_size)
    apply(rows, click(0), click(1))
    before = {key: dict(row) for key, row in store.rows.items()}
    for again in (rows, updater(store)):
        assert apply(again, click(0), click(1)).groups == {}
        assert store.rows == before


def test_rows_are_read_once_while_they_are_cached() -> None:
    store = MemoryRowStore()
    rows = updater(store)
    for offset in range(3):
        apply(rows, click(offset))
    assert store.reads == 1
    assert group(store).values[-1] == 3


def test_a_row_that_another_worker_changed_is_read_again_and_nothing_counts_twice() -> None:
    store = MemoryRowStore()
    mine = updater(store)
    apply(mine, click(0))
    # Another worker has the partition for a moment: the rows cached here are old.
    apply(updater(store), click(1))
    changes = apply(mine, click(1), click(2))
    assert group(store).values[-1] == 3
    assert len(user(store).history) == len(changes.users["ann"].history) == 3


def test_item_rows_are_written_first_so_that_a_crash_between_counts_an_event_once() -> None:
    store = MemoryRowStore()

    def fail_at_users(writes: Sequence[RowWrite]) -> None:
        if writes[0].table is USERS:
            raise ServerError("the store is away")

    store.before_write = fail_at_users
    with pytest.raises(ServerError):
        apply(updater(store), click(0))
    assert group(store).values[-1] == 1
    assert ("user_activity", "ann") not in store.rows
    store.before_write = lambda writes: None
    apply(updater(store), click(0), click(1))
    assert group(store).values[-1] == 2
    assert len(user(store).history) == 2


def test_rows_that_could_not_be_written_are_not_used_again() -> None:
    store = MemoryRowStore()
    rows = updater(store)
    apply(rows, click(0))

    def fail(writes: Sequence[RowWrite]) -> None:
        raise ServerError("the store is away")

    store.before_write = fail
    with pytest.raises(ServerError):
        apply(rows, click(1))
    store.before_write = lambda writes: None
    apply(rows, click(1))
    assert group(store).values[-1] == 2
    assert len(user(store).history) == 2


def test_ids_that_are_used_twice_are_counted_and_told_once_a_minute() -> None:
    def count(content: str) -> float:
        return metrics.REPEATED_EVENTS.labels("clicks", content)._value.get()

    before = {content: count(content) for content in ("same", "other")}
    rows = updater(MemoryRowStore())
    line = click(0).event
    other = structs.replace(line, item_id="j")
    with capture_logs() as lines:
        apply(rows, click(0), click(0)._replace(offset=1))
        for offset in (2, 3):
            apply(rows, ConsumerRecord(other, "clicks_0", 1, offset))  # type: ignore[arg-type]
    assert {content: count(content) - before[content] for content in before} == {
        "same": 1,
        "other": 2,
    }
    assert [each["event"] for each in lines] == ["event_id_used_twice"]


def stored_column(table: StoreTable, column: str, value: object) -> tuple[str, str, bytes]:
    return table.name, column, encode_columns(table, {column: value})[column]


DAMAGE: list[tuple[str, str, bytes | None]] = [
    ("user_activity", "counters", b"\x12\xff"),
    ("user_activity", "counters", None),
    ("user_activity", "category_counters", b"junk"),
    ("user_activity", "offsets", b"\xff\xff"),
    ("item_popularity", "clicks_0", b"\xff"),
    stored_column(USERS, "history_items", [1, 2]),
    stored_column(USERS, "history_types", [9]),
    stored_column(USERS, "counters", [math.nan]),
    stored_column(USERS, "category_counters", [1.0]),
    stored_column(USERS, "taken", b"123"),
    stored_column(USERS, "offsets", [1, 2, 3]),
    stored_column(POPULARITY, "clicks_0", [1.0, 2.0]),
    stored_column(POPULARITY, "clicks_0", [math.inf] * 7),
    # A value of another type: it is no empty list, by which all would count once more.
    ("user_activity", "offsets", stored_column(USERS, "counters", [1.0])[2]),
    ("user_activity", "taken", stored_column(USERS, "offsets", [1, 2])[2]),
    ("item_popularity", "clicks_0", stored_column(USERS, "offsets", [1, 2])[2]),
]


@pytest.mark.parametrize(("table", "column", "found"), DAMAGE)
def test_a_row_that_does_not_decode_is_kept_aside_and_begun_anew(
    table: str, column: str, found: bytes | None
) -> None:
    store = MemoryRowStore()
    apply(updater(store), click(0), click(1, "bob"))
    entity = "ann" if table == "user_activity" else "i"
    damaged = {name: value for name, value in store.rows[table, entity].items() if name != column}
    store.rows[table, entity] = damaged | ({} if found is None else {column: found})
    counted = DAMAGED_ROWS.labels(table)._value.get()
    changes = apply(updater(store), click(2), click(3, "bob"))
    # The others of the batch go on, and so does this one.
    assert len(changes.users["bob"].history) == 2
    assert [time for time, *_ in user(store).history][-1] == NOW_MS + 2
    assert group(store).offset == 3
    assert store.damaged[table, entity][column] == found
    assert DAMAGED_ROWS.labels(table)._value.get() == counted + 1
    apply(updater(store), click(4))
    assert user(store).history[-1][0] == NOW_MS + 4
    assert DAMAGED_ROWS.labels(table)._value.get() == counted + 1


def test_an_item_whose_catalogue_row_is_damaged_is_not_shown_and_stops_nobody() -> None:
    store = MemoryRowStore()
    store.rows["item_catalogue", "i"] = {"available": b"\xff"}
    catalogue = CatalogueCache(store, 5.0)  # type: ignore[arg-type]
    rows = RowUpdater(store, SCHEMA, catalogue, POPULARITY, 0)  # type: ignore[arg-type]
    assert len(apply(rows, click(0)).users["ann"].history) == 1
    assert catalogue.get_cached(["i"])["i"] == CatalogueEntry(available=False)
    renewed = ItemUpdate(Item(item_id="i"), Hash(3), 5, NOW_MS)
    store.rows["item_catalogue", "i"]["offsets"] = b"\xff"
    asyncio.run(write_items(store, {"i": renewed}))  # type: ignore[arg-type]
    fresh = CatalogueCache(store, 5.0)  # type: ignore[arg-type]
    assert asyncio.run(fresh.get(["i"]))["i"].available


def read(store: MemoryRowStore, *views: RowView) -> list[UserRow]:
    reader = RowReader(store, SCHEMA, CatalogueCache(store, 5.0))  # type: ignore[arg-type]
    return asyncio.run(reader.read(views))


def test_who_only_reads_writes_nothing_and_has_rows_of_their_own() -> None:
    store = MemoryRowStore()
    apply(updater(store), click(0), click(1, "bob"))
    before = {key: dict(row) for key, row in store.rows.items()}
    store.reads = 0
    more = [click(2).event, click(0).event]
    ann, again, bob, guest = read(
        store,
        RowView("ann", more),
        RowView("ann", left_out=["j"]),
        RowView("bob"),
        RowView("bob", more, is_guest=True),
    )
    # What the worker has counted already counts once.
    assert [len(row.history) for row in (ann, again, bob, guest)] == [2, 1, 1, 2]
    assert [len(row.seen) for row in (ann, again, bob, guest)] == [1, 2, 1, 1]
    assert store.reads == 1
    assert store.rows == before


def test_a_damaged_row_is_empty_to_who_only_reads_and_stays_for_who_mends_it() -> None:
    store = MemoryRowStore()
    apply(updater(store), click(0))
    store.rows["user_activity", "ann"]["counters"] = b"\xff"
    before = {key: dict(row) for key, row in store.rows.items()}
    with capture_logs() as told:
        (row,) = read(store, RowView("ann", [click(1).event]))
    assert len(row.history) == 1
    assert [line["event"] for line in told] == ["damaged_row_read"]
    assert (store.rows, store.damaged) == (before, {})
