"""The servers of a benchmark: its own, in a folder of their own, with a small model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.harness.cores import Cores
from deploy import local
from deploy.local.feature_repo import feature_repo
from deploy.settings import LocalSettings, Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from features.settings import KafkaSettings, StoreSettings
from stream.settings import TritonSettings
from trainer.datasets.log import Log
from trainer.network.trained import Trained
from trainer.registry.publish import ModelVersion, publish
from trainer.registry.triton import ModelServer
from trainer.settings import TrainerSettings
from trainer.training.from_scratch import train_first_model


@dataclass(frozen=True)
class Servers:
    """Running servers: their settings, their processes, the model's version, Feast's folder."""

    settings: Settings
    pids: dict[str, int]
    version: ModelVersion
    repository: Path


@contextmanager
def running_servers(log: Log, train_s: float, cores: Cores, console: Console) -> Iterator[Servers]:
    """Kafka, the store and Triton, pinned, with a model trained on the log for so long."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        wanted = own_settings(Path(folder))
        schema = FeatureSchema(wanted.features)
        training = TrainerSettings(max_seconds=train_s)
        console.print(f"training a model for {train_s:.0f} s ...")
        trained = train_first_model(log, schema, training)
        try:
            console.print("starting the servers ...")
            with cores.working():
                settings = local.up(wanted)
            pids = {one.name: one.pid for one in local.status(wanted) if one.pid}
            yield Servers(
                settings, pids, _publish(trained, settings, training), feature_repo(settings)
            )
        finally:
            local.down(wanted)


def own_settings(folder: Path) -> Settings:
    """Settings under which every server is local, whatever the environment says."""
    inherited = LocalSettings.model_validate(Settings().local.model_dump())
    return Settings(
        kafka=KafkaSettings(),
        store=StoreSettings(),
        triton=TritonSettings(),
        local=inherited.model_copy(update={"state_dir": folder}),
        model_repository=folder / "model_repo",
    )


def _publish(trained: Trained, settings: Settings, training: TrainerSettings) -> ModelVersion:
    ensure_topics(settings.kafka)
    return publish(
        trained,
        settings.model_repository,
        ModelServer(settings.triton.url or ""),
        settings.kafka,
        FeatureSchema(settings.features),
        training,
    )
