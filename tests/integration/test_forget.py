"""A person is forgotten on real servers: the receipt is held against every byte that is there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow.parquet as pq
import pytest
from headwater_client import EventProducer
from headwater_client.event_types import CLICK
from headwater_client.topics import PEOPLE

from deploy import local
from deploy.local.store import history_path
from deploy.settings import Settings
from features.events import current_ms
from features.kafka import ensure_topics
from features.shown import COLUMN, append_shown, decode_shown
from features.store import SHOWN, RowRead
from features.store.redis import RedisRowStore
from tests.harness.rows import total_counted
from tests.harness.waiting import wait_until
from tests.harness.workers import (
    WorkerProcess,
    WorkerProgress,
    environment,
    running,
    without_disk,
    without_model,
)
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowWriter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
PERSON = "zoe-4711-unmistakable"
GROUP = "forget"
START_MS = 1_700_000_000_000
ITEMS = [f"i{number}" for number in range(6)]
# What holds a person's id afterwards, by the receipt: Kafka until its retention, and the row's key.
SERVERS = {"kafka", "store"}


@pytest.fixture
def settings(own: Settings) -> Settings:
    settings = without_disk(without_model(local.up(own, only=["kafka", "store"])))
    ensure_topics(settings.kafka)
    windows = settings.windows.model_copy(update={"idle_s": 0.5})
    return settings.model_copy(update={"windows": windows})


@contextmanager
def loop_running(settings: Settings) -> Iterator[WorkerProgress]:
    """A worker, and what a trainer does of windows."""
    folder, stop = settings.local.state_dir, Event()
    store = WindowStore(settings.windows_address)
    writer = WindowWriter(settings.kafka, store, settings.windows)
    worker = WorkerProcess(settings, "w", folder / "logs" / "worker.log", group=GROUP)
    with ThreadPoolExecutor(1) as pool, running(worker):
        written = pool.submit(lambda: list(writer.run(stop)))
        try:
            yield WorkerProgress(settings, GROUP)
        finally:
            stop.set()
        written.result()


def headwater(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = environment(settings, "operator") | {
        "HEADWATER_LOCAL__STATE_DIR": str(settings.local.state_dir)
    }
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def export(settings: Settings) -> Any:
    """All that is known of the person."""
    said = headwater(settings, "export", PERSON)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def click(producer: EventProducer, person: str, number: int) -> None:
    producer.click(user_id=person, item_id=f"i{number}", timestamp=START_MS + 60_000 * number)


def files_with(folder: Path, name: str) -> set[str]:
    """Every file that has a name: in its bytes, or in what its compressed columns hold."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and name.encode() in _content(path)
    }


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".parquet":
        return content
    return content + repr(pq.read_table(path).to_pydict()).encode()


def topics_with(files: set[str]) -> set[str]:
    """The topics whose partitions are among files of the state folder."""
    return {
        f"topic {Path(file).parent.name.rpartition('-')[0]}"
        for file in files
        if file.startswith("kafka/") and file.endswith(".log")
    }


def remember_shown(settings: Settings, person: str) -> None:
    async def run(store: RedisRowStore) -> None:
        await store.append([append_shown(person, ["i1", "i2"], current_ms(), 100)])
        await store.close()

    asyncio.run(run(RedisRowStore(settings.store)))


def count_shown(settings: Settings, person: str) -> int:
    async def run(store: RedisRowStore) -> dict[str, Any]:
        (stored,) = await store.read([RowRead(SHOWN, person, (COLUMN,))])
        await store.close()
        return stored

    return len(decode_shown(asyncio.run(run(RedisRowStore(settings.store))), 0))


