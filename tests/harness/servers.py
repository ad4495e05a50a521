"""Real servers for the tests, started once a session in a state folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.harness.processes import local_settings
from deploy import local
from deploy.settings import Settings
from features.kafka import ensure_topics


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Kafka, the store and Triton, running; the settings have their addresses."""
    settings = local_settings(tmp_path_factory.mktemp("servers"))
    try:
        yield local.up(settings)
    finally:
        local.down(settings)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """Settings with a state folder for one test, which may do to its servers what it likes."""
    settings = local_settings(tmp_path / "state")
    try:
        yield settings
    finally:
        local.down(settings)


@pytest.fixture
def own_kafka(own: Settings) -> Settings:
    """A Kafka for one test, with empty topics; the settings have its address."""
    settings = local.up(own, only=["kafka"])
    ensure_topics(settings.kafka)
    return settings
