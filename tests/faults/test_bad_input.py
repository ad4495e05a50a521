"""Malformed messages among good ones: each kept with its reason, every good one counted."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headwater_client import EventProducer
from headwater_client.event_types import CLICK, PURCHASE
from headwater_client.topics import DEAD_LETTERS, ITEMS

from deploy.settings import Settings
from tests.harness.oracle import read_log, read_topic
from tests.harness.rows import check_items, check_users
from tests.harness.workers import WorkerProcess, WorkerProgress, running

MALFORMED = 10_000
GOOD = 5_000
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
    settings = empty_streams
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
