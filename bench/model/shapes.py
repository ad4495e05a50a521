"""Untrained models of any catalogue and history: weights do not change what a request costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.vocabulary import FIRST_ITEM
from trainer.export.onnx import sample_inputs
from trainer.export.parity import Arrays
from trainer.export.recommender import ScoringGraph
from trainer.network import NEIGHBOURS, Architecture, TemporalModel, join_models
from trainer.settings import TrainerSettings
from trainer.text import BUCKETS, DIRECTIONS

TEXT = 384
CANDIDATES, EXCLUDED = 50, 100


@dataclass(frozen=True)
class RequestSizes:
    """What is asked of every form: requests of these histories, in these batches."""

    histories: tuple[int, ...]
    batches: tuple[int, ...]
    items: int

    @property
    def schema(self) -> FeatureSchema:
        """Of the rows that the model is made for; it reads shorter histories, too."""
        return schema_of(max(self.histories))

    def make_model(self, device: str) -> ScoringGraph:
        """The model that all forms are of."""
        return make_recommender(self.items, self.schema, device)

    def requests(self) -> Iterator[tuple[int, int, Arrays]]:
        """History, batch, and such requests."""
        for history in self.histories:
            for batch in self.batches:
                yield history, batch, make_requests(self.items, schema_of(history), batch)


def schema_of(history: int) -> FeatureSchema:
    """Rows whose histories are so long."""
    return FeatureSchema(FeatureSettings(history_length=history))


def make_recommender(items: int, schema: FeatureSchema, device: str) -> ScoringGraph:
    """The default shape with all its parts, made on the device that will run it."""
    torch.manual_seed(0)
    rows = items + FIRST_ITEM
    shape = replace(architectures(rows, schema)["default"], text=0)
    with torch.device(device):
        model = TemporalModel(shape)
        # An item's companions differ, as the graph expects.
        steps = torch.arange(1, shape.neighbours + 1) * (rows // (shape.neighbours + 1))
        model.neighbours.copy_((torch.arange(rows)[:, None] + steps) % rows)
        model.neighbour_weights.uniform_()
        for buffer in (model.described, model.factors):
            buffer.normal_(std=0.1)
        return ScoringGraph(model).eval()


def make_requests(items: int, schema: FeatureSchema, batch: int) -> Arrays:
    """A batch of requests with histories of all lengths."""
    return sample_inputs(items + FIRST_ITEM, schema, batch, CANDIDATES, EXCLUDED)


def architectures(items: int, schema: FeatureSchema) -> dict[str, Architecture]:
    """The two shapes that are compared, by name."""
    settings = TrainerSettings()
    size: dict[str, Any] = {
        "items": items,
        "user_features": schema.user_feature_count,
        "trends": schema.trend_count,
        "history": schema.settings.history_length,
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "dropout": 0.0,
    }
    more: dict[str, Any] = {
        "text": TEXT + BUCKETS,
        "alike": DIRECTIONS + BUCKETS,
        "related": settings.factors,
        "neighbours": min(NEIGHBOURS, items),
    }
    return {"plain": Architecture(**size), "default": Architecture(**size, **more)}


def make_members(architecture: Architecture, members: int) -> ScoringGraph:
    """So many untrained models of this shape, averaged."""
    torch.manual_seed(0)
    models = [TemporalModel(architecture) for _ in range(members)]
    if architecture.neighbours:
        shape = models[0].neighbours.shape
        # An item's neighbours differ.
        best = torch.rand(architecture.items, architecture.items).topk(shape[1], dim=1)
        models[0].neighbours.copy_(best.indices)
    return ScoringGraph(join_models(models))
