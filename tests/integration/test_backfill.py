"""The online store and the windows rebuilt, beside what a worker made of the same log."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from confluent_kafka import Consumer, TopicPartition
from headwater_client import EventProducer
from headwater_client.event_types import CLICK, EVENT_TYPES
from headwater_client.topics import ITEMS
from redis import Redis

from deploy import local
from deploy.jobs.replay import replay
from deploy.local.store import history_path
from deploy.settings import Settings
from features.inputs import user_features
from features.kafka import client_config, ensure_topics, group_members
from features.schema import FeatureSchema
from features.store import CATALOGUE, TRENDING, USERS, item_sources, popularity_table
from stream.settings import WorkerSettings
from tests.harness import oracle
from tests.harness.rows import (
    check_items,
    check_users,
    close,
    open_feast,
    read_rows,
    total_counted,
    user_row,
)
from tests.harness.servers import state_in
from tests.harness.waiting import wait_until
from tests.harness.windows import window_examples
from tests.harness.workers import (
    WorkerProcess,
    WorkerProgress,
    running,
    without_disk,
    without_model,
)
from trainer.datasets import DataSource, Log, load_log
from trainer.examples import Example
from trainer.windows.store import WindowStore, read_log

pytestmark = pytest.mark.integration
EVENTS = 3_000
KILLS = 3
SEED, COMPARED = 11, 500
NO_EVENT = b"no event"
DAY_S = 86_400
Rows = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True)
class Stand:
    """Servers with a log in Kafka, and the rows that a worker made of it."""

    settings: Settings
    folder: Path
    log: Log
    rows: Rows

    @property
    def users(self) -> list[str]:
        return sorted({event.user_id for event in self.log.events})

    def client(self) -> Redis:
        host, _, port = (self.settings.store.address or "").partition(":")
        return Redis(host, int(port))

    def backfill(self, *arguments: str) -> subprocess.Popen[str]:
        variables = {
            "HEADWATER_KAFKA__BOOTSTRAP_SERVERS": self.settings.kafka.bootstrap_servers or "",
            "HEADWATER_STORE__ADDRESS": self.settings.store.address or "",
            "HEADWATER_WINDOWS__ADDRESS": str(self.folder / "windows"),
            "HEADWATER_WINDOWS__DURATION_S": str(DAY_S),
            "HEADWATER_LOCAL__STATE_DIR": str(self.settings.local.state_dir),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "backfill", *arguments],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done(self, *arguments: str) -> str:
        process = self.backfill(*arguments)
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return said

    def refusal(self, *arguments: str, code: int = 2) -> str:
        process = self.backfill(*arguments)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        return errors

    def worker(self, name: str, **known: str) -> WorkerProcess:
        """One that asks no model server: no version is announced."""
        settings = without_disk(without_model(self.settings))
        return WorkerProcess(settings, name, self.folder / f"{name}.log", **known)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """The head of MovieLens-100K, and an odd message of each kind, as a worker took them."""
    folder = tmp_path_factory.mktemp("backfill")
    with state_in(folder / "state") as own:
        settings = local.up(own, only=["kafka", "store"])
        ensure_topics(settings.kafka)
        log = load_log(DataSource(settings.local.cache_dir)).head(EVENTS)
        empty = Stand(settings, folder, log, {})
        worker = empty.worker("first")
        with running(worker), EventProducer(settings.kafka.client_settings) as producer:
            producer.send_raw(CLICK.topic, "nobody", NO_EVENT)
            producer.send_raw(ITEMS, "gone", None)
            replay(log.head(0), producer)
            WorkerProgress(settings).wait_for_all(120, [worker])
            replay(replace(log, items=()), producer)
            WorkerProgress(settings).wait_for_all(120, [worker])
        yield replace(empty, rows=all_rows(settings, log))


@pytest.fixture
def stand(played: Stand, tmp_path: Path) -> Stand:
    """The same with an empty store and no windows."""
    with played.client() as client:
        client.flushall()
    return replace(played, folder=tmp_path)


def all_rows(settings: Settings, log: Log) -> Rows:
    """Every row as plain Feast reads it, all columns."""
    partitions = settings.kafka.partitions
    items = ["gone", *(item.item_id for item in log.items)]
    wanted = [
        (USERS, sorted({event.user_id for event in log.events})),
        (popularity_table(partitions), items),
        (CATALOGUE, items),
        (TRENDING, item_sources(partitions)),
    ]
    return {
        (table.name, row[table.join_key]): row
        for table, ids in wanted
        for row in read_rows(
            settings, table.join_key, ids, [f"{table.name}:{name}" for name in table.columns]
        )
    }


def check_same(found: Rows, expected: Rows) -> None:
    """Equal but for rounding, and which events are remembered, once there are too many for a row:
    that tells the order in which sources were read. A worker's lists of trends are a moment old:
    those that are found must be what the item rows say.
    """
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        if key[0] == TRENDING.name:
            check_trending(key[1], found)
        else:
            assert comparable(found[key]) == comparable(row, close), key


def comparable(row: dict[str, Any], number: Any = list) -> dict[str, Any]:
    floats = {"counters", "category_counters", *popularity_columns(row)}
    same = {k: number(v) if k in floats and v is not None else v for k, v in row.items()}
    if row.get("remembered"):
        same["remembered"] = len(set(array("q", row["remembered"])))
    return same


def check_trending(source: str, found: Rows) -> None:
    """The list of a source has its most popular items, each with its item row's numbers."""
    cells = {
        row["item_id"]: row[source][2:]
        for (table, _), row in found.items()
        if table.startswith("item_popularity") and row[source]
    }
    half_lives = FeatureSchema(Settings().features).item_half_lives
    middle = FeatureSchema(Settings().features).trending_index
    newest = max((reference for reference, *_ in cells.values()), default=0)
    popular = {
        name: values[middle] * 2 ** -((newest - reference) / half_lives[middle])
        for name, (reference, *values) in cells.items()
    }
    listed = found[TRENDING.name, source]["item_ids"] or []
    assert len(listed) == len(set(listed)) == min(len(cells), WorkerSettings().trending_items)
    counts = found[TRENDING.name, source]["counts"] or []
    assert list(counts) == [number for name in listed for number in cells[name]]
    least = min((popular[name] for name in listed), default=0.0)
    assert max((popular[name] for name in cells.keys() - set(listed)), default=0.0) <= least * (
        1 + 1e-9
    )


