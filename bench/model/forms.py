"""The forms in which a version can be served, and untrained models to time them on.

What a request costs does not depend on the weights.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.optimize import MatmulPrecision, OptimizeSettings
from deploy.optimize.parity import InferFunction, load_graph
from deploy.optimize.precision import write_exact, write_int8, write_narrow
from deploy.optimize.variants import SourceVersion, available_variants
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.vocabulary import FIRST_ITEM
from trainer.evaluation import EvalRequests
from trainer.evaluation.requests import BATCH
from trainer.export import Arrays, ScoringGraph, sample_inputs
from trainer.export.onnx import write_graph
from trainer.export.triton_config import Backend
from trainer.network import NEIGHBOURS, Architecture, Model, TemporalModel, join_models
from trainer.registry import GRAPH
from trainer.settings import TrainerSettings
from trainer.text import BUCKETS, DIRECTIONS

PUBLISHED, EXACT, NARROW, INT8 = "as published", "exact for CPUs", "narrow", "INT8"
TEXT = 384
CANDIDATES, EXCLUDED = 50, 100


@dataclass(frozen=True)
class ModelForm:
    """A way to answer requests; `load` is called when its turn comes."""

    name: str
    load: Callable[[], InferFunction]


def cpu_forms(version: SourceVersion, folder: Path, threads: int) -> list[ModelForm]:
    """The published graph, and those that `headwater optimize` writes for CPUs.

    Args:
        folder: where they are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exact, narrow, int8 = (folder / f"{name}.onnx" for name in ("exact", "narrow", "int8"))
    write_exact(version.model, version.schema, exact)
    write_narrow(version.model, version.schema, narrow)
    write_int8(narrow, version.model.architecture.items, int8)
    graphs = {PUBLISHED: version.graph, EXACT: exact, NARROW: narrow, INT8: int8}
    return [ModelForm(name, partial(load_graph, path, threads)) for name, path in graphs.items()]


def engine_forms(version: SourceVersion, folder: Path) -> Iterator[ModelForm]:
    """An engine by each TensorRT that is installed, in each precision; loading builds it."""
    for products in MatmulPrecision:
        for variant in available_variants(OptimizeSettings(products=products), folder):
            if variant.backend is Backend.TENSORRT:
                into = folder / f"{variant.name}, {products}"
                into.mkdir(parents=True, exist_ok=True)
                yield ModelForm(into.name, partial(variant.build, version, into))


@dataclass(frozen=True)
class RequestSizes:
    """What is asked of every form: requests of these histories, in these batches."""

    histories: tuple[int, ...]
    batches: tuple[int, ...]
    items: int

    def make_version(self, folder: Path) -> SourceVersion:
        """An untrained version that reads the longest of the histories."""
        schema = FeatureSchema(FeatureSettings(history_length=max(self.histories)))
        model = make_model(architectures(self.items + FIRST_ITEM, schema)["default"])
        write_graph(ScoringGraph(model), schema, folder / GRAPH)
        asked = EvalRequests(make_requests(self.items, schema, BATCH), np.zeros(BATCH, np.int64))
        return SourceVersion(0, folder, model, schema, asked)

    def requests(self) -> Iterator[tuple[int, int, Arrays]]:
        """History, batch, and such requests."""
        for history in self.histories:
            schema = FeatureSchema(FeatureSettings(history_length=history))
            for batch in self.batches:
                yield history, batch, make_requests(self.items, schema, batch)


def make_requests(items: int, schema: FeatureSchema, batch: int) -> Arrays:
    """A batch of requests with histories of all lengths."""
    return sample_inputs(items + FIRST_ITEM, schema, batch, CANDIDATES, EXCLUDED)


def architectures(items: int, schema: FeatureSchema) -> dict[str, Architecture]:
    """The first model of this project, and the default one, which has more parts."""
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


def make_model(shape: Architecture, members: int = 1) -> Model:
    """So many untrained models of a shape, averaged."""
    torch.manual_seed(0)
    models = [TemporalModel(shape) for _ in range(members)]
    if shape.neighbours:
        # An item's companions differ, as the graph expects.
        steps = torch.arange(1, shape.neighbours + 1) * max(
            1, shape.items // (shape.neighbours + 1)
        )
        models[0].neighbours.copy_((torch.arange(shape.items)[:, None] + steps) % shape.items)
        models[0].neighbour_weights.uniform_()
        for buffer in (models[0].described, models[0].factors):
            buffer.normal_(std=0.1)
    return join_models(models)
