"""Half of MovieLens-100K on the real servers, with a worker killed at random moments."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from headwater_client import EventProducer

from deploy.jobs.replay import replay
from deploy.settings import Settings
from tests.harness.oracle import read_log
from tests.harness.rows import check_items, check_users
from tests.harness.workers import WorkerProcess, WorkerProgress, running
from trainer.datasets import DataSource, load_log

EVENTS, KILLS = 15_000, 2


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_rows_equal_the_log_after_kills(empty_streams: Settings, tmp_path: Path) -> None:
    settings = empty_streams
    log = load_log(DataSource(cache_dir=settings.local.cache_dir)).head(EVENTS)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    worker = WorkerProcess(
        settings, "crashing", tmp_path / "worker.log", group="crashing", commit_interval_s=1.0
    )
    progress = WorkerProgress(settings, "crashing")
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        # The catalogue first: an event counts under the categories known when it is absorbed.
        replay(log.head(0), producer)
        progress.wait_for_all(120, [worker])
        replay(log, producer)
        produced = progress.count_produced()
        moments = sorted(
            chance.randrange(progress.count_committed(), produced) for _ in range(KILLS)
        )
        for moment in moments:
            progress.wait_for(moment, 300)
            worker.kill()
            worker.start()
        progress.wait_for_all(300, [worker])
    logged = read_log(settings)
    assert len(logged) == len(log.events)
    check_users(settings, logged, {item.item_id: item.category for item in log.items})
    check_items(settings, logged)
