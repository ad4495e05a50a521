"""How fast each form of the model is, how like the graph it answers, and how near the floor it is.

uv run python -m bench.model

Forms: torch, torch.compile, CUDA graphs, ONNX Runtime, and TensorRT where it is installed and runs.
What needs a GPU is left out where there is none, and the report says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from headwater_client.errors import SettingsError
from rich.console import Console

from bench.harness.report import run_benchmark, write_report
from bench.model.chart import draw
from bench.model.progress import Progress
from bench.model.run import Part, Run
from bench.model.shapes import Sizes
from bench.model.sizes import DEFAULT, SIZES
from bench.model.table import tables
from bench.model.version import Version, train_version, version_of
from deploy.commands.data_options import Data, Map, Type
from deploy.settings import default_cache_dir
from trainer.datasets.log import DataSource, Log, load_log
from trainer.datasets.mapping import mapping_from_options
from trainer.network.ensemble import Model
from trainer.registry.checkpoint import load
from trainer.settings import TrainerSettings

WIDTH = 150
DRAWN = {Part.CATALOGUE, Part.SIZES}
# Sizes are compared, not how far each comes in so many seconds.
UNHURRIED_S = 3600.0


def main(
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    chart: Annotated[
        Path | None, typer.Option(help="draw sizes and catalogues: an SVG, PNG or PDF")
    ] = None,
    version: Annotated[
        Path | None,
        typer.Option(help="a version's folder, whose answers are compared; default: train one"),
    ] = None,
    history: Annotated[list[int] | None, typer.Option(help="lengths; default: 50, 100")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="people of a call; default: 1, 16, 64, 256")
    ] = None,
    items: Annotated[int, typer.Option(help="of the catalogue", min=200)] = 1682,
    threads: Annotated[int, typer.Option(help="of forms on the CPU", min=1)] = 1,
    questions: Annotated[int, typer.Option(help="held-out events, at most", min=1)] = 1000,
    part: Annotated[list[Part] | None, typer.Option(help="only this one; may be repeated")] = None,
    seconds: Annotated[float, typer.Option(help="begin nothing after so long")] = 3600.0,
) -> None:
    """Time all forms, then compare their answers."""
    parts = part or list(Part)
    if chart and not DRAWN & set(parts):
        raise SettingsError(f"--chart: draws {' and '.join(sorted(DRAWN))}: measure one of these")
    torch.set_num_threads(threads)
    sizes = Sizes(tuple(history or (50, 100)), tuple(batch or (1, 16, 64, 256)), items)

    def keep(figures: Mapping[str, Any]) -> None:
        if report:
            write_report(report, "model", figures)

    progress = Progress(Console(stderr=True), keep, time.monotonic() + seconds)
    source = DataSource(default_cache_dir(), data, mapping_from_options(maps or [], types or []))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as name:
        # Read when a part needs it, and once.
        log = cache(lambda: load_log(source))

        def subject() -> Version:
            folder = version or _trained(log(), threads, Path(name))
            return version_of(folder, log(), questions)

        def students(teacher: Path) -> Mapping[str, Model]:
            return {
                size: load(_trained(log(), threads, Path(name), size, change, teacher)).model
                for size, change in SIZES.items()
            }

        run = Run(progress, sizes, subject, students, device, threads, Path(name))
        for each in parts:
            run.measure(each)
    for table in tables(progress.figures):
        Console(width=WIDTH).print(table)
    if chart:
        draw(progress.figures, chart)


def _trained(
    log: Log,
    threads: int,
    kept: Path,
    size: str = DEFAULT,
    change: Mapping[str, Any] | None = None,
    teacher: Path | None = None,
) -> Path:
    folder = kept / size
    folder.mkdir()
    settings = TrainerSettings(threads=threads, max_seconds=UNHURRIED_S, **(change or {}))
    train_version(log, settings, default_cache_dir(), folder, teacher)
    return folder


if __name__ == "__main__":
    run_benchmark(main)
