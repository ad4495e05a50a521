"""Batches from the queue that Faust fills, and whether the pinned Faust still has what is used."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer
from faust import App
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from features.settings import BrokerSettings, FeatureSettings, StoreSettings
from stream.app import make_faust_app
from stream.faust_internals import SignalledWorker, _Consumer, _ConsumerThread, _replace, batches
from stream.settings import TritonSettings, WorkerConfig, WorkerSettings


def event(number: int, generation: int = 1) -> SimpleNamespace:
    return SimpleNamespace(number=number, message=SimpleNamespace(generation_id=generation))


class FakeApp:
    """The two things of an app that say whether a message is of now."""

    def __init__(self) -> None:
        self.consumer_generation_id = 1
        self.flow_control = self
        self.active = True

    def is_active(self) -> bool:
        return self.active


class EndingQueue(asyncio.Queue[SimpleNamespace]):
    """Ends as Faust's does when the worker is told to stop."""

    async def get(self) -> SimpleNamespace:
        if self.empty():
            raise StopAsyncIteration
        return await super().get()


def take_batches(app: FakeApp, *events: SimpleNamespace, limit: int = 3) -> list[list[int]]:
    async def run() -> list[list[int]]:
        queue = EndingQueue()
        for each in events:
            queue.put_nowait(each)
        stream = SimpleNamespace(channel=SimpleNamespace(queue=queue))
        found = batches(app, stream, limit)  # type: ignore[arg-type]
        return [[each.number for each in batch] async for batch in found]

    return asyncio.run(run())


def test_a_batch_is_what_has_arrived_up_to_a_limit() -> None:
    assert take_batches(FakeApp(), *map(event, range(5))) == [[0, 1, 2], [3, 4]]


def test_what_was_fetched_before_a_rebalance_is_left_out() -> None:
    arrived = [event(0, generation=0), event(1), event(2, generation=0), event(3, generation=0)]
    assert take_batches(FakeApp(), *arrived, limit=2) == [[1]]


def test_nothing_is_handled_while_a_rebalance_is_under_way() -> None:
    app = FakeApp()
    app.active = False
    assert take_batches(app, event(0), event(1)) == []


def test_the_pinned_faust_has_what_is_used_of_it() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert callable(driver.Consumer._commit)
    assert callable(driver.Consumer._new_consumer_thread)
    assert callable(driver.AIOKafkaConsumerThread._create_worker_consumer)
    app = App(id="t", broker="aiokafka://localhost:9", store="memory://")
    assert isinstance(app.consumer_generation_id, int)
    assert isinstance(app.flow_control.is_active(), bool)
    names = AIOKafkaConsumer.__init__.__code__.co_names
    assert {"_fetch_max_wait_ms", "_fetch_min_bytes", "_partition_assignment_strategy"} <= set(
        names
    )


def test_debug_lines_that_nobody_reads_are_not_made() -> None:
    app = App(id="t", broker="aiokafka://localhost:9", store="memory://")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        SignalledWorker(app, [], lambda: None)._setup_logging()
        assert not logging.getLogger("aiokafka.consumer.fetcher").isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_an_app_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's file system may be read-only, and without /tmp."""

    def refuse(*_: object) -> None:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.gettempdir", refuse)
    kafka = BrokerSettings(bootstrap_servers="b1:9092, [::1]")
    others = (StoreSettings(), FeatureSettings(), TritonSettings(), WorkerSettings())
    config = WorkerConfig(kafka, *others)
    app = make_faust_app(config, "log")
    app._create_directories()
    assert list(tmp_path.iterdir()) == []
    assert [(url.host, url.port) for url in app.conf.broker] == [("b1", 9092), ("::1", 9092)]


def test_a_name_that_aiokafka_has_no_more_is_said() -> None:
    with pytest.raises(AttributeError, match="_fetch_max_wait_ms any more"):
        _replace(SimpleNamespace(), "_fetch_max_wait_ms", 10)  # type: ignore[arg-type]


class SeekingConsumer(_Consumer):
    """Says how often it has sought; that is all that a seek does here."""

    def __init__(self) -> None:
        self.sought = 0

    async def _seek_to_starts(self) -> dict[TP, int]:
        await asyncio.sleep(0)
        return {}

    async def perform_seek(self) -> None:
        self.sought += 1
        await self.seek_to_committed()


@pytest.mark.parametrize("moment", ["before", "while", "begun", "never"])
def test_what_was_fetched_while_a_seek_was_under_way_is_sought_again(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    consumer = SeekingConsumer()

    async def fetch(*_: object, **__: object) -> dict[str, int]:
        if moment == "while":
            await consumer.seek_to_committed()
        elif moment == "begun":
            seeks.append(asyncio.create_task(consumer.seek_to_committed()))
            await asyncio.sleep(0)
        return {"records": 1}

    seeks: list[asyncio.Task[object]] = []
    monkeypatch.setattr(driver.Consumer, "_getmany", fetch)

    async def run() -> object:
        if moment == "before":
            await consumer.seek_to_committed()
        return await consumer._getmany(set(), 1.0)

    found = asyncio.run(run())
    if moment in ("before", "never"):
        assert (found, consumer.sought) == ({"records": 1}, 0)
    else:
        assert (found, consumer.sought) == ({}, 1)


def test_a_commit_of_partitions_that_have_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit(_: object, offsets: dict[TP, int]) -> bool:
        return True

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_commit", commit)
    thread = _ConsumerThread.__new__(_ConsumerThread)
    monkeypatch.setattr(_ConsumerThread, "assignment", lambda _: {TP("clicks", 1)})
    assert not asyncio.run(thread._commit({TP("clicks", 0): 5}))
    assert asyncio.run(thread._commit({TP("clicks", 0): 5, TP("clicks", 1): 7}))
