"""Real servers for the tests, started once a session in a state folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import local
from deploy.settings import LocalSettings, Settings
from features.kafka import ensure_topics
from features.settings import KafkaSettings, StoreSettings
from stream.settings import TritonSettings


def local_settings(state_dir: Path) -> Settings:
    """Settings under which every server is local, whatever the developer's environment says."""
    inherited = LocalSettings.model_validate(Settings().local.model_dump())
    return Settings(
        kafka=KafkaSettings(),
        store=StoreSettings(),
        triton=TritonSettings(),
        local=inherited.model_copy(update={"state_dir": state_dir} | _ports()),
        model_repository=state_dir / "model_repo",
    )


def _ports() -> dict[str, int]:
    """Preferred ports of this process of pytest's: two that look for free ones find the same."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    names = [name for name in LocalSettings.model_fields if name.endswith("_port")]
    return {name: 20_000 + 100 * number + at for at, name in enumerate(names)}


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
