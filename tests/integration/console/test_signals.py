"""Anomalies planted in a replay through a real Kafka are found; what is no event is passed over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from headwater_client import EventProducer
from headwater_client.event_types import CLICK
from headwater_client.events import Item

from deploy.console.rates import SignalFollower
from deploy.monitoring.settings import MonitoringSettings
from deploy.settings import Settings
from features.rules.table import CatalogueTable
from tests.harness.servers import renew_topics
from tests.harness.waiting import wait_until
from trainer.windows.store import WindowStore

pytestmark = pytest.mark.integration

ITEMS = 30
RULES = MonitoringSettings(tick_s=0.2, memory_s=60, false_alarms_per_week=1)


@contextmanager
def following(follower: SignalFollower) -> Iterator[None]:
    """The follower runs in an event loop of its own, as in the console, until the block ends."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(follower.run())

    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


@contextmanager
def replaying(settings: Settings, rates: Callable[[], np.ndarray]) -> Iterator[None]:
    """In the block people click on items, at rates a second, float[items]."""
    stop, rng = threading.Event(), np.random.default_rng(4)

    def send() -> None:
        with EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer:
            while not stop.wait(0.05):
                for item, count in enumerate(rng.poisson(0.05 * rates()).tolist()):
                    for _ in range(count):
                        producer.click(user_id=f"p{rng.integers(500)}", item_id=f"i{item}")
                producer.flush()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def list_open(follower: SignalFollower) -> set[tuple[str, str, str]]:
    return {
        (each.kind.value, each.alarm.name, each.alarm.direction.value)
        for each, is_open in follower.rates.list_anomalies()
        if is_open
    }


def test_a_planted_surge_is_found_and_nothing_else_is(
    kafka_and_store: Settings, tmp_path: Path
) -> None:
    renew_topics(kafka_and_store.kafka)
    table = CatalogueTable()
    for at in range(ITEMS):
        table.put(Item(item_id=f"i{at}", category=[f"c{at % 10}"]))
    rates = np.full(ITEMS, 3.0)
    follower = SignalFollower(kafka_and_store.kafka, WindowStore(str(tmp_path)), RULES, table)
    with replaying(kafka_and_store, lambda: rates), following(follower):
        wait_until(lambda: not follower.problem, 30)
        wait_until(lambda: follower.rates.ticks > 70, 60)
        assert list_open(follower) == set()
        rates[7] = 60.0
        wait_until(lambda: ("item", "i7", "surge") in list_open(follower), 30)
        assert follower.rates.count_watched() == {"item": ITEMS, "category": 10, "all": 1}
        assert list_open(follower) <= {
            ("item", "i7", "surge"),
            ("category", "c7", "surge"),
        }
    # Who starts later reads the past, and comes to the same.
    later = SignalFollower(kafka_and_store.kafka, WindowStore(str(tmp_path)), RULES, table)
    with following(later):
        wait_until(lambda: ("item", "i7", "surge") in list_open(later), 30)


def test_a_log_without_events_and_messages_that_are_none(
    kafka_and_store: Settings, tmp_path: Path
) -> None:
    renew_topics(kafka_and_store.kafka)
    follower = SignalFollower(
        kafka_and_store.kafka, WindowStore(str(tmp_path)), RULES, CatalogueTable()
    )
    with EventProducer(kafka_and_store.kafka.client_settings, {"log_level": 0}) as producer:
        for raw in (b"{", b"[1]", b'{"item_id": 5}', b"\xff", None):
            producer.send_raw(CLICK.topic, "ann", raw)
    with following(follower):
        wait_until(lambda: not follower.problem, 30)
        assert list_open(follower) == set()
        assert follower.since_ms is None
