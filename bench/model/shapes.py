"""Untrained models of any catalogue and history: weights do not change what a request costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from bench.model.serving import architectures
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.vocabulary import FIRST_ITEM
from trainer.export.onnx import sample_inputs
from trainer.export.parity import Arrays
from trainer.export.recommender import ScoringGraph
from trainer.network.model import TemporalModel

CANDIDATES, EXCLUDED = 50, 100


@dataclass(frozen=True)
class Sizes:
    """What is asked of every form: requests of these histories, in these batches."""

    histories: tuple[int, ...]
    batches: tuple[int, ...]
    items: int

    @property
    def schema(self) -> FeatureSchema:
        """Of the rows that the model is made for; it reads shorter histories, too."""
        return schema_of(max(self.histories))

    def model(self, device: str) -> ScoringGraph:
        """The model that all forms are of."""
        return recommender_of(self.items, self.schema, device)

    def cells(self) -> Iterator[tuple[int, int, Arrays]]:
        """History, batch, and such requests."""
        for history in self.histories:
            for batch in self.batches:
                yield history, batch, requests_of(self.items, schema_of(history), batch)


def schema_of(history: int) -> FeatureSchema:
    """Rows whose histories are so long."""
    return FeatureSchema(FeatureSettings(history_length=history))


def recommender_of(items: int, schema: FeatureSchema, device: str) -> ScoringGraph:
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
        for told in (model.described, model.factors):
            told.normal_(std=0.1)
        return ScoringGraph(model).eval()


def requests_of(items: int, schema: FeatureSchema, batch: int) -> Arrays:
    """A batch of requests with histories of all lengths."""
    return sample_inputs(items + FIRST_ITEM, schema, batch, CANDIDATES, EXCLUDED)
