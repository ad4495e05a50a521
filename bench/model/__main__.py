"""How fast each form of the model is, how like the graph it answers, and how near the floor it is.

uv run python -m bench.model

Forms: torch, torch.compile, CUDA graphs, ONNX Runtime, and TensorRT where it is installed and runs.
What needs a GPU is left out where there is none, and the report says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from headwater_client.errors import SettingsError
from rich.console import Console

from bench.harness import runner
from bench.model.cpu import (
    DEFAULT,
    SIZES,
    compare_serving,
    compare_settings,
    compare_sizes,
    write_cpu_graphs,
)
from bench.model.forms import (
    ModelForm,
    RequestSizes,
    compiled_forms,
    cpu_form,
    engine_forms,
    gpu_forms,
    make_requests,
    session_form,
)
from bench.model.measures import (
    BenchmarkedVersion,
    Floors,
    RunReporter,
    build_engines,
    compare_answers,
    find_floors,
    read_version,
    time_catalogues,
    time_form,
    train_version,
)
from bench.model.tables import draw, make_tables
from bench.model.timing import Ceilings, measure_ceilings
from deploy.optimize.precision import CalibrationSet
from deploy.settings import default_cache_dir
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM
from trainer.datasets import Log
from trainer.evaluation.requests import BATCH
from trainer.export import ScoringGraph
from trainer.export.onnx import write_graph
from trainer.network import Model
from trainer.registry.checkpoint import load
from trainer.settings import TrainerSettings

PLAIN = "ONNX Runtime, CPU"
CATALOGUES = (2_000, 100_000, 1_000_000)


class Part(StrEnum):
    """What is measured, in this order."""

    TORCH = "torch"
    ENGINES = "engines"
    CATALOGUE = "catalogue"
    CPU = "cpu"
    SETTINGS = "settings"
    SIZES = "sizes"
    SERVING = "serving"
    COMPILE = "compile"


DRAWN = {Part.CATALOGUE, Part.SIZES}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(runner.MappedDataOptions, runner.ChartOptions):
    """Options of `bench.model`."""

    version: Annotated[
        Path | None,
        typer.Option(help="a version's folder, whose answers are compared; default: train one"),
    ] = None
    history: Annotated[list[int] | None, typer.Option(help="lengths; default: 50, 100")] = None
    batch: Annotated[
        list[int] | None, typer.Option(help="people of a call; default: 1, 16, 64, 256")
    ] = None
    items: Annotated[int, typer.Option(help="of the catalogue", min=200)] = 1682
    threads: Annotated[int, typer.Option(help="of forms on the CPU", min=1)] = 1
    questions: Annotated[int, typer.Option(help="held-out events, at most", min=1)] = 1000
    part: Annotated[list[Part] | None, typer.Option(help="only this one; may be repeated")] = None
    seconds: Annotated[float, typer.Option(help="begin nothing after so long")] = 3600.0

    @property
    def parts(self) -> list[Part]:
        """What is measured."""
        return self.part or list(Part)

    @property
    def sizes(self) -> RequestSizes:
        """What is asked of every form."""
        histories, batches = self.history or (50, 100), self.batch or (1, 16, 64, 256)
        return RequestSizes(tuple(histories), tuple(batches), self.items)


class ModelRun:
    """The parts of the benchmark, each able to do without the others.

    Args:
        folder: for versions, graphs and engines.
    """

    def __init__(self, options: ModelOptions, reporter: RunReporter, folder: Path) -> None:
        self._options = options
        self._reporter = reporter
        self._folder = folder
        self._sizes = options.sizes
        self._threads = options.threads
        self._gpu = torch.cuda.is_available()

    def measure(self, part: Part) -> None:
        """Measure one part, unless it cannot be."""
        measures = {
            Part.TORCH: self._measure_torch,
            Part.ENGINES: self._measure_engines,
            Part.CATALOGUE: self._measure_catalogues,
            Part.CPU: self._measure_cpu,
            Part.SETTINGS: self._measure_settings,
            Part.SIZES: self._measure_sizes,
            Part.SERVING: self._measure_serving,
            Part.COMPILE: self._measure_compiled,
        }
        with self._reporter.part(part.value):
            measures[part]()

    @cached_property
    def _log(self) -> Log:
        """Read when a part needs it, and once."""
        return self._options.load_log()

    @cached_property
    def _version(self) -> BenchmarkedVersion:
        folder = self._options.version or self._train(DEFAULT, {})
        return read_version(folder, self._log, self._options.questions)

    def _train(self, size: str, change: Mapping[str, Any], teacher: Path | None = None) -> Path:
        folder = self._folder / size
        folder.mkdir()
        # Sizes are compared, not how far each comes in so many seconds.
        settings = TrainerSettings(threads=self._threads, max_seconds=runner.UNHURRIED_S, **change)
        train_version(self._log, settings, default_cache_dir(), folder, teacher)
        return folder

    @cached_property
    def _model(self) -> ScoringGraph:
        return self._sizes.make_model("cuda" if self._gpu else "cpu")

    @cached_property
    def _graph(self) -> Path:
        path = self._folder / "timed.onnx"
        write_graph(self._sizes.make_model("cpu"), self._sizes.schema, path)
        return path

    @cached_property
    def _ceilings(self) -> Ceilings:
        ceilings = measure_ceilings()
        self._reporter.figures |= {
            "gpu": torch.cuda.get_device_name(),
            "ceilings": asdict(ceilings),
        }
        return ceilings

    @cached_property
    def _floors(self) -> Floors:
        return find_floors(self._model, self._sizes, self._ceilings) if self._gpu else {}

    def _measure_torch(self) -> None:
        if self._gpu:
            self._time(gpu_forms(self._model, self._sizes.schema))
            version = self._version
            self._compare(gpu_forms(version.recommender.to("cuda"), version.schema))
            version.recommender.to("cpu")

    def _measure_engines(self) -> None:
        version, reporter, folder = self._version, self._reporter, self._folder
        feeds, _ = next(version.asked.batches())
        asked = CalibrationSet(version.recommender.architecture.items, feeds)
        for engine in build_engines(reporter, version.graph, version.schema, asked, folder):
            if self._gpu:
                self._compare(engine_forms(engine))
        if self._gpu:
            schema, items = self._sizes.schema, self._sizes.items
            asked = CalibrationSet(items + FIRST_ITEM, make_requests(items, schema, BATCH))
            for engine in build_engines(reporter, self._graph, schema, asked, folder):
                self._time(engine_forms(engine))

    def _measure_catalogues(self) -> None:
        if self._gpu:
            time_catalogues(self._reporter, CATALOGUES, self._sizes.schema, self._ceilings)

    def _measure_cpu(self) -> None:
        model = self._sizes.make_model("cpu") if self._gpu else self._model
        plain = session_form(PLAIN, self._graph, self._threads)
        self._time([plain, *self._onnx_forms(model.model, self._sizes.schema)])
        self._time([cpu_form(model, self._sizes.schema)])
        self._compare(self._onnx_forms(self._version.recommender.model, self._version.schema))

    def _measure_settings(self) -> None:
        compare_settings(self._reporter, self._graph, self._sizes)

    def _measure_sizes(self) -> None:
        teacher = self._version.graph.parent
        students = {
            size: load(self._train(size, change, teacher)).model for size, change in SIZES.items()
        }
        compare_sizes(self._reporter, self._version, students, self._threads, self._folder)

    def _measure_serving(self) -> None:
        compare_serving(self._reporter, self._sizes.items, self._sizes.batches, self._folder)

    def _measure_compiled(self) -> None:
        self._time(compiled_forms(self._model, self._sizes.schema))

    def _onnx_forms(self, model: Model, schema: FeatureSchema) -> list[ModelForm]:
        """Graphs for CPUs."""
        graphs = write_cpu_graphs(model, schema, self._folder)
        return [session_form(name, graph, self._threads) for name, graph in graphs.items()]

    def _time(self, forms: Iterable[ModelForm]) -> None:
        for form in forms:
            time_form(self._reporter, form, self._sizes, self._floors)

    def _compare(self, forms: Iterable[ModelForm]) -> None:
        for form in forms:
            compare_answers(self._reporter, form, self._version.graph, self._version.asked)


def measure(options: ModelOptions, console: Console) -> runner.Results:
    """Time all forms, then compare their answers."""
    if options.chart and not DRAWN & set(options.parts):
        raise SettingsError(f"--chart: draws {' and '.join(sorted(DRAWN))}: measure one of these")
    torch.set_num_threads(options.threads)

    def keep(figures: Mapping[str, Any]) -> None:
        if options.report:
            BENCHMARK.write_report(options.report, figures)

    reporter = RunReporter(console, keep, time.monotonic() + options.seconds)
    with runner.work_folder() as folder:
        run = ModelRun(options, reporter, folder)
        for part in options.parts:
            run.measure(part)
    figures = reporter.figures
    report = figures | {"failed": reporter.failed}
    return runner.Results(report, list(make_tables(figures)), partial(draw, figures))


BENCHMARK = runner.Benchmark("model", ModelOptions, measure, width=150)

if __name__ == "__main__":
    BENCHMARK.main()
