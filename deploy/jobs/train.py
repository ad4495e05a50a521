"""Trains a first model and brings it live, or loads a version beside the stable one to be tried."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import DataError, ServerError, SettingsError

from deploy.jobs.optimize import serve_first_variant
from deploy.rollout import CommandRejectedError
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.rollout_messages import RoutedVersion, Variant
from features.rollouts import RolloutView
from features.schema import FIRST_ITEM, FeatureSchema, check_version_fits
from features.settings import BrokerSettings
from stream.inference import model_servers
from trainer.datasets import Log
from trainer.progress import ProgressReporter, Report, TrainingPhase
from trainer.registry import ModelRegistry, ModelVersion, RepositoryLockedError, checkpoint
from trainer.registry.checkpoint import load
from trainer.retrying import retrying
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


def model_registry(settings: Settings, training: TrainerSettings | None = None) -> ModelRegistry:
    """The registry of the model, to be closed.

    Args:
        training: instead of `settings.trainer`.
    """
    return ModelRegistry(
        settings.model_repository,
        model_servers(settings.triton),
        settings.kafka,
        FeatureSchema(settings.features),
        training or settings.trainer,
    )


def find_live(kafka: BrokerSettings) -> RoutedVersion | None:
    """The version that everyone gets; None where there is none yet.

    Raises:
        ServerError: Kafka does not answer.
    """
    with closing(RolloutView(kafka, MODEL_NAME)) as view:
        rollout = view.refresh()
    return rollout.version_for(Variant.STABLE) if rollout else None


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
        ServerError: Triton or Kafka does not answer, or Triton would refuse what is trained.
    """
    schema = FeatureSchema(settings.features)
    text_encoder = load_text_encoder(settings.trainer.language_model, settings.local.cache_dir)
    teacher = load(Path(settings.trainer.teacher)) if settings.trainer.teacher else None
    # Held from the start: who may not publish should not train for minutes first.
    with closing(model_registry(settings)) as registry, registry.repository.lock():
        registry.check_features()
        registry.recover()
        registry.probe()
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


# A trainer holds the repository while it makes a version.
BUSY_S = 30.0


def load_candidate(settings: Settings, number: int) -> ModelVersion:
    """Load a version into Triton, and check its answers against ONNX Runtime here.

    Nobody removes it for the next minutes, in which it gets its traffic.

    Raises:
        CommandRejectedError: there is no such version, it is damaged, or it cannot be loaded.
        RepositoryLockedError: somebody else publishes, and does not end.
    """
    with closing(model_registry(settings)) as registry:
        repository = registry.repository
        version = repository.version(number)
        repository.reserve(version)
        if not version.folder.is_dir():
            existing = ", ".join(map(str, repository.version_numbers())) or "none"
            kept = number in repository.list_kept()
            remedy = f": it is kept aside: headwater publish {number}" if kept else ""
            raise CommandRejectedError(
                f"start: version {number}: is not in {repository.model}: there: {existing}{remedy}"
            )
        try:
            checkpoint.verify(version.folder)
            check_version_fits(version.address, registry.schema.contract)
            if not registry.loaded.is_ready(version):
                retrying(BUSY_S, RepositoryLockedError)(registry.load_and_verify, version)
        except (ServerError, DataError, SettingsError) as error:
            raise CommandRejectedError(f"start: version {number}: {error}") from error
        return version
