"""Trains a first model and brings it live: for `headwater train` and for the demo."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from deploy.jobs.optimize import serve_first_variant
from deploy.settings import Settings
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM
from trainer.datasets import Log
from trainer.progress import ProgressReporter, Report, TrainingPhase
from trainer.registry import ModelRegistry, ModelServer, ModelVersion
from trainer.registry.checkpoint import load
from trainer.settings import TrainerSettings
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup, track, train_first_model


@dataclass(frozen=True)
class Published:
    """A version that has all traffic; `held_out` is its NDCG@10 on the log's newest part."""

    version: ModelVersion
    items: int
    held_out: float
    seconds: float


def model_server(settings: Settings) -> ModelServer:
    """The Triton that versions are loaded into."""
    triton = settings.triton
    return ModelServer(triton.url or "", triton.tls, triton.tls_ca_file)


def model_registry(settings: Settings, training: TrainerSettings | None = None) -> ModelRegistry:
    """The registry of the model, to be closed.

    Args:
        training: instead of `settings.trainer`.
    """
    return ModelRegistry(
        settings.model_repository,
        model_server(settings),
        settings.kafka,
        FeatureSchema(settings.features),
        training or settings.trainer,
    )


def train_and_publish(settings: Settings, log: Log, report: Report) -> Published:
    """Train on the log, load the version into Triton, and announce it.

    First goes on with what a training that was killed left.

    Args:
        report: is told how far each phase is.

    Raises:
        RepositoryLockedError: another process publishes to the model repository.
        DataError: nothing can be learned from the log, the language model cannot be fetched, or
            the teacher is no version or knows other items.
        SettingsError: the repository is of other features, the language model cannot be read, or
            the curves cannot be written.
        ServerError: Triton or Kafka does not answer.
    """
    schema = FeatureSchema(settings.features)
    text_encoder = load_text_encoder(settings.trainer.language_model, settings.local.cache_dir)
    teacher = load(Path(settings.trainer.teacher)) if settings.trainer.teacher else None
    # Held from the start: who may not publish should not train for minutes first.
    with closing(model_registry(settings)) as registry, registry.repository.lock():
        registry.check_features()
        registry.recover()
        with track(settings.trainer, report) as followed:
            setup = TrainingSetup(settings.trainer, text_encoder=text_encoder, teacher=teacher)
            trained = train_first_model(log, schema, setup, ProgressReporter(followed))
        exporting = ProgressReporter(report)
        exporting.start(TrainingPhase.EXPORT)
        version = registry.publish(trained, serve_first_variant(settings, trained, log))
        exporting.update(1.0)
    outcome = trained.outcome
    items = len(trained.vocabulary) - FIRST_ITEM
    return Published(version, items, outcome.held_out, outcome.seconds)
