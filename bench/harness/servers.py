"""The servers of a benchmark: its own, in a folder of their own, with a small model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.harness.load import Answered, Load, Workload
from bench.harness.measure import SharedCores, split_cores
from bench.harness.processes import SystemUnderTest, local_settings, run_system
from bench.harness.runner import work_folder
from deploy import local
from deploy.jobs.train import model_registry
from deploy.local.store import feature_repo
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.network import TrainedModel
from trainer.registry import ModelVersion
from trainer.settings import TrainerSettings
from trainer.training import TrainingSetup, train_first_model


@dataclass(frozen=True)
class Servers:
    """Running servers: their settings, their processes, the model's version, Feast's folder."""

    settings: Settings
    pids: dict[str, int]
    version: ModelVersion
    repository: Path


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How much is measured under load.

    Attributes:
        train_s: seconds of training of the model that answers.
        events: of a sustained run; `ahead` of them may be uncommitted.
        log_events: so many of the log's events are used; None: all.
    """

    train_s: float = 20.0
    events: int = 60_000
    ahead: int = 8_000
    log_events: int | None = None


@dataclass(frozen=True)
class LoadedServers:
    """Servers, the load on them, the log both are made of, and the cores that they share."""

    servers: Servers
    load: Load[Answered]
    log: Log
    cores: SharedCores
    console: Console

    @property
    def settings(self) -> Settings:
        """Of the servers."""
        return self.servers.settings

    def run(
        self, arguments: Sequence[str], group: str, variables: Mapping[str, str] | None = None
    ) -> AbstractContextManager[SystemUnderTest]:
        """A program on the shared cores."""
        return run_system(self.settings, arguments, group, self.cores.working(), variables)

    def say(self, text: str) -> None:
        """Tell what is going on."""
        self.console.print(text, highlight=False)


@contextmanager
def run_loaded_servers(
    plan: LoadPlan, workload: Workload, cores: int, console: Console
) -> Iterator[LoadedServers]:
    """Servers with a model of the first half of the log, and the load, all on so many cores.

    The caller keeps away from these cores until the end of the block.
    """
    log, shared = workload.load_log(), split_cores(cores)
    with work_folder() as folder:
        wanted = local_settings(folder)
        training = TrainerSettings(max_seconds=plan.train_s)
        console.print(f"training a model for {plan.train_s:.0f} s ...")
        trained = train_first_model(
            log.split(0.5)[0], FeatureSchema(wanted.features), TrainingSetup(training)
        )
        try:
            console.print("starting the servers ...")
            with shared.working():
                settings = local.up(wanted)
            pids = {server.name: server.pid for server in local.status(wanted) if server.pid}
            version = publish_first(trained, settings, training)
            servers = Servers(settings, pids, version, feature_repo(settings))
            with shared.working():
                load = Load(settings.kafka, workload, Answered.note)
            with closing(load), shared.measuring():
                yield LoadedServers(servers, load, log, shared, console)
        finally:
            local.down(wanted)


def publish_first(
    trained: TrainedModel, settings: Settings, training: TrainerSettings
) -> ModelVersion:
    """Publish a first version on servers that are up."""
    ensure_topics(settings.kafka)
    with closing(model_registry(settings, training)) as registry:
        return registry.publish(trained)
