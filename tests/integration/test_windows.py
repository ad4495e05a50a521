"""Windows from a real Kafka: what is in them, what Kafka is told, and what ends a writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from headwater_client import EventProducer, encode
from headwater_client.event_types import CLICK, PURCHASE
from headwater_client.identities import Erasure, Merge
from headwater_client.topics import IDENTITIES, PARTITIONER
from structlog.testing import capture_logs

from deploy.settings import Settings
from features.kafka import client_config
from features.settings import BrokerSettings
from tests.harness.servers import renew_topics
from tests.harness.waiting import wait_until
from trainer.windows.assembler import ClosedWindow
from trainer.windows.settings import WindowSettings
from trainer.windows.store import (
    ConcurrentWriterError,
    StagedWindow,
    WindowManifest,
    WindowStore,
    read_log,
)
from trainer.windows.writer import WindowWriter

pytestmark = pytest.mark.integration

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
MINUTE_MS = 60_000
SETTINGS = WindowSettings(idle_s=0.5)


@pytest.fixture
def kafka(kafka_and_store: Settings) -> BrokerSettings:
    """Kafka with empty topics, which these tests may delete."""
    renew_topics(kafka_and_store.kafka)
    return kafka_and_store.kafka


@pytest.fixture
def store(tmp_path: Path) -> WindowStore:
    return WindowStore(str(tmp_path / "windows"))


def send(kafka: BrokerSettings, *minutes: float, user: str = "ann") -> None:
    """One click at each of these minutes, in this order; all on one partition."""
    with EventProducer(kafka.client_settings) as producer:
        for minute in minutes:
            time_ms = START_MS + int(minute * MINUTE_MS)
            producer.click(user_id=user, item_id="lamp", timestamp=time_ms)


def write(
    kafka: BrokerSettings, store: WindowStore, windows: int, settings: WindowSettings = SETTINGS
) -> list[WindowManifest]:
    """What a writer writes before it is stopped after so many windows."""
    with closing(WindowWriter(kafka, store, settings).run(Event())) as written:
        return list(islice(written, windows))


def minutes(store: WindowStore, number: int) -> list[float]:
    rows = store.read(number).rows
    return [(row.event.timestamp - START_MS) / MINUTE_MS for row in rows]


def count_committed(kafka: BrokerSettings) -> int:
    """Messages that Kafka thinks are in windows."""
    consumer = Consumer(client_config(kafka) | {"group.id": SETTINGS.group})
    places = [
        TopicPartition(topic, partition)
        for topic in (CLICK.topic, PURCHASE.topic)
        for partition in range(kafka.partitions)
    ]
    found = sum(max(0, each.offset) for each in consumer.committed(places, timeout=20))
    consumer.close()
    return found


def test_windows_follow_event_time_and_a_later_writer_goes_on(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    send(kafka, 61, 5, 30, 62, 70)
    [first] = write(kafka, store, 1)
    assert minutes(store, 1) == [5, 30]
    assert (first.reason, first.late) == ("watermark", 0)
    # The report is of what lies before the first open event.
    assert count_committed(kafka) == 0
    send(kafka, 10, 140)
    write(kafka, store, 2)
    assert minutes(store, 2) == [10, 61, 62, 70]
    assert [row.late for row in store.read(2).rows] == [True, False, False, False]
    assert minutes(store, 3) == [140]
    assert count_committed(kafka) == 7
    log = read_log(store, store.numbers())
    assert [(event.timestamp - START_MS) / MINUTE_MS for event in log.events] == [
        *(5, 10, 30, 61, 62, 70, 140),
    ]


def test_what_is_no_event_is_passed_over_counted_and_logged_once(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    with EventProducer(kafka.client_settings) as producer:
        producer.send_raw(CLICK.topic, "ann", b'{"user_id": "ann"')
        producer.send_raw(PURCHASE.topic, "ann", None)
        producer.send_raw(CLICK.topic, "ann", b'{"user_id": "ann", "timestamp": 1}')
        producer.send_raw(CLICK.topic, "ann", b'{"x":' * 1_400 + b"1" + b"}" * 1_400)
    send(kafka, 5)
    with capture_logs() as logs:
        [window] = write(kafka, store, 1)
    assert (window.events, window.refused) == (1, 4)
    refused = [each for each in logs if each["event"] == "event_refused"]
    assert sorted((each["topic"], each["offset"]) for each in refused) == [
        *((CLICK.topic, 0), (CLICK.topic, 1), (CLICK.topic, 2), (PURCHASE.topic, 0)),
    ]
    assert all(each["reason"] and "ann" not in each["reason"] for each in refused)
    send(kafka, 6)
    with capture_logs() as logs:
        [window] = write(kafka, store, 1)
    assert (window.events, window.refused) == (1, 0)
    assert [each["event"] for each in logs] == ["window_written"]


def test_an_event_sent_again_is_marked_by_a_later_writer_too(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    known = {"user_id": "ann", "item_id": "lamp", "event_id": "e", "timestamp": START_MS}
    for _ in range(2):
        with EventProducer(kafka.client_settings) as producer:
            producer.click(**known)
        write(kafka, store, 1)
    assert [store.read(number).rows[0].repeated for number in (1, 2)] == [False, True]
    assert len(read_log(store, [1, 2]).events) == 1


def test_of_two_writers_the_one_that_comes_second_stops(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    send(kafka, 5, 140)
    first = WindowWriter(kafka, store, SETTINGS).run(Event())
    assert next(first).number == 1
    [other] = write(kafka, store, 1)
    assert other.number == 2
    with pytest.raises(ConcurrentWriterError, match="written by another writer"):
        next(first)
    assert (minutes(store, 1), minutes(store, 2)) == ([5], [140])


class FullAtFirst(WindowStore):
    """The file of its first window is on a device that is full."""

    def prepare(self, number: int, closed: ClosedWindow) -> StagedWindow:
        draft = super().prepare(number, closed)
        aside = Path(self._files._path(draft.manifest.aside))
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.symlink_to("/dev/full")
        return draft


def test_a_full_disk_is_tried_again(kafka: BrokerSettings, tmp_path: Path) -> None:
    store = FullAtFirst(str(tmp_path))
    send(kafka, 5)
    with capture_logs() as logs:
        [window] = write(kafka, store, 1)
    assert [each["event"] for each in logs] == ["window_not_written", "window_written"]
    assert "No space left on device" in logs[0]["reason"]
    assert minutes(store, window.number) == [5]


def test_a_topic_made_anew_is_read_from_its_beginning(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    send(kafka, 5, 6, 7)
    write(kafka, store, 1)
    renew_topics(kafka)
    send(kafka, 65)
    write(kafka, store, 1)
    assert (minutes(store, 1), minutes(store, 2)) == ([5, 6, 7], [65])


def headwater(
    kafka: BrokerSettings, folder: Path, *arguments: str
) -> tuple[list[str], dict[str, str]]:
    variables = {
        "HEADWATER_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers or "",
        "HEADWATER_WINDOWS__ADDRESS": str(folder / "windows"),
        "HEADWATER_WINDOWS__IDLE_S": "0.5",
    }
    return [sys.executable, "-m", "deploy.cli", "windows", *arguments], os.environ | variables


def run(kafka: BrokerSettings, folder: Path, *arguments: str) -> str:
    command, environment = headwater(kafka, folder, *arguments)
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_commands(kafka: BrokerSettings, store: WindowStore, tmp_path: Path) -> None:
    send(kafka, 5, 6)
    command, environment = headwater(kafka, tmp_path, "write")
    writer = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: bool(store.numbers()), 60)
        writer.send_signal(signal.SIGTERM)
        _, errors = writer.communicate(timeout=60)
    finally:
        writer.kill()
    assert writer.returncode == 0
    [line] = [json.loads(each) for each in errors.splitlines()]
    assert (line["event"], line["window"], line["events"]) == ("window_written", 1, 2)
    [listed] = json.loads(run(kafka, tmp_path, "ls", "--json"))
    assert (listed["number"], listed["events"]) == (1, 2)
    assert "2023-11-14 22:05 2023-11-14 22:06 idle" in run(kafka, tmp_path, "ls")
    shown = json.loads(run(kafka, tmp_path, "show", "1", "--json", "--head", "1"))
    assert [each["event"]["item_id"] for each in shown["rows"]] == ["lamp"]
    assert "... 1 more: --head 2" in run(kafka, tmp_path, "show", "1", "--head", "1")


def test_a_window_says_which_guests_have_become_members(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    producer = Producer(client_config(kafka) | {"partitioner": PARTITIONER})
    for number, guest in enumerate(("g1", "g2", "g1")):
        merge = Merge(merge_id=f"m{number}", guest=guest, member="ann" if number < 2 else "bob")
        producer.produce(IDENTITIES, encode(merge), guest)
    producer.produce(IDENTITIES, b"no message", "g1")
    assert producer.flush(30) == 0
    send(kafka, 5)
    [first] = write(kafka, store, 1)
    assert first.merges == {"g1": "ann", "g2": "ann"}
    send(kafka, 66)
    [second] = write(kafka, store, 1)
    assert (second.merges, second.refused) == ({}, 0)


def forget(kafka: BrokerSettings, person: str) -> None:
    producer = Producer({**client_config(kafka), "partitioner": PARTITIONER})
    producer.produce(IDENTITIES, encode(Erasure(erasure_id="e", user_id=person)), person)
    assert producer.flush(20) == 0


def people(store: WindowStore) -> dict[int, list[str]]:
    """Whose events each window has."""
    return {
        number: [row.event.user_id for row in store.read(number).rows] for number in store.numbers()
    }


@contextmanager
def writing(kafka: BrokerSettings, store: WindowStore) -> Iterator[None]:
    """A writer at work in another thread."""
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(lambda: list(WindowWriter(kafka, store, SETTINGS).run(stop)))
        try:
            yield
        finally:
            stop.set()
        written.result()


def test_who_is_forgotten_while_a_writer_runs_is_in_no_window_and_new_afterwards(
    kafka: BrokerSettings, store: WindowStore
) -> None:
    with writing(kafka, store):
        send(kafka, 5, user="ann")
        send(kafka, 6, user="zoe-77")
        wait_until(lambda: len(store.numbers()) == 1, 60)
        forget(kafka, "zoe-77")
        wait_until(lambda: people(store) == {1: ["ann"]}, 60)
        send(kafka, 7, user="zoe-77")
        wait_until(lambda: len(store.numbers()) == 2, 60)
    assert people(store) == {1: ["ann"], 2: ["zoe-77"]}
    assert store.manifest(2).erasures == 1


def test_who_was_forgotten_while_no_writer_ran_is_taken_out_by_the_next(
    kafka: BrokerSettings, store: WindowStore, tmp_path: Path
) -> None:
    send(kafka, 5, user="ann")
    send(kafka, 6, user="zoe-77")
    write(kafka, store, 1)
    send(kafka, 7, user="zoe-77")
    forget(kafka, "zoe-77")
    send(kafka, 8, user="zoe-77")
    with writing(kafka, store):
        wait_until(lambda: len(store.numbers()) == 2, 60)
    assert people(store) == {1: ["ann"], 2: ["zoe-77"]}
    assert minutes(store, 2) == [8]
    # The log is read from its beginning: what was before the erasure is in no window.
    anew = WindowStore(str(tmp_path / "anew"))
    write(kafka, anew, 1)
    assert people(anew) == {1: ["ann", "zoe-77"]}
    assert minutes(anew, 1) == [5, 8]