def popularity_columns(row: dict[str, Any]) -> set[str]:
    return {name for name in row if name.startswith(("clicks_", "purchases_"))}


def test_rows_from_kafka_are_those_of_the_worker(stand: Stand) -> None:
    said = stand.done("rows")
    assert f"rows: {EVENTS} events, {len(stand.log.items) + 1} messages" in said
    assert "1 refused" in said
    once = all_rows(stand.settings, stand.log)
    check_same(once, stand.rows)
    clicks = oracle.read_topic(stand.settings, CLICK.topic, stand.settings.kafka.partitions)
    refused = {(CLICK.topic, part, offset) for part, offset, value in clicks if value == NO_EVENT}
    logged = oracle.read_log(stand.settings, frozenset(refused))
    check_users(stand.settings, logged, {i.item_id: i.category for i in stand.log.items})
    check_items(stand.settings, logged)
    stand.done("rows")
    assert all_rows(stand.settings, stand.log) == once


def test_killed_and_run_again_it_leaves_the_same_rows_and_a_worker_adds_nothing(
    stand: Stand,
) -> None:
    keys = len(stand.users) + len(stand.log.items)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    for wanted in sorted(chance.randrange(1, keys) for _ in range(KILLS)):
        kill_at(stand, wanted)
    stand.done("rows")
    check_same(all_rows(stand.settings, stand.log), stand.rows)
    assert total_counted(stand.settings, stand.users) == EVENTS
    read_all_again(stand)
    check_same(all_rows(stand.settings, stand.log), stand.rows)


def kill_at(stand: Stand, keys: int) -> None:
    """Kill a backfill once the store has so many keys."""
    process = stand.backfill("rows")
    deadline = time.monotonic() + 120
    with stand.client() as client:
        while client.dbsize() < keys and process.poll() is None:
            assert time.monotonic() < deadline
    process.kill()
    process.communicate()


def read_all_again(stand: Stand) -> None:
    """A worker that begins at the oldest message, because its group was told to.

    Of itself a new group would go on from what rows hold.
    """
    settings, group = stand.settings.kafka, "later"
    consumer = Consumer(client_config(settings) | {"group.id": group})
    partitions = [(t, p) for t in (*EVENT_TYPES.topics, ITEMS) for p in range(settings.partitions)]
    oldest = [TopicPartition(*place, 0) for place in partitions]
    consumer.commit(offsets=oldest, asynchronous=False)
    consumer.close()
    worker = stand.worker("later", group=group)
    with running(worker):
        WorkerProgress(stand.settings, "later").wait_for_all(120, [worker])


