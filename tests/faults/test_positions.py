"""The store and Kafka compare where they are: what one of them has lost is not passed over."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient, NewPartitions
from headwater_client import EventProducer, ServerError, SettingsError
from headwater_client.event_types import CLICK
from headwater_client.topics import ITEMS, RECOMMENDATIONS
from redis import Redis

from deploy import local
from deploy.settings import Settings
from features.kafka import client_config, ensure_topics, log_topics, topic_ids
from features.topics import list_topics, partition_of
from tests.harness.oracle import read_log, read_topic
from tests.harness.rows import check_items, check_users, total_counted
from tests.harness.waiting import wait_until
from tests.harness.workers import (
    WorkerProcess,
    WorkerProgress,
    running,
    without_disk,
    without_model,
)
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore
from trainer.windows.store import read_log as read_windows
from trainer.windows.writer import WindowWriter

pytestmark = pytest.mark.faults

LATE_WORKER = "tests.faults.late_worker"
PEOPLE = [f"u{number}" for number in range(8)]
CATEGORIES = {f"i{number}": (f"c{number % 2}",) for number in range(5)}
START_MS = 1_700_000_000_000


class Shop:
    """What is sent, numbered through; and the store's own client."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sent = 0
        host, _, port = (settings.store.address or "").rpartition(":")
        self.store = Redis(host, int(port))

    def send(self, events: int, producer: EventProducer) -> None:
        for number in range(self.sent, self.sent + events):
            producer.click(
                user_id=PEOPLE[number % len(PEOPLE)],
                item_id=f"i{number % len(CATEGORIES)}",
                event_id=f"e{number}",
                timestamp=START_MS + number * 1000,
            )
        self.sent += events
        producer.flush()

    def send_items(self, producer: EventProducer) -> None:
        for item_id, category in CATEGORIES.items():
            producer.item(item_id, category=list(category))
        producer.flush()

    def copy(self) -> dict[bytes, bytes]:
        return {key: self.store.dump(key) for key in self.store.scan_iter()}

    def put_back(self, copy: dict[bytes, bytes]) -> None:
        self.store.flushall()
        for key, value in copy.items():
            self.store.restore(key, 0, value, replace=True)

    def kept(self) -> int:
        """How many clicks rows hold, by the store's positions."""
        places = self.store.hgetall("headwater:positions").items()
        return sum(json.loads(place)[1] for name, place in places if name.startswith(b"clicks/"))

    def check_rows(self) -> None:
        logged = read_log(self.settings)
        assert len(logged) == self.sent
        check_users(self.settings, logged, CATEGORIES)
        check_items(self.settings, logged)

    def answers(self) -> Counter[str]:
        """How often each event was answered: the topic is read in no order of its own."""
        messages = read_topic(self.settings, RECOMMENDATIONS, self.settings.kafka.partitions)
        return Counter(json.loads(value)["event_id"] for _, _, value in messages)


def wait_for_end(worker: WorkerProcess, words: str) -> None:
    """Wait until the worker has ended itself, saying why."""
    wait_until(lambda: not worker.running, 120)
    assert worker.process is not None
    assert worker.process.returncode == 70
    assert words in worker.log.read_text()


