"""Malformed messages among good ones: each kept with its reason, every good one counted."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from headwater_client import DeadLetter, EventError, EventProducer, Recommendation, decode
from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE
from headwater_client.events import ListRequest
from headwater_client.identities import SentOn
from headwater_client.topics import DEAD_LETTERS, IDENTITIES, ITEMS, PARTITIONER, RECOMMENDATIONS

from bench.harness.hostile import GOOD as GOOD_IDS
from bench.harness.hostile import generate_hostile_messages
from deploy.settings import Settings
from features.columns import decode_user
from features.kafka import client_config
from features.schema import FeatureSchema
from features.store import CATALOGUE, USERS, RowRead
from features.store.redis import RedisRowStore
from features.store.redis.keys import field_of, row_key
from stream.metrics import MESSAGES_LOST
from stream.pipeline import RecommendationProducer
from tests.harness.oracle import read_log, read_topic
from tests.harness.rows import check_items, check_users
from tests.harness.servers import connect_redis, renew_topics
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_disk

MALFORMED = 4_000
GOOD = 2_000
START_MS = 1_700_000_000_000
FAR_FUTURE_MS = 9_999_999_999_999

# How a message is broken, and the field that its reason must name.
BREAKAGES: list[tuple[str, Callable[[dict[str, Any]], bytes]]] = [
    ("<message>", lambda _: b""),
    ("<message>", lambda _: b"\xff\xfe\x00junk"),
    ("<message>", lambda e: json.dumps(e).encode()[:-5]),
    ("<message>", lambda _: b"[1, 2, 3]"),
    ("user_id", lambda e: json.dumps({k: v for k, v in e.items() if k != "user_id"}).encode()),
    ("item_id", lambda e: json.dumps(e | {"item_id": ""}).encode()),
    ("event_id", lambda e: json.dumps(e | {"event_id": "x" * 300}).encode()),
    ("timestamp", lambda e: json.dumps(e | {"timestamp": "now"}).encode()),
    ("timestamp", lambda e: json.dumps(e | {"timestamp": FAR_FUTURE_MS}).encode()),
    ("price", lambda e: json.dumps(e | {"price": float("nan")}).encode()),
    ("quantity", lambda e: json.dumps(e | {"quantity": -3}).encode()),
]


def event(number: int) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "user_id": f"u{number % 100}",
        "item_id": f"i{number % 50}",
        "timestamp": START_MS + number,
    }


@pytest.mark.faults
def test_every_malformed_message_is_kept_and_every_good_one_counted(
    empty_streams: Settings, tmp_path: Path
) -> None:
    settings = without_disk(empty_streams)
    chance = random.Random(5)
    broken: dict[bytes, list[str]] = {}
    messages: list[tuple[str, str, bytes]] = []
    for number in range(MALFORMED):
        field, breaking = BREAKAGES[number % len(BREAKAGES)]
        raw = breaking(event(number))
        broken.setdefault(raw, []).append(field)
        messages.append((chance.choice([CLICK.topic, PURCHASE.topic]), f"k{number}", raw))
    for number in range(GOOD):
        raw = json.dumps(event(MALFORMED + number)).encode()
        messages.append((chance.choice([CLICK.topic, PURCHASE.topic]), f"u{number % 100}", raw))
    chance.shuffle(messages)
    worker = WorkerProcess(settings, "fed", tmp_path / "worker.log", group="fed")
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        for topic, key, raw in messages:
            producer.send_raw(topic, key, raw)
        producer.send_raw(ITEMS, "i1", b'{"item_id": "another"}')
        producer.flush()
        WorkerProgress(settings, "fed").wait_for_all(180, [worker])
    letters = [json.loads(value) for _, _, value in read_topic(settings, DEAD_LETTERS, 1)]
    places = {(letter["topic"], letter["partition"], letter["offset"]) for letter in letters}
    assert len(places) == MALFORMED + 1
    for letter in letters:
        raw = base64.b64decode(letter["raw"])
        if letter["topic"] == ITEMS:
            assert letter["reason"].startswith("<key>")
        else:
            assert any(letter["reason"].startswith(field) for field in broken[raw]), letter
    logged = read_log(settings, refused=frozenset(places))
    assert len(logged) == GOOD
    check_users(settings, logged, {})
    check_items(settings, logged)


POISONED = (sys.executable, "-m", "tests.faults.poisoned_worker")
PEOPLE = [f"{GOOD_IDS}-{number}" for number in range(40)]


def keep_alive(worker: WorkerProcess, progress: WorkerProgress) -> int:
    """Start the worker again whenever it ends, until all is committed; how often it was."""
    starts, deadline = 0, time.monotonic() + 150
    while progress.count_committed() < progress.count_produced():
        if not worker.running:
            worker.start()
            starts += 1
        assert time.monotonic() < deadline, worker.log.read_text()[-2000:]
        time.sleep(0.1)
    return starts


def clicks_of_people(settings: Settings) -> dict[str, float]:
    """How many clicks each person's row has counted."""
    schema = FeatureSchema(settings.features)

    async def read() -> list[dict[str, bytes | None]]:
        store = RedisRowStore(settings.store)
        try:
            return await store.read([RowRead(USERS, name, USERS.columns) for name in PEOPLE])
        finally:
            await store.close()

    rows = [decode_user(stored, schema) for stored in asyncio.run(read())]
    place = len(schema.user_half_lives) - 1
    return {name: row.counters[place] for name, row in zip(PEOPLE, rows, strict=True)}


