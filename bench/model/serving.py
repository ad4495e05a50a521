"""What a person costs in ONNX Runtime on one core: both sizes beside a model without later parts.

uv run python -m bench.model.serving

The plain model is the first one of this project: a state times the items, a bias, live trends. The
default one has what people do together and what items are alike by besides; the larger size is
several of those, averaged. Weights are random: they do not change the cost.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.harness.report import run_benchmark, write_report
from bench.quality.tables import MEMBERS
from features import inputs
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.export.onnx import open_session, sample_inputs, write_graph
from trainer.export.parity import Arrays
from trainer.export.recommender import ScoringGraph
from trainer.network.architecture import NEIGHBOURS, Architecture
from trainer.network.ensemble import joined
from trainer.network.model import TemporalModel
from trainer.settings import TrainerSettings
from trainer.text.item_features import BUCKETS, DIRECTIONS

BATCHES = (1, 16, 64, 256)
EXCLUDED = 100
TEXT = 384


def architectures(items: int, schema: FeatureSchema) -> dict[str, Architecture]:
    """The two shapes that are compared, by name."""
    settings = TrainerSettings()
    size: dict[str, Any] = {
        "items": items,
        "user_features": inputs.user_feature_count(schema),
        "trends": inputs.trend_count(schema),
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


def session_of(
    architecture: Architecture, members: int, schema: FeatureSchema, path: Path
) -> onnxruntime.InferenceSession:
    """Untrained models of this shape, averaged, exported and opened on one thread."""
    torch.manual_seed(0)
    models = [TemporalModel(architecture) for _ in range(members)]
    if architecture.neighbours:
        shape = models[0].neighbours.shape
        # An item's neighbours differ.
        best = torch.rand(architecture.items, architecture.items).topk(shape[1], dim=1)
        models[0].neighbours.copy_(best.indices)
    write_graph(ScoringGraph(joined(models)), schema, path)
    return open_session(path)


def sessions_of(
    items: int, schema: FeatureSchema, folder: Path
) -> dict[str, onnxruntime.InferenceSession]:
    """Every model that is compared, by name."""
    shapes = architectures(items, schema)
    compared = {name: (shape, 1) for name, shape in shapes.items()}
    compared[f"{MEMBERS}_members"] = (shapes["default"], MEMBERS)
    return {
        name: session_of(shape, members, schema, folder / f"{name}.onnx")
        for name, (shape, members) in compared.items()
    }


def seconds(session: onnxruntime.InferenceSession, feeds: Arrays) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start


def users_per_second(
    sessions: dict[str, onnxruntime.InferenceSession], feeds: Arrays, rounds: int
) -> dict[str, float]:
    """Of the median call; the models take turns, so that whatever else happens strikes all."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            taken[name].append(seconds(session, feeds))
    people = len(feeds["request_time_ms"])
    return {name: people / statistics.median(times) for name, times in taken.items()}


def main(
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    items: Annotated[int, typer.Option(help="of the catalogue", min=200)] = 1682,
    rounds: Annotated[int, typer.Option(help="calls of each model", min=3)] = 60,
) -> None:
    """People a second, by batch, of all models in turns."""
    schema = FeatureSchema(FeatureSettings())
    table = Table(title=f"users/s, one thread, {items} items", title_justify="left")
    table.add_column("batch", justify="right")
    figures: dict[str, Any] = {"items": items, "users_per_second": {}}
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        sessions = sessions_of(items + 2, schema, Path(folder))
        for name in sessions:
            table.add_column(f"{name}, over plain".replace("_", " "), justify="right")
        for batch in BATCHES:
            feeds = sample_inputs(items + 2, schema, batch, excluded=EXCLUDED)
            found = users_per_second(sessions, feeds, rounds)
            figures["users_per_second"][batch] = found
            over = {name: rate / found["plain"] for name, rate in found.items()}
            table.add_row(str(batch), *(f"{found[name]:.0f}, {over[name]:.2f}" for name in found))
            if batch == 64:
                figures |= {f"{name}_over_plain": over[name] for name in found if name != "plain"}
    Console().print(table)
    if report:
        write_report(report, "serving", figures)


if __name__ == "__main__":
    run_benchmark(main)
