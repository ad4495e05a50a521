"""Two workers; one sleeps past its session while it holds a batch, and wakes up."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from headwater_client import EventProducer

from deploy.settings import Settings
from tests.harness.oracle import read_log
from tests.harness.rows import check_items, check_users
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_disk

SCRIPT = "tests.faults.held_worker"
PEOPLE = 40
START_MS = 1_700_000_000_000
TAKEN_OVER_S = 30


def send(producer: EventProducer, first: int, last: int) -> None:
    for number in range(first, last):
        producer.click(
            user_id=f"u{number % PEOPLE}",
            item_id=f"i{number % 7}",
            event_id=f"e{number}",
            timestamp=START_MS + number * 1000,
        )
    producer.flush()


def sleep_through_a_takeover(settings: Settings, folder: Path, group: str, *options: str) -> None:
    """One worker holds a batch asleep while the other takes over and goes on; then it wakes."""
    marker = folder / "hold"
    command = (sys.executable, "-m", SCRIPT, str(marker), *options)
    held = WorkerProcess(settings, "held", folder / "held.log", command, group=group)
    other = WorkerProcess(settings, "other", folder / "other.log", group=group)
    progress = WorkerProgress(settings, group)
    with running(held), EventProducer(settings.kafka.client_settings) as producer:
        send(producer, 0, 400)
        progress.wait_for_all(60, [held])
        marker.touch()
        send(producer, 400, 800)
        while marker.exists():
            time.sleep(0.01)
        with running(other):
            # The other gets the sleeper's partitions once its session is over.
            progress.wait_for_all(60, [other])
            send(producer, 800, 1200)
            progress.wait_for_all(60, [other])
            held.signal(signal.SIGCONT)
            time.sleep(3)
            send(producer, 1200, 1600)
            # The sleeper may end itself when it finds its session over: the other goes on.
            progress.wait_for_all(60, [other])
    logged = read_log(settings)
    assert len(logged) == 1600
    check_users(settings, logged, {})
    check_items(settings, logged)


@pytest.mark.faults
def test_a_worker_that_slept_overwrites_nothing(empty_streams: Settings, tmp_path: Path) -> None:
    sleep_through_a_takeover(without_disk(empty_streams), tmp_path, "conditional")


@pytest.mark.faults
def test_without_the_condition_the_sleeper_would_overwrite(
    empty_streams: Settings, tmp_path: Path
) -> None:
    """The test above can fail: the same, with the condition taken out of the store's write."""
    with pytest.raises(AssertionError, match=r"^u\d+"):
        sleep_through_a_takeover(
            without_disk(empty_streams), tmp_path, "unconditional", "unconditional"
        )
