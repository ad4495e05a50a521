"""A writer of windows killed at random moments: every event is in exactly one window."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from headwater_client import EventProducer
from headwater_client.event_types import CLICK, PURCHASE

from deploy.settings import Settings
from tests.harness.oracle import read_topic
from tests.harness.workers import WorkerProcess, WorkerProgress, running
from trainer.windows.store import WindowStore

EVENTS = 2_000
KILLS = 10
HOURS = 60
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
LONGEST_S = 400
MALFORMED_EACH = 50
SCRIPT = "tests.faults.killed_writers"


def send(settings: Settings, chance: random.Random) -> None:
    """In event-time order, but for two hours of disorder; some malformed, some sent twice."""
    with EventProducer(settings.kafka.client_settings) as producer:
        for number in range(EVENTS):
            hour = HOURS * number / EVENTS + chance.uniform(0, 2)
            known = {
                "user_id": f"u{number % 50}",
                "item_id": f"i{number % 80}",
                "event_id": f"e{number - number % 2}" if number % 9 == 0 else f"e{number}",
                "timestamp": START_MS + int(hour * HOUR_MS),
            }
            (producer.purchase if chance.random() < 0.3 else producer.click)(**known)
            if number % MALFORMED_EACH == 0:
                producer.send_raw(CLICK.topic, known["user_id"], b"{broken")


def kill_again_and_again(settings: Settings, folder: Path, kills: int, *options: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    send(settings, random.Random(seed))
    command = (sys.executable, "-m", SCRIPT, str(kills), str(seed), *options)
    writers = WorkerProcess(settings, "writers", folder / "writers.log", command)
    with running(writers):
        wait_for_all(WindowStore(str(folder / "windows")), writers, settings)
    assert check_each_once(settings, folder / "windows") == EVENTS


def wait_for_all(store: WindowStore, writers: WorkerProcess, settings: Settings) -> None:
    """Until what no window has yet is nothing."""
    sent = WorkerProgress(settings).count_produced()
    deadline = time.monotonic() + LONGEST_S
    while True:
        newest = store.newest()
        positions = newest.progress.positions if newest else ()
        if sum(each.resume for each in positions) == sent:
            return
        assert writers.running, writers.log.read_text()[-2000:]
        assert time.monotonic() < deadline, positions
        time.sleep(0.1)


def check_each_once(settings: Settings, windows: Path) -> int:
    """The files, as any program reads them, against the log itself; how many events there are."""
    table = pq.read_table(windows, columns=["topic", "partition", "offset"]).to_pylist()
    found = Counter((each["topic"], each["partition"], each["offset"]) for each in table)
    expected = {
        (topic, partition, offset)
        for topic in (CLICK.topic, PURCHASE.topic)
        for partition, offset, value in read_topic(settings, topic, settings.kafka.partitions)
        if value != b"{broken"
    }
    assert set(found) == expected
    assert max(found.values()) == 1
    return len(expected)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADWATER_WINDOWS__ADDRESS", str(tmp_path / "windows"))
    monkeypatch.setenv("HEADWATER_WINDOWS__IDLE_S", "1")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_every_event_is_in_one_window_after_kills(
    configured: None, own_kafka: Settings, tmp_path: Path
) -> None:
    kill_again_and_again(own_kafka, tmp_path, KILLS)
    assert "Traceback" not in (tmp_path / "writers.log").read_text()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_without_skipping_events_would_be_in_two_windows(
    configured: None, own_kafka: Settings, tmp_path: Path
) -> None:
    """The test above can fail: the same, with a writer that passes over nothing."""
    with pytest.raises(AssertionError, match=r"assert \d+ == 1"):
        kill_again_and_again(own_kafka, tmp_path, 4, "forgetful")