def test_events_at_hand_keep_nobody_waiting_for_the_items_that_they_wait_for(
    empty_streams: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, log = without_disk(empty_streams), tmp_path / "late.log"
    monkeypatch.setenv("LATE_TOPIC", ITEMS)
    # Of so small batches less than the events of a fetch are taken for at hand.
    names: dict[str, Any] = {"name": "late", "group": "late", "batch_size": 4}
    early = WorkerProcess(settings, log=tmp_path / "early.log", **names)
    late = WorkerProcess(settings, log=log, command=(sys.executable, "-m", LATE_WORKER), **names)
    progress, shop = WorkerProgress(settings, "late"), Shop(settings)
    with closing(shop.store), EventProducer(settings.kafka.client_settings) as producer:
        with running(early):
            shop.send_items(producer)
            progress.wait_for_all(120, [early])
            shop.send(1_200, producer)
            progress.wait_for_all(120, [early])
        shop.store.flushall()
        with running(late):
            wait_until(lambda: shop.kept() == shop.sent, 60)
            shop.check_rows()
    assert "sources_read_no_further" not in log.read_text()


def test_what_is_new_waits_in_kafka_while_a_partition_is_not_read_again(
    empty_streams: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, log = without_disk(empty_streams), tmp_path / "late.log"
    # Somebody's, so that it has something that was answered before.
    partitions = settings.kafka.partitions
    lost = Counter(partition_of(name, partitions) for name in PEOPLE).most_common()[-1][0]
    monkeypatch.setenv("LATE_TOPIC", f"{CLICK.topic}/{lost}")
    names: dict[str, Any] = {"name": "held", "group": "held", "batch_size": 4}
    early = WorkerProcess(settings, log=tmp_path / "early.log", **names)
    late = WorkerProcess(settings, log=log, command=(sys.executable, "-m", LATE_WORKER), **names)
    progress, shop = WorkerProgress(settings, "held"), Shop(settings)
    with closing(shop.store), EventProducer(settings.kafka.client_settings) as producer:
        with running(early):
            shop.send_items(producer)
            shop.send(80, producer)
            progress.wait_for_all(120, [early])
        shop.store.flushall()
        shop.send(2_000, producer)
        with running(late):
            wait_until(lambda: shop.kept() == shop.sent, 120)
            progress.wait_for_all(60, [late])
            shop.check_rows()
    assert "events_wait_for_what_the_store_lost" in log.read_text()


@pytest.mark.timeout(300)
def test_what_the_store_lost_is_read_again_and_a_topic_made_anew_is_counted(
    empty_streams: Settings, tmp_path: Path
) -> None:
    settings = without_disk(empty_streams)
    worker = WorkerProcess(settings, "kept", tmp_path / "worker.log", group="kept")
    progress, shop = WorkerProgress(settings, "kept"), Shop(settings)
    with closing(shop.store), EventProducer(settings.kafka.client_settings) as producer:
        with running(worker):
            shop.send_items(producer)
            progress.wait_for_all(120, [worker])
            shop.send(40, producer)
            progress.wait_for_all(120, [worker])
            copy = shop.copy()
            shop.send(40, producer)
            progress.wait_for_all(120, [worker])
        answered = shop.answers()
        assert answered.keys() <= {f"e{number}" for number in range(80)}

        # Emptied while nobody runs: all is read again, and nobody is answered twice.
        shop.store.flushall()
        with running(worker):
            shop.send(10, producer)
            progress.wait_for_all(120, [worker])
            wait_until(lambda: shop.kept() == shop.sent, 60)
            shop.check_rows()
            later = shop.answers() - answered
            assert later.keys() <= {f"e{number}" for number in range(80, 90)}

            # Put back from a copy while a worker runs: rows that it wrote since lack older events.
            shop.put_back(copy)
            shop.send(10, producer)
            wait_for_end(worker, "says of its rows less than it did")
            worker.start()
            assert worker.process is not None
            assert worker.process.wait(120) == 3
            assert "was emptied or put back while workers wrote" in worker.log.read_text()

            # Put back while nobody runs.
            shop.put_back(copy)
            worker.start()
            progress.wait_for_all(120, [worker])
            wait_until(lambda: shop.kept() == shop.sent, 60)
            shop.check_rows()

            # Deleted and made anew: fewer events than there were offsets before, none passed over.
            counted = shop.sent
            make_anew(settings)
            wait_for_end(worker, "topic clicks was deleted and made anew")
            shop.send(20, producer)
            worker.start()
            wait_until(lambda: total_counted(settings, PEOPLE) == counted + 20, 60)

            # More partitions while it runs: nothing of the new ones is read under a wrong name.
            more = settings.kafka.partitions + 1
            add_partition(settings, CLICK.topic, more)
            shop.send(20, producer)
            wait_for_end(worker, f"set kafka.partitions to {more}, and rebuild the rows in an")
            worker.start()
            assert worker.process.wait(120) == 2
            last = worker.log.read_text().splitlines()[-1]
            assert f"kafka.partitions: topic clicks has {more}, and " in last
            assert "fewer: give each as many (kafka-topics.sh --alter --topic" in last


def add_partition(settings: Settings, topic: str, partitions: int) -> None:
    admin = AdminClient(client_config(settings.kafka))
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result()


async def divide_among(settings: Settings, name: str, topics: Collection[str]) -> None:
    """Let a member of a group get partitions of these topics alone, and end without leaving it."""
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        group_id=name,
        group_instance_id=name,
        session_timeout_ms=60_000,
        partition_assignment_strategy=(RangePartitionAssignor,),
    )
    async with consumer:
        # Whose answer waits until the group is divided.
        assert await consumer.getmany(timeout_ms=10_000) == {}
        assert consumer.assignment()


def test_a_topic_that_was_missing_when_a_group_was_divided_is_read_by_who_comes_back(
    empty_streams: Settings, tmp_path: Path
) -> None:
    """As where clicks are deleted, workers divide what is left, and they are made anew."""
    settings = without_disk(empty_streams)
    others = {each.name for each in list_topics()} - {CLICK.topic}
    asyncio.run(divide_among(settings, "back", others & set(log_topics())))
    worker = WorkerProcess(settings, "back", tmp_path / "worker.log", group="back")
    shop = Shop(settings)
    with (
        closing(shop.store),
        EventProducer(settings.kafka.client_settings) as producer,
        running(worker),
    ):
        shop.send(20, producer)
        wait_until(lambda: total_counted(settings, PEOPLE) == 20, 60)


def test_a_worker_that_its_group_does_not_take_ends_and_says_why(
    empty_streams: Settings, tmp_path: Path
) -> None:
    """As where the others of its group divide it in another way: it would wait for ever."""
    settings = without_model(without_disk(empty_streams))
    worker = WorkerProcess(settings, "other", tmp_path / "worker.log", group="divided")

    async def start_beside_another() -> int:
        async with make_member(settings, "divided", RoundRobinPartitionAssignor) as consumer:
            await consumer.getmany(timeout_ms=10_000)
            worker.start()
            assert worker.process is not None
            return await asyncio.to_thread(worker.process.wait, 60)

    try:
        assert asyncio.run(start_beside_another()) != 0
    finally:
        worker.end()
    assert "Kafka: group divided: " in worker.log.read_text()


def test_workers_divide_the_topics_once_and_do_so_with_those_who_know_no_names_of_logs(
    empty_streams: Settings, tmp_path: Path
) -> None:
    """As those of an earlier release: for each that comes the group is divided anew, once."""
    settings = without_model(without_disk(empty_streams))
    workers = [
        WorkerProcess(settings, name, tmp_path / f"{name}.log", group="plain")
        for name in ("one", "two")
    ]

    async def join_them() -> int:
        async with make_member(settings, "plain", RangePartitionAssignor) as consumer:
            async with asyncio.timeout(60):
                while not 0 < len(consumer.assignment()) < settings.kafka.partitions:
                    await consumer.getmany(timeout_ms=100)
            # How often the group was divided; aiokafka tells nobody.
            generation: int = consumer._coordinator.generation
            return generation

    with running(*workers):
        wait_until(lambda: group_members(settings, "plain") == 2, 60)
        generation = asyncio.run(join_them())
        assert all(worker.running for worker in workers)
    assert generation <= 3, "more often than members came"


def make_member(
    settings: Settings, group: str, assignor: type[AbstractPartitionAssignor]
) -> AIOKafkaConsumer:
    """A member of a group that is no worker, and divides clicks in its own way."""
    return AIOKafkaConsumer(
        CLICK.topic,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        group_id=group,
        partition_assignment_strategy=(assignor,),
    )


def group_members(settings: Settings, group: str) -> int:
    """How many a group is divided among; none while it is being divided."""
    admin = AdminClient(client_config(settings.kafka))
    found = admin.describe_consumer_groups([group])[group].result()
    return len(found.members) if found.state is ConsumerGroupState.STABLE else 0


def make_anew(settings: Settings) -> None:
    admin = AdminClient(client_config(settings.kafka))
    for deletion in admin.delete_topics([CLICK.topic]).values():
        deletion.result()
    wait_until(lambda: not topic_ids(settings.kafka, [CLICK.topic]), 20)
    ensure_topics(settings.kafka, [each for each in list_topics() if each.name == CLICK.topic])


@pytest.mark.timeout(300)
def test_a_log_that_was_put_back_from_a_copy_ends_the_worker_with_the_remedy(
    own: Settings, tmp_path: Path
) -> None:
    data, copy = own.local.state_dir / "kafka", tmp_path / "copy"
    log = tmp_path / "worker.log"
    feed(own, log)
    local.down(own, only=["kafka"])
    shutil.copytree(data, copy)
    feed(own, log)
    local.down(own, only=["kafka"])
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    settings = begin(own)
    worker = WorkerProcess(settings, "cut", log, group="cut")
    worker.start()
    assert worker.process is not None
    assert worker.process.wait(120) == 3
    last = log.read_text().splitlines()[-1]
    assert "ends at offset" in last
    assert "headwater backfill rows" in last

    # Another cluster at the same address: what it was copied would count twice. A writer of
    # windows that runs meanwhile takes nothing of it.
    windows = WindowStore(str(tmp_path / "windows"))
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_windows, settings, windows)
        wait_until(windows.numbers, 60)
        local.down(own, only=["kafka"])
        shutil.rmtree(data)
        settings = begin(own)
        with EventProducer(settings.kafka.client_settings) as producer:
            for number in range(300):
                producer.click(user_id=PEOPLE[number % 8], item_id="i0", event_id=f"other{number}")
        with pytest.raises(ServerError, match="Kafka"):
            writing.result(90)
    log_of_windows = read_windows(windows, windows.numbers()).events
    assert {event.event_id[0] for event in log_of_windows} == {"e"}
    with pytest.raises(SettingsError, match=r"windows\.address"):
        write_windows(settings, windows)
    worker.start()
    assert worker.process.wait(120) == 2
    last = log.read_text().splitlines()[-1]
    assert "holds rows of the Kafka cluster" in last
    assert "use an empty store and `headwater backfill rows`" in last


def write_windows(settings: Settings, windows: WindowStore) -> None:
    for _ in WindowWriter(settings.kafka, windows, WindowSettings(idle_s=0.5)).run(Event()):
        pass


def begin(own: Settings) -> Settings:
    """Kafka and the store, over the data that they have."""
    settings = without_model(local.up(own, only=["kafka", "store"]))
    ensure_topics(settings.kafka)
    return without_disk(settings)


def feed(own: Settings, log: Path) -> None:
    """Let a worker handle some events."""
    settings = begin(own)
    worker, shop = WorkerProcess(settings, "cut", log, group="cut"), Shop(settings)
    with closing(shop.store), running(worker):
        with EventProducer(settings.kafka.client_settings) as producer:
            shop.send(20, producer)
        WorkerProgress(settings, "cut").wait_for_all(120, [worker])
