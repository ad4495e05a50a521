"""An installation of release 0.1.0, which knew two types of events, goes on with all."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from headwater_client import EVENT_TYPES, EventProducer, Interaction, SettingsError

from deploy.settings import Settings
from features.columns import decode_user
from features.kafka import client_config, describe_log, ensure_topics, topic_ids
from features.rows import UserRow, apply_event, observation
from features.schema import FeatureSchema
from features.store import USERS, RowRead, item_sources, popularity_table
from features.store.redis import RedisRowStore
from features.topics import Hash
from tests.harness.builders import CHANGE_ROWS, make_interaction
from tests.harness.servers import connect_redis
from tests.harness.waiting import wait_until
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_disk

pytestmark = pytest.mark.integration
GOLDEN = Path("tests/golden/13a9bcc").resolve()
PERSON = "u0"
OLD_TOPICS = ("clicks", "purchases")


def put_store_back(settings: Settings) -> None:
    """The store as that release left it."""
    rows: dict[str, Any] = json.loads((GOLDEN / "rows.json").read_text())
    with closing(connect_redis(settings)) as store:
        for name, row in rows.items():
            key, value = base64.b64decode(name), row["value"]
            if row["type"] == "hash":
                fields = {base64.b64decode(n): base64.b64decode(v) for n, v in value.items()}
                store.hset(key, mapping=fields)
            elif not key.startswith(b"headwater:durable"):
                store.set(key, base64.b64decode(value))


def remove_new_topics(settings: Settings) -> None:
    names = [name for name in EVENT_TYPES.all_topics if name not in OLD_TOPICS]
    admin = AdminClient(client_config(settings.kafka))
    for deletion in admin.delete_topics(names).values():
        deletion.result()
    wait_until(lambda: not topic_ids(settings.kafka, names), 20)


async def read_person(settings: Settings) -> UserRow:
    store = RedisRowStore(settings.store)
    try:
        (stored,) = await store.read([RowRead(USERS, PERSON, USERS.columns)])
        return decode_user(stored, FeatureSchema(settings.features))
    finally:
        await store.close()


async def read_positions(settings: Settings) -> set[str]:
    store = RedisRowStore(settings.store)
    try:
        return set(await store.positions())
    finally:
        await store.close()


async def read_columns(settings: Settings, item_id: str) -> set[str]:
    store, partitions = RedisRowStore(settings.store), settings.kafka.partitions
    table, columns = popularity_table(partitions), item_sources(partitions)
    try:
        (found,) = await store.read([RowRead(table, item_id, columns)])
        return {name.rpartition("_")[0] for name, value in found.items() if value}
    finally:
        await store.close()


def test_topics_positions_and_columns_grow_and_rows_go_on(
    empty_streams: Settings, tmp_path: Path
) -> None:
    settings = without_disk(empty_streams)
    schema = FeatureSchema(settings.features)
    remove_new_topics(settings)
    put_store_back(settings)
    expected = asyncio.run(read_person(settings))
    assert len(expected.history) == 8
    worker = WorkerProcess(settings, "upgrade", tmp_path / "worker.log", group="upgrade")
    progress = WorkerProgress(settings, "upgrade")
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        wait_until(lambda: set(describe_log(settings.kafka).topics) >= set(EVENT_TYPES.topics), 30)
        sent = make_actions()
        for event in sent:
            producer.send(event)
        producer.impression(user_id=PERSON, recommendation_id="r", position=2)
        producer.flush()
        progress.wait_for_all(60, [worker])
        worker.end()
        # Whatever it had not committed is read again.
        worker.start()
        producer.click(user_id="u1", item_id="i1")
        producer.flush()
        progress.wait_for_all(60, [worker])
        row = asyncio.run(read_person(settings))
    for offset, event in enumerate(sent):
        apply_event(expected, observation(event, Hash(1), offset), schema)
    assert row.counters == pytest.approx(expected.counters, rel=1e-9, abs=1e-9)
    assert row.history == expected.history
    assert row.seen == expected.seen
    positions = asyncio.run(read_positions(settings))
    assert {name.rpartition("/")[0] for name in positions} >= set(EVENT_TYPES.topics)
    assert asyncio.run(read_columns(settings, "lamp")) == set(EVENT_TYPES.item_topics)


def make_actions() -> list[Interaction]:
    """One of each type that rows know, in moments one after another."""
    now_ms, made = int(time.time() * 1000), dict[str, Interaction]()
    for number, name in enumerate(CHANGE_ROWS):
        known = {"user_id": PERSON, "item_id": "lamp", "timestamp": now_ms + number}
        if taken := EVENT_TYPES[name].takes_back:
            # Of another topic, which may be read later.
            known["taken_time"] = made[taken].timestamp
        made[name] = make_interaction(name, event_id=f"{name}-{now_ms}", **known)
    return list(made.values())


def test_a_cluster_whose_topics_are_made_by_hand_is_told_which_are_missing(
    empty_streams: Settings,
) -> None:
    remove_new_topics(empty_streams)
    by_hand = empty_streams.kafka.model_copy(update={"create_topics": False})
    with pytest.raises(SettingsError, match="no topic carts, ratings, plays"):
        ensure_topics(by_hand)
    ensure_topics(empty_streams.kafka)