def test_while_a_worker_runs_rows_are_left_as_they_are(stand: Stand) -> None:
    worker = stand.worker("busy")
    with running(worker):
        wait_until(lambda: bool(group_members(stand.settings.kafka, "headwater")), 120)
        said = stand.refusal("rows", code=1)
        assert "workers run in group headwater (busy): stop them" in said
        # The store is empty, and the group had read all: the worker reads it again by itself.
        wait_until(lambda: total_counted(stand.settings, stand.users) == EVENTS, 60)
    assert all(row["offsets"] is not None for row in user_rows(stand))


def user_rows(stand: Stand) -> list[dict[str, Any]]:
    return read_rows(stand.settings, "user_id", stand.users, ["user_activity:offsets"])


def test_rows_from_files_are_loaded_once_and_beside_those_of_the_stream(stand: Stand) -> None:
    table = str(as_table(stand.log, stand.folder / "log.csv"))
    said = stand.done("rows", "--data", table)
    named = {event.item_id for event in stand.log.events}
    assert f"rows: {EVENTS} events, {len(named)} messages of the catalogue" in said
    once = all_rows(stand.settings, stand.log)
    assert total_counted(stand.settings, stand.users) == EVENTS
    # Killed anywhere it would find some rows absorbed: here all of them.
    stand.done("rows", "--data", table)
    assert all_rows(stand.settings, stand.log) == once
    another = str(as_table(stand.log.head(10), stand.folder / "another.csv"))
    assert "another log was loaded" in stand.refusal("rows", "--data", another)
    assert all_rows(stand.settings, stand.log) == once


def as_table(log: Log, path: Path) -> Path:
    titles = {item.item_id: item.title for item in log.items}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp", "event_id", "type", "title"])
        for e in log.events:
            kind = type(e).__name__.lower()
            writer.writerow(
                [e.user_id, e.item_id, e.timestamp, e.event_id, kind, titles[e.item_id]]
            )
    return path


def test_windows_from_kafka_hold_what_is_missing(stand: Stand) -> None:
    said = stand.done("windows")
    store = WindowStore(str(stand.folder / "windows"))
    events = sum(store.manifest(number).events for number in store.numbers())
    assert f"windows: {len(store.numbers())} written with {events} events" in said
    # What is of the newest day stays open.
    found = {event.event_id for event in read_log(store, store.numbers()).events}
    open_ms = stand.log.events[-1].timestamp - 2 * 1000 * DAY_S
    assert found >= {e.event_id for e in stand.log.events if e.timestamp < open_ms}
    assert "windows: 0 written" in stand.done("windows")
    table = str(as_table(stand.log, stand.folder / "log.csv"))
    refusal = stand.refusal("--data", table)
    assert "of Kafka or of another log" in refusal
    with stand.client() as client:
        assert client.dbsize() == 0


@pytest.mark.leaves_behind("thread ThreadPoolExecutor", reason="dask keeps its pool")
def test_feast_gives_the_training_rows_of_a_history(stand: Stand) -> None:
    stand.done("windows")
    said = stand.done("history")
    windows = WindowStore(str(stand.folder / "windows"))
    schema = FeatureSchema(stand.settings.features)
    numbers = windows.numbers()
    made = window_examples(windows, numbers, stand.log.items, schema)
    training = first_of_their_moment([example for window in made for example in window])
    assert f"history: {len(training)} rows in {history_path(stand.settings)}" in said
    # Who has done nothing before has no row.
    known = [example for example in training if any(example.features_after_last)]
    sample = random.Random(SEED).sample(known, COMPARED)
    before = pd.to_datetime([example.event.time_ms - 1 for example in sample], unit="ms", utc=True)
    asked = pd.DataFrame(
        {
            "user_id": [example.event.user_id for example in sample],
            "event_timestamp": before,
            "place": range(COMPARED),
        }
    )
    store = open_feast(stand.settings)
    features = [f"user_activity:{name}" for name in USERS.columns]
    found = store.get_historical_features(entity_df=asked, features=features).to_df()
    assert sorted(found["place"]) == list(range(COMPARED))
    for row in found.to_dict("records"):
        example = sample[row["place"]]
        given = user_features(user_row(row, schema), example.event.time_ms, schema)
        assert given == close(example.features)


def first_of_their_moment(examples: list[Example]) -> list[Example]:
    """Without those that something else of the same person and time was before."""
    first: dict[tuple[str, int], Example] = {}
    for example in examples:
        first.setdefault((example.event.user_id, example.event.time_ms), example)
    return list(first.values())
