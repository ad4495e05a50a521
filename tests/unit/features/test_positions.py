"""Where rows stand is compared with what Kafka has: read again, or refused in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from features.kafka import LogIdentity
from features.kafka.admin import identify_topics
from features.positions import (
    LogPosition,
    PartitionLog,
    PositionError,
    PositionKeeper,
    find_start,
    raise_positions,
)
from features.settings import BrokerSettings
from features.store import StoreRestartedError
from features.topics import source_hash

SOURCE = ("clicks", 0)
KAFKA = BrokerSettings(bootstrap_servers="127.0.0.1:9")
IDENTITY = LogIdentity("cluster", {"clicks": "id"}, {"clicks": 2})


def position(offset: int, topic_id: str = "id", time_ms: int = 7) -> LogPosition:
    return LogPosition(topic_id, offset, time_ms)


@pytest.mark.parametrize(
    ("stored", "committed", "found", "start"),
    [
        # Nothing was ever read.
        (None, None, PartitionLog("id", 0, 9), 0),
        (None, None, PartitionLog("id", 4, 9), 4),
        # A crash between the store's position and the commit.
        (position(5), 3, PartitionLog("id", 0, 9, 7), 3),
        (position(5), 5, PartitionLog("id", 5, 9), 5),
        # The store was put back from a copy, or emptied.
        (position(5), 8, PartitionLog("id", 0, 9, 7), 5),
        (None, 8, PartitionLog("id", 0, 9), 0),
        # The group's offsets have expired, or the group is new: rows hold what is before.
        (position(5), None, PartitionLog("id", 0, 9, 7), 5),
        # The topic was made anew, whatever is committed for the one before.
        (position(5, "before"), 5, PartitionLog("id", 0, 3), 0),
        # Retention has passed a worker that stood still: what is gone cannot be read.
        (position(5), 5, PartitionLog("id", 7, 9), 7),
        # Adopted from a release that knew no times.
        (position(5, time_ms=-1), 5, PartitionLog("id", 0, 9, 7), 5),
    ],
)
def test_a_source_is_read_from_where_its_rows_are(
    stored: LogPosition | None, committed: int | None, found: PartitionLog, start: int
) -> None:
    assert find_start(SOURCE, stored, committed, found) == start


@pytest.mark.parametrize(
    ("stored", "committed", "found", "words"),
    [
        (position(5), 5, PartitionLog("id", 0, 4), "ends at offset 4, but rows have it up to 5"),
        (position(5), 5, PartitionLog("id", 0, 9, 8), "another message at offset 4"),
        (position(5), 8, PartitionLog("id", 6, 9), "up to offset 5, the workers had come to 8"),
        (None, 8, PartitionLog("id", 1, 9), "up to offset 0, the workers had come to 8"),
    ],
)
def test_what_cannot_be_read_again_is_refused_with_the_remedy(
    stored: LogPosition | None, committed: int, found: PartitionLog, words: str
) -> None:
    with pytest.raises(PositionError, match=words) as caught:
        find_start(SOURCE, stored, committed, found)
    assert "headwater backfill rows" in str(caught.value)
    assert "clicks/0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (LogIdentity("cluster", {"clicks": "another"}, {"clicks": 2}), "deleted and made anew"),
        (LogIdentity("cluster", {"clicks": "id"}, {"clicks": 3}), "kafka.partitions to 3"),
        (LogIdentity("another", {"clicks": "id"}, {"clicks": 2}), "cluster"),
    ],
)
def test_a_log_that_is_another_is_told_from_the_one_that_was_read(
    now: LogIdentity, words: str
) -> None:
    assert words in (IDENTITY.find_change(now) or "")


def test_a_topic_that_is_missing_may_come_back() -> None:
    assert IDENTITY.find_change(LogIdentity("cluster", {}, {})) is None
    assert IDENTITY.find_change(IDENTITY) is None


class Described:
    def __init__(self, topic_id: str | None) -> None:
        self.topic_id = topic_id


def test_sources_keep_their_names_and_brokers_without_ids_get_others() -> None:
    given = {"clicks": Described("x"), "purchases": Described("y")}
    assert identify_topics(given, "c") == {"clicks": "x", "purchases": "y"}  # type: ignore[arg-type]
    for missing in (None, "AAAAAAAAAAAAAAAAAAAAAA", "the same"):
        given = {"clicks": Described(missing), "purchases": Described(missing)}
        named = identify_topics(given, "c")  # type: ignore[arg-type]
        assert named == {"clicks": "c/clicks", "purchases": "c/purchases"}
    # As rows of earlier releases have it: another value would count them twice.
    assert source_hash("bQ4tGZ6YSUmBEu1WmLTMvA", 3) == 982327454060518


class Store:
    """The positions of a store."""

    address = "memory"

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}

    async def positions(self) -> dict[str, bytes]:
        return dict(self.there)

    async def move_positions(self, moves: Mapping[str, tuple[bytes, bytes]]) -> dict[str, bytes]:
        found = {name: self.there.get(name, b"") for name in moves}
        if all(found[name] in move for name, move in moves.items()):
            self.there |= {name: told for name, (_, told) in moves.items()}
            return {name: told for name, (_, told) in moves.items()}
        return found


def keeper(store: Store) -> PositionKeeper:
    return PositionKeeper(store, KAFKA, "group", IDENTITY)  # type: ignore[arg-type]


def test_positions_are_moved_on_and_never_back() -> None:
    store = Store()
    first, second = keeper(store), keeper(store)

    async def run() -> None:
        await first.move({SOURCE: (5, 50), ("clicks", 1): (2, 20)})
        await second.move({SOURCE: (9, 90)})
        # One that slept comes second with what it had done before; its other partition counts.
        await first.move({SOURCE: (6, 60), ("clicks", 1): (3, 30)})

    asyncio.run(run())
    assert store.there == {"clicks/0": b'["id",9,90]', "clicks/1": b'["id",3,30]'}


def test_a_partition_that_went_and_came_back_moves_nothing_back() -> None:
    store = Store()
    first, second = keeper(store), keeper(store)

    async def run() -> None:
        await first.move({SOURCE: (5, 50)})
        await second.move({SOURCE: (9, 90)})
        # Assigned anew, it knows the position of the other one, and has still to tell its own.
        first._stored = await store.positions()
        await first.move({SOURCE: (6, 60)})

    asyncio.run(run())
    assert store.there == {"clicks/0": b'["id",9,90]'}


def test_a_worker_that_knows_the_topic_before_does_not_overwrite_the_one_that_is() -> None:
    store = Store()
    one = keeper(store)

    async def run() -> None:
        await one.move({SOURCE: (5, 50)})
        store.there = {"clicks/0": b'["new",9,9]'}
        await one.move({SOURCE: (6, 60)})

    with pytest.raises(PositionError, match="another topic of this name"):
        asyncio.run(run())
    assert store.there == {"clicks/0": b'["new",9,9]'}


@pytest.mark.parametrize("left", [{}, {"clicks/0": b'["id",3,30]'}])
def test_a_store_that_says_less_than_before_has_lost_rows(left: dict[str, bytes]) -> None:
    store = Store()
    one = keeper(store)

    async def run() -> None:
        await one.move({SOURCE: (5, 50)})
        store.there = dict(left)
        await one.move({SOURCE: (6, 60)})

    with pytest.raises(StoreRestartedError, match="says of its rows less than it did"):
        asyncio.run(run())
    assert store.there == left | {"overwritten": b"1"}


def test_a_backfill_raises_positions_and_lowers_none() -> None:
    store = Store()
    store.there = {"clicks/0": b'["id",9,90]', "clicks/1": b'["before",9,90]'}
    ends = {SOURCE: 8, ("clicks", 1): 4}
    asyncio.run(raise_positions(store, IDENTITY, ends))  # type: ignore[arg-type]
    assert store.there == {"clicks/0": b'["id",9,90]', "clicks/1": b'["id",4,-1]'}
