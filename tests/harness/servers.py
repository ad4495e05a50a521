"""Real servers for the tests, started once a session in a state folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from confluent_kafka.admin import AdminClient
from redis import Redis

from bench.harness.processes import local_settings
from deploy import local
from deploy.local.kafka import Kafka
from deploy.local.process import StateFolder
from deploy.local.servers import quiet
from deploy.settings import Settings
from features.kafka import client_config, ensure_topics, topic_ids
from features.settings import BrokerSettings
from features.topics import list_topics
from tests.harness.waiting import wait_until
from tests.harness.workers import without_model


@cache
def _template() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="headwater-")


@cache
def formatted_kafka() -> Path:
    """The folder of a Kafka that was never started: to format each takes a Java of its own."""
    settings = local_settings(Path(_template().name))
    kafka = Kafka()
    kafka.launch(settings, kafka.ports(settings), quiet)
    return settings.local.state_dir / "kafka"


@contextmanager
def state_in(folder: Path) -> Iterator[Settings]:
    """Settings with a state folder; the servers that were started in it end with the block."""
    settings = local_settings(folder)
    shutil.copytree(formatted_kafka(), folder / "kafka")
    try:
        yield settings
    finally:
        # Kafka puts its log in order for seconds, which nobody reads again.
        at_once = settings.local.model_copy(update={"stop_timeout_s": 0.2})
        local.down(settings.model_copy(update={"local": at_once}), only=["kafka"])
        local.down(settings)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Kafka, the store and Triton, running; the settings have their addresses."""
    with state_in(tmp_path_factory.mktemp("servers")) as settings:
        yield local.up(settings)


@pytest.fixture(scope="session")
def kafka_and_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Kafka and the store for tests that need them empty: whoever uses them empties them first."""
    # A folder may have any name.
    with state_in(tmp_path_factory.mktemp("streams") / "a b é 100% #1, x") as settings:
        yield without_model(local.up(settings, only=["kafka", "store"]))


@pytest.fixture
def empty_streams(kafka_and_store: Settings) -> Settings:
    """Kafka with empty topics and an empty store, for workers that ask no model.

    A worker's place in its group outlives it: each test names a consumer group of its own.
    """
    renew_topics(kafka_and_store.kafka)
    with closing(connect_redis(kafka_and_store)) as store:
        store.flushall()
    return kafka_and_store


def connect_redis(settings: Settings) -> Redis:
    """A client of the store's server; to be closed."""
    host, _, port = (settings.store.address or "").rpartition(":")
    return Redis(host, int(port))


def renew_topics(
    kafka: BrokerSettings, other: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Delete all topics of the contract and make them anew, with ids of their own.

    Args:
        other: configuration that a topic has instead of its own.
    """
    admin, names = AdminClient(client_config(kafka)), [topic.name for topic in list_topics()]
    if there := list(topic_ids(kafka, names)):
        for deletion in admin.delete_topics(there).values():
            deletion.result()
    wait_until(lambda: not topic_ids(kafka, names), 20)
    configs = {topic.name: topic.config for topic in list_topics()} | dict(other or {})
    ensure_topics(
        kafka, [replace(topic, config=dict(configs[topic.name])) for topic in list_topics()]
    )


@contextmanager
def asleep(settings: Settings, *names: str) -> Iterator[None]:
    """Local servers that do not answer, and do not close a connection either."""
    records = StateFolder(settings.local.state_dir).records()
    with pause(*(records[name].process.pid for name in names)):
        yield


@contextmanager
def pause(*pids: int) -> Iterator[None]:
    """Processes that do nothing, in the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """Settings with a state folder for one test, which may do to its servers what it likes."""
    with state_in(tmp_path / "state") as settings:
        yield settings


@pytest.fixture
def own_kafka(own: Settings) -> Settings:
    """A Kafka for one test, with empty topics; the settings have its address."""
    settings = local.up(own, only=["kafka"])
    ensure_topics(settings.kafka)
    return settings
