"""Guests become members and people are forgotten on the real servers, while workers are killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from headwater_client import EventProducer, encode
from headwater_client.identities import Erasure, HandOver, IdentityMessage, Merge, SentOn, key_of
from headwater_client.topics import IDENTITIES, PARTITIONER

from deploy.jobs.backfill import fill_rows_from_kafka
from deploy.settings import Settings
from features.kafka import client_config
from features.topics import partition_of
from tests.harness.oracle import Logged, read_log, read_topic
from tests.harness.rows import check_items, check_users, total_counted
from tests.harness.servers import connect_redis
from tests.harness.waiting import wait_until
from tests.harness.workers import (
    WorkerProcess,
    WorkerProgress,
    running,
    without_disk,
    without_model,
)

pytestmark = pytest.mark.faults
CATEGORIES = {f"i{number}": (f"c{number % 2}",) for number in range(5)}
START_MS = 1_700_000_000_000
GROUP = "identities"


class Shop:
    """Two people in partitions of different workers, and what they do, numbered through."""

    def __init__(self, settings: Settings, producer: EventProducer) -> None:
        self.settings = settings
        self._producer = producer
        self._sent = 0
        names, partitions = [f"p{number}" for number in range(100)], settings.kafka.partitions
        self.guest = next(name for name in names if partition_of(name, partitions) == 0)
        self.member = next(
            name for name in names if partition_of(name, partitions) == partitions - 1
        )

    def send(self, person: str, events: int) -> None:
        for number in range(self._sent, self._sent + events):
            fields = {
                "user_id": person,
                "item_id": f"i{number % len(CATEGORIES)}",
                "event_id": f"e{number}",
                "timestamp": START_MS + number * 3_600_000,
            }
            if number % 3:
                self._producer.click(**fields)
            else:
                self._producer.purchase(**fields)
        self._sent += events
        self._producer.flush()

    def say(self, message: IdentityMessage) -> None:
        config = client_config(self.settings.kafka) | {"partitioner": PARTITIONER}
        producer = Producer(config)
        producer.produce(IDENTITIES, encode(message), key_of(message))
        assert producer.flush(30) == 0

    def said(self, kind: type[IdentityMessage]) -> list[dict[str, object]]:
        """The messages of a kind that the topic has."""
        found = read_topic(self.settings, IDENTITIES, self.settings.kafka.partitions)
        tag = kind.__struct_config__.tag
        read = [json.loads(value) for _, _, value in found]
        return [message for message in read if message["type"] == tag]

    def log_as_member(self) -> list[Logged]:
        """What the log would be had the member done what the guest did."""
        logged = read_log(self.settings)
        assert len(logged) == self._sent
        return [
            replace(each, user_id=self.member) if each.user_id == self.guest else each
            for each in logged
        ]

    def check_rows(self) -> None:
        check_users(self.settings, self.log_as_member(), CATEGORIES)
        check_items(self.settings, read_log(self.settings))

    def is_whole(self, person: str, events: int) -> bool:
        return total_counted(self.settings, [person]) == events


@contextmanager
def two_workers(settings: Settings, folder: Path) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    one, other = (
        WorkerProcess(settings, name, folder / f"{name}.log", group=GROUP)
        for name in ("one", "two")
    )
    with running(one, other):
        yield one, other


@pytest.mark.timeout(300)
def test_a_guest_becomes_a_member_while_a_worker_is_killed_and_the_log_is_read_again(
    empty_streams: Settings, tmp_path: Path
) -> None:
    settings = without_model(without_disk(empty_streams))
    progress = WorkerProgress(settings, GROUP)
    with EventProducer(settings.kafka.client_settings) as producer:
        shop = Shop(settings, producer)
        with two_workers(settings, tmp_path) as workers:
            for item_id, category in CATEGORIES.items():
                producer.item(item_id, category=list(category))
            producer.flush()
            progress.wait_for_all(120, workers)
            shop.send(shop.guest, 12)
            shop.send(shop.member, 8)
            progress.wait_for_all(120, workers)
            shop.say(Merge(merge_id="m", guest=shop.guest, member=shop.member))
            shop.send(shop.guest, 5)
            for worker in workers:
                # Wherever it is: rows written or not, sent or not.
                worker.kill()
                worker.start()
                shop.send(shop.guest, 4)
                shop.send(shop.member, 3)
            progress.wait_for_all(120, workers)
            wait_until(lambda: shop.is_whole(shop.member, 39), 60)
            shop.check_rows()
            # Said again, and of another: the first stays.
            shop.say(Merge(merge_id="m", guest=shop.guest, member=shop.member))
            shop.say(Merge(merge_id="n", guest=shop.guest, member="somebody"))
            progress.wait_for_all(120, workers)
            shop.check_rows()
            assert {each["user_id"] for each in shop.said(HandOver)} == {shop.member}
        told = len(shop.said(HandOver)), len(shop.said(SentOn))

        # The store is emptied, and workers read again: nothing is sent on twice.
        with closing(connect_redis(settings)) as store:
            store.flushall()
        with two_workers(settings, tmp_path) as workers:
            shop.send(shop.guest, 2)
            wait_until(lambda: shop.is_whole(shop.member, 41), 120)
            progress.wait_for_all(120, workers)
            shop.check_rows()
        assert len(shop.said(HandOver)) == told[0]
        assert told[1] < len(shop.said(SentOn)) <= told[1] + 2

        # Emptied again, and filled by a backfill.
        with closing(connect_redis(settings)) as store:
            store.flushall()
        asyncio.run(fill_rows_from_kafka(settings_of(settings), lambda done, of: None))
        shop.check_rows()


def settings_of(settings: Settings) -> Settings:
    """Those of the workers here: of their group."""
    worker = settings.worker.model_copy(update={"group": GROUP})
    return settings.model_copy(update={"worker": worker})


@pytest.mark.timeout(300)
def test_who_is_forgotten_is_new_afterwards_and_no_log_brings_them_back(
    empty_streams: Settings, tmp_path: Path
) -> None:
    settings = without_model(without_disk(empty_streams))
    progress = WorkerProgress(settings, GROUP)
    with EventProducer(settings.kafka.client_settings) as producer:
        shop = Shop(settings, producer)
        with two_workers(settings, tmp_path) as workers:
            shop.send(shop.member, 9)
            progress.wait_for_all(120, workers)
            assert shop.is_whole(shop.member, 9)
            shop.say(Erasure(erasure_id="e", user_id=shop.member))
            wait_until(lambda: shop.is_whole(shop.member, 0), 60)
            shop.send(shop.member, 4)
            progress.wait_for_all(120, workers)
            assert shop.is_whole(shop.member, 4)
        for again in range(2):
            with closing(connect_redis(settings)) as store:
                store.flushall()
            with two_workers(settings, tmp_path) as workers:
                shop.send(shop.guest, 1)
                wait_until(lambda want=again + 1: shop.is_whole(shop.guest, want), 120)
                progress.wait_for_all(120, workers)
                wait_until(lambda: shop.is_whole(shop.member, 4), 60)
        with closing(connect_redis(settings)) as store:
            store.flushall()
        asyncio.run(fill_rows_from_kafka(settings_of(settings), lambda done, of: None))
        assert shop.is_whole(shop.member, 4)