@pytest.mark.faults
def test_no_message_and_no_row_stops_a_partition(empty_streams: Settings, tmp_path: Path) -> None:
    """What ends the worker is put aside the third time; a row that does not decode begins anew."""
    settings = without_disk(empty_streams)
    worker = WorkerProcess(settings, "net", tmp_path / "worker.log", POISONED, group="net")
    progress = WorkerProgress(settings, "net")
    now_ms = int(time.time() * 1000)
    hostile = generate_hostile_messages(7, now_ms, large_share=0.01)
    events_of = {*EVENT_TYPES.topics, ITEMS}
    sent = Producer(client_config(settings.kafka) | {"partitioner": PARTITIONER})
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        for message in islice((each for each in hostile if each.topic in events_of), 2_000):
            sent.produce(message.topic, message.value, message.key)
            sent.poll(0)
        assert sent.flush(30) == 0
        for number in range(400):
            name = PEOPLE[number % len(PEOPLE)]
            producer.click(user_id=name, item_id="i", event_id=f"{GOOD_IDS}-{number}")
            if number == 100:
                producer.click(user_id=name, item_id="i", event_id="raises")
        producer.flush()
        starts = keep_alive(worker, progress)
        assert clicks_of_people(settings) == dict.fromkeys(PEOPLE, 10.0)
        with closing(connect_redis(settings)) as redis:
            key = row_key(USERS.join_key, PEOPLE[0])
            redis.hset(key, field_of(USERS.name, "offsets"), b"\xff\xffdamaged")
            # Somebody writes over keys of a person, and of the item that all of them click.
            other, item = row_key(USERS.join_key, PEOPLE[1]), row_key(CATALOGUE.join_key, "i")
            redis.delete(other, item)
            redis.lpush(other, "somebody's")
            redis.set(item, "somebody's")
            for name in PEOPLE:
                producer.click(user_id=name, item_id="i")
            producer.flush()
            assert keep_alive(worker, progress) == 0
            damaged = redis.keys("headwater:damaged:user_activity:*")
            kept = [redis.hgetall(each) for each in damaged]
            # Who has become nobody else has no column that says whom.
            assert sorted(map(len, kept)) == [1, len(USERS.columns) - 1]
            assert b"\xff\xffdamaged" in {each.get(b"offsets") for each in kept}
            assert any(each.keys() == {b"dump"} for each in kept)
            assert all(redis.ttl(each) > 0 for each in damaged)
            assert redis.type(item) == b"hash"
            assert redis.keys("headwater:damaged:item_popularity:*")
    again = {PEOPLE[0]: 1.0, PEOPLE[1]: 1.0}
    assert clicks_of_people(settings) == dict.fromkeys(PEOPLE, 11.0) | again
    assert worker.log.read_text().count("row_damaged") >= 3
    letters = [json.loads(value) for _, _, value in read_topic(settings, DEAD_LETTERS, 1)]
    aside = [letter for letter in letters if "ended over it" in letter["reason"]]
    ids = {json.loads(base64.b64decode(letter["raw"]))["event_id"] for letter in aside}
    assert (ids, starts) == ({"raises"}, 2)