def test_who_is_forgotten_is_in_no_byte_but_where_the_receipt_says(settings: Settings) -> None:
    folder = settings.local.state_dir
    windows = WindowStore(settings.windows_address)
    with (
        loop_running(settings) as progress,
        EventProducer(settings.kafka.client_settings) as producer,
    ):
        for number in range(6):
            click(producer, PERSON, number)
            click(producer, "ann", number)
        producer.send_raw(CLICK.topic, PERSON, f'{{"user_id": "{PERSON}"'.encode())
        producer.send_raw(
            PEOPLE, PERSON, f'{{"user_id": "{PERSON}", "attributes": {{"city": "Ghent"}}}}'.encode()
        )
        producer.flush()
        progress.wait_for_all(60)
        remember_shown(settings, PERSON)
        wait_until(lambda: bool(windows.numbers()), 60)
        made = headwater(settings, "backfill", "history")
        assert made.returncode == 0, made.stderr
        assert total_counted(settings, [PERSON]) == 6
        known = export(settings)
        assert [each["event"]["item_id"] for each in known["events"]] == ITEMS
        assert known["counters"]["click"]["all"] == 6
        assert (known["attributes"], known["shown"]) == ({"city": "Ghent"}, 2)
        assert [each["topic"] for each in known["letters"]] == [CLICK.topic]
        assert known["missing"] == []
        before = files_with(folder, PERSON)
        parts = {file.split("/", 1)[0] for file in before}
        assert {"kafka", "windows", "feature_repo"} <= parts

        said = headwater(settings, "forget", PERSON, "--json")

        assert said.returncode == 0, said.stderr
        found = json.loads(said.stdout)
        assert found["waiting"] == {}
        after = files_with(folder, PERSON)
        assert {file.split("/", 1)[0] for file in after} <= SERVERS
        places = {each["place"]: each for each in found["receipt"]["places"]}
        expiring = {name for name, each in places.items() if each["state"] == "expires"}
        assert topics_with(after) <= expiring
        day_ms = 86_400_000
        for name in (f"topic {CLICK.topic}", "topic dead-letters"):
            left_days = (places[name]["until"] - current_ms()) / day_ms
            assert 29 < left_days < 38, name
        # Nobody else has lost anything, and the person is new again.
        assert total_counted(settings, ["ann"]) == 6
        assert total_counted(settings, [PERSON]) == 0
        assert count_shown(settings, PERSON) == 0
        rows = pq.read_table(history_path(settings)).to_pylist()
        assert {row["user_id"] for row in rows} == {"ann"}
        assert len(rows) == 6
        after_all = export(settings)
        assert (after_all["counters"]["click"]["all"], after_all["attributes"]) == (0, {})
        # The log has it until its retention, and says so.
        assert [each["event"]["item_id"] for each in after_all["events"]] == ITEMS
        assert "erasure" in {each["message"]["type"] for each in after_all["identities"]}
        click(producer, PERSON, 7)
        producer.flush()
        wait_until(lambda: total_counted(settings, [PERSON]) == 1, 60)
        # Said again, it is as it was.
        assert headwater(settings, "forget", PERSON).returncode == 0
        assert total_counted(settings, [PERSON]) == 0


def test_what_was_not_seen_to_be_empty_is_named_and_done_once_somebody_runs(
    settings: Settings,
) -> None:
    windows = WindowStore(settings.windows_address)
    with (
        EventProducer(settings.kafka.client_settings) as producer,
        loop_running(settings) as progress,
    ):
        click(producer, PERSON, 1)
        producer.flush()
        progress.wait_for_all(60)
        wait_until(lambda: bool(windows.numbers()), 60)
    said = headwater(settings, "forget", PERSON, "--wait", "0")
    assert said.returncode == 3
    row, held = said.stderr.splitlines()
    assert row.startswith("headwater: feature row: no worker has read it yet")
    assert held.startswith("headwater: windows: 1 of them have the person still")
    assert "waits" in said.stdout
    with loop_running(settings):
        wait_until(lambda: total_counted(settings, [PERSON]) == 0, 60)
        wait_until(lambda: not windows.read(1, PERSON).rows, 60)


def test_an_id_that_nobody_can_have_is_refused(settings: Settings) -> None:
    said = headwater(settings, "forget", "x" * 300)
    assert said.returncode == 5
    assert said.stderr.startswith("headwater: user_id")
