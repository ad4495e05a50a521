"""Small models, with random weights: for what does not hang on what a model has learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from features.model_server import ModelServer
from features.schema import FIRST_ITEM, PADDING, UNKNOWN, FeatureSchema, Vocabulary
from features.settings import BrokerSettings
from trainer.examples.batches import Requests
from trainer.network import (
    Architecture,
    TemporalModel,
    TrainedModel,
    TrainingOutcome,
    architecture_of,
)
from trainer.registry import ModelRegistry
from trainer.settings import TrainerSettings

SETTINGS = TrainerSettings(width=16)
ITEMS = 200


def untrained(schema: FeatureSchema, seed: int) -> TrainedModel:
    torch.manual_seed(seed)
    vocabulary = Vocabulary([f"i{at}" for at in range(ITEMS)])
    model = TemporalModel(architecture_of(vocabulary, schema, SETTINGS))
    tell(model)
    return TrainedModel(
        model.eval(), vocabulary, TrainingOutcome(epoch=0, held_out=0.0, seconds=0.0)
    )


def offline_registry(
    folder: Path, schema: FeatureSchema, settings: TrainerSettings = SETTINGS
) -> ModelRegistry:
    """A registry without servers: for what is only written to its folder."""
    return ModelRegistry(folder, [ModelServer("127.0.0.1:1")], BrokerSettings(), schema, settings)


def requests_of(feeds: Mapping[str, np.ndarray]) -> Requests:
    """A graph's inputs as training asks them: one request a person, after all events."""
    of = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return Requests.from_histories(
        of["item_indices"],
        of["event_types"],
        of["event_times_ms"],
        of["request_time_ms"],
        of["user_features"],
    )


def every_part(shape: Architecture, seed: int = 3) -> TemporalModel:
    """A model that has not learned, but whose every part has a say."""
    torch.manual_seed(seed)
    model = TemporalModel(shape)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        for one in (model.near, model.alike):
            one.size.weight.mul_(0.3)
    tell(model)
    return model.eval()


def tell(model: TemporalModel) -> None:
    """Make up what the catalogue says and what was counted.

    Of a model with texts every seventh item has no events: nothing is counted of it, and it is
    nobody's companion.
    """
    size = model.architecture
    if size.text:
        model.learned[FIRST_ITEM::7] = False
    model.recommendable[:FIRST_ITEM] = False
    told = model.recommendable[:, None]
    model.texts.copy_(0.3 * torch.randn_like(model.texts) * told)
    model.described.copy_(0.2 * torch.randn_like(model.described) * told)
    counted = model.learned.clone()
    counted[[PADDING, UNKNOWN]] = False
    model.factors.copy_(0.1 * torch.randn_like(model.factors) * counted[:, None])
    if size.neighbours:
        cosines = torch.rand(size.items, size.items) * counted * counted[:, None]
        best = cosines.fill_diagonal_(0).topk(size.neighbours, dim=1)
        model.neighbours.copy_(best.indices)
        model.neighbour_weights.copy_(0.1 * best.values)