@pytest.mark.faults
def test_a_dead_letter_fits_whatever_its_topic_takes(empty_streams: Settings) -> None:
    settings = empty_streams
    sizes = {10: b"k", 900_000: b"k", 3_500_000: b"k", 20: b"k" * 1_048_500}

    async def send() -> None:
        producer = RecommendationProducer(settings.kafka)
        for offset, (size, key) in enumerate(sizes.items()):
            message = SimpleNamespace(
                topic="clicks", partition=0, offset=offset, key=key, value=b"x" * size
            )
            event = SimpleNamespace(message=message)
            await producer.send_to_dead_letter(event, EventError("f", "v", "wrong"))  # type: ignore[arg-type]
        await producer.flush()

    def letters() -> dict[int, DeadLetter]:
        found = [decode(DeadLetter, v) for _, _, v in read_topic(settings, DEAD_LETTERS, 1)]
        return {letter.size_bytes or 0: letter for letter in found}

    asyncio.run(send())
    whole = letters()
    assert {size: len(letter.raw) for size, letter in whole.items() if size != 3_500_000} == {
        size: size for size in sizes if size != 3_500_000
    }
    assert 3_000_000 < len(whole[3_500_000].raw) < 3_200_000
    assert whole[3_500_000].sha256 == sha256(b"x" * 3_500_000).hexdigest()
    # As Kafka makes a topic that nobody has configured.
    renew_topics(settings.kafka, {DEAD_LETTERS: {"max.message.bytes": "1048588"}})
    asyncio.run(send())
    assert {size: len(letter.raw) for size, letter in letters().items()} == {
        10: 10,
        900_000: 0,
        3_500_000: 0,
        20: 0,
    }


@pytest.mark.faults
def test_an_answer_or_an_event_sent_on_fits_its_topic_without_its_context(
    empty_streams: Settings,
) -> None:
    settings = empty_streams
    context = {"page": "x" * 1_050_000}
    click = {"event_id": "e", "item_id": "lamp", "timestamp": 1_700_000_000_000, "user_id": "m"}
    sent_on = SentOn(
        user_id="m",
        topic="clicks",
        event=msgspec.Raw(json.dumps(click | {"context": context}).encode()),
        arrived_time=1_700_000_000_000,
        by=["g"],
    )
    answer = Recommendation(
        recommendation_id="r",
        user_id="m",
        event_id="e",
        items=[],
        model_version="1",
        variant="stable",
        event_time=1_700_000_000_000,
        produced_time=1_700_000_000_000,
        fallback=False,
        asked=ListRequest(context=context),
    )
    nothing_fits = msgspec.structs.replace(answer, model_version="1" * 1_100_000)

    async def send() -> None:
        producer = RecommendationProducer(settings.kafka)
        await producer.send_identities([sent_on])
        for each in (nothing_fits, answer):
            await producer.send_answer(each)
        await producer.flush()

    lost = MESSAGES_LOST.labels(RECOMMENDATIONS)
    before = lost._value.get()
    asyncio.run(send())
    partitions = settings.kafka.partitions
    [(_, _, told)] = read_topic(settings, IDENTITIES, partitions)
    assert json.loads(told)["event"] == click
    [(_, _, answered)] = read_topic(settings, RECOMMENDATIONS, partitions)
    assert json.loads(answered)["event_id"] == "e"
    assert lost._value.get() == before + 1
