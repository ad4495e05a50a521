"""A trained version's graph, with random weights and all its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.schema import FeatureSchema
from features.settings import FeatureSettings
from tests.harness.models import every_part
from trainer.export import export
from trainer.network import Architecture, TemporalModel

HISTORY, ITEMS = 16, 300


@pytest.fixture(scope="session")
def schema() -> FeatureSchema:
    return FeatureSchema(FeatureSettings(history_length=HISTORY))


@pytest.fixture(scope="session")
def model(schema: FeatureSchema) -> TemporalModel:
    return every_part(
        Architecture(
            items=ITEMS,
            user_features=schema.user_feature_count,
            trends=schema.trend_count,
            history=HISTORY,
            width=16,
            layers=3,
            heads=2,
            dropout=0.0,
            text=6,
            alike=20,
            related=12,
            neighbours=24,
        )
    )


@pytest.fixture(scope="session")
def graph(
    model: TemporalModel, schema: FeatureSchema, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """As the trainer publishes it."""
    path = tmp_path_factory.mktemp("version") / "model.onnx"
    export(model, schema, path)
    return path
