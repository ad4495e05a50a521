"""Duplicates, shuffled order, and events that are weeks late give the same rows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from headwater_client import EventProducer
from headwater_client.events import Click, Interaction, Purchase

from deploy.settings import Settings
from features.settings import DAY_MS
from tests.harness.oracle import read_log
from tests.harness.rows import check_items, check_users
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_disk

EVENTS = 2_500
PEOPLE = 60
START_MS = 1_700_000_000_000


def events() -> list[Interaction]:
    chance = random.Random(11)
    made: list[Interaction] = []
    for number in range(EVENTS):
        kind = Purchase if chance.random() < 0.2 else Click
        made.append(
            kind(
                event_id=f"e{number}",
                user_id=f"u{chance.randrange(PEOPLE)}",
                item_id=f"i{chance.randrange(80)}",
                # Seven weeks, in whole hours: many events of a person share an instant.
                timestamp=START_MS + chance.randrange(49 * 24) * (DAY_MS // 24),
            )
        )
    return made


def arrivals(made: list[Interaction]) -> list[Interaction]:
    """Shuffled, and a third of them sent again a little later."""
    chance = random.Random(12)
    shuffled = list(made)
    chance.shuffle(shuffled)
    sent: list[Interaction] = []
    for place, event in enumerate(shuffled):
        sent.append(event)
        if place >= 300 and chance.random() < 0.33:
            sent.append(shuffled[place - chance.randrange(300)])
    return sent


@pytest.mark.faults
def test_rows_do_not_depend_on_order_or_repetition(empty_streams: Settings, tmp_path: Path) -> None:
    settings = without_disk(empty_streams)
    worker = WorkerProcess(settings, "patient", tmp_path / "worker.log", group="patient")
    made = events()
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        for event in arrivals(made):
            producer.send(event)
        producer.flush()
        WorkerProgress(settings, "patient").wait_for_all(120, [worker])
    logged = read_log(settings)
    assert len(logged) == EVENTS
    check_users(settings, logged, {})
    # An item's events of one source come from one partition, so the sums per source are the log's.
    check_items(settings, logged)
