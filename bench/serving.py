"""What a person costs in ONNX Runtime on one core: the model beside one without its later parts.

uv run python -m bench.serving

The plain model is the first one of this project: a state times the items, a bias, live trends. The
default one has what people do together and what items are alike by besides. Weights are random:
they do not change the cost.
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

from bench.report import run_benchmark, write_report
from features import inputs
from features.rows import Layout
from features.settings import FeatureSettings
from trainer.comparison import Arrays
from trainer.descriptions import BUCKETS, DIRECTIONS
from trainer.export import open_session, sample_inputs, write_graph
from trainer.model import NEIGHBOURS, Architecture, TemporalModel
from trainer.recommender import Recommender
from trainer.settings import TrainerSettings

BATCHES = (1, 16, 64, 256)
EXCLUDED = 100
TEXT = 384


def architectures(items: int, layout: Layout) -> dict[str, Architecture]:
    """The two models that are compared, by name."""
    settings = TrainerSettings()
    size: dict[str, Any] = {
        "items": items,
        "user_features": inputs.user_feature_count(layout),
        "trends": inputs.trend_count(layout),
        "history": layout.settings.history_length,
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
    architecture: Architecture, layout: Layout, folder: Path
) -> onnxruntime.InferenceSession:
    """An untrained model of this shape, exported and opened on one thread."""
    torch.manual_seed(0)
    model = TemporalModel(architecture)
    if architecture.neighbours:
        shape = model.neighbours.shape
        # An item's neighbours differ.
        best = torch.rand(architecture.items, architecture.items).topk(shape[1], dim=1)
        model.neighbours.copy_(best.indices)
    path = folder / f"{architecture.neighbours}.onnx"
    write_graph(Recommender(model), layout, path)
    return open_session(path)


def seconds(session: onnxruntime.InferenceSession, feeds: Arrays) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start


def users_per_second(
    sessions: dict[str, onnxruntime.InferenceSession], feeds: Arrays, rounds: int
) -> dict[str, float]:
    """Of the median call; the models take turns, so that whatever else happens strikes both."""
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
    """People a second, by batch, of both models in turns."""
    layout = Layout(FeatureSettings())
    table = Table(title=f"users/s, one thread, {items} items", title_justify="left")
    for column in ("batch", "plain", "default", "default over plain"):
        table.add_column(column, justify="right")
    figures: dict[str, Any] = {"items": items, "users_per_second": {}}
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        sessions = {
            name: session_of(one, layout, Path(folder))
            for name, one in architectures(items + 2, layout).items()
        }
        for batch in BATCHES:
            feeds = sample_inputs(items + 2, layout, batch, excluded=EXCLUDED)
            found = users_per_second(sessions, feeds, rounds)
            figures["users_per_second"][batch] = found
            ratio = found["default"] / found["plain"]
            row = (f"{found['plain']:.0f}", f"{found['default']:.0f}", f"{ratio:.2f}")
            table.add_row(str(batch), *row)
            if batch == 64:
                figures["default_over_plain"] = ratio
    Console().print(table)
    if report:
        write_report(report, "serving", figures)


if __name__ == "__main__":
    run_benchmark(main)
