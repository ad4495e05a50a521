"""The trained version whose answers are compared, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.jobs.optimize import load_source
from deploy.optimize.requests import EvalRequests
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets.log import Log
from trainer.export.onnx import export
from trainer.export.recommender import ScoringGraph
from trainer.registry.checkpoint import load, save
from trainer.registry.drafts import GRAPH
from trainer.settings import TrainerSettings
from trainer.text.encoder import language_model
from trainer.training.from_scratch import train_first_model

LEARNED = 0.9


@dataclass(frozen=True)
class Version:
    """A trained model, its graph, and held-out events."""

    recommender: ScoringGraph
    graph: Path
    schema: FeatureSchema
    asked: EvalRequests


def version_of(folder: Path, log: Log, most: int) -> Version:
    """A version's folder, asked about what it was not trained on."""
    found = load_source(folder, 1, log, most, FeatureSettings())
    return Version(ScoringGraph(found.model), found.graph, found.schema, found.requests)


def train_version(
    log: Log,
    settings: TrainerSettings,
    cache_dir: Path,
    folder: Path,
    teacher: Path | None = None,
) -> None:
    """Train on the first part of a log, as `headwater train` does, into a folder."""
    earlier, _ = log.split(LEARNED)
    schema = FeatureSchema(FeatureSettings())
    reader = language_model(settings.language_model, cache_dir)
    taught_by = load(teacher) if teacher else None
    trained = train_first_model(earlier, schema, settings, reader=reader, teacher=taught_by)
    export(trained.model, schema, folder / GRAPH)
    save(trained, folder, {"features": schema.settings.model_dump(mode="json")})
