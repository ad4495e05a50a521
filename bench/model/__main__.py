"""How fast each form of the model is in which it can be served, and how like the graph it answers.

uv run python -m bench.model

TensorRT is left out where it is not installed, and its engines run on a GPU only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import typer
from rich.console import Console

from bench.harness import runner
from bench.model import measures
from deploy.jobs.optimize import load_source
from deploy.optimize.runtime import ENGINE, read_record
from deploy.optimize.variants import SourceVersion
from deploy.settings import default_cache_dir
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets import Log
from trainer.export import export
from trainer.registry import GRAPH, checkpoint
from trainer.settings import TrainerSettings
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup, train_first_model

LEARNED = 0.9
# By name, what is changed of the settings; the default is their teacher.
STUDENTS: Mapping[str, Mapping[str, Any]] = {
    "small": {"width": 48, "history": 48},
    "tiny": {"width": 32, "history": 40},
}


class Part(StrEnum):
    """What is measured, in this order."""

    CPU = "cpu"
    ENGINES = "engines"
    SIZES = "sizes"
    SERVING = "serving"


@dataclass(frozen=True, kw_only=True)
class ModelOptions(runner.MappedDataOptions):
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

    @property
    def parts(self) -> list[Part]:
        """What is measured."""
        return self.part or list(Part)

    @property
    def sizes(self) -> measures.RequestSizes:
        """What is asked of every form."""
        histories, batches = self.history or (50, 100), self.batch or (1, 16, 64, 256)
        return measures.RequestSizes(tuple(histories), tuple(batches), self.items)


class ModelRun:
    """The parts of the benchmark, each able to do without the others.

    Args:
        folder: for versions, graphs and engines.
    """

    def __init__(self, options: ModelOptions, reporter: measures.RunReporter, folder: Path) -> None:
        self._options = options
        self._reporter = reporter
        self._folder = folder

    def measure(self, part: Part) -> None:
        """Measure one part, unless it cannot be."""
        methods = {
            Part.CPU: self._measure_cpu,
            Part.ENGINES: self._measure_engines,
            Part.SIZES: self._measure_sizes,
            Part.SERVING: self._measure_serving,
        }
        with self._reporter.part(part.value):
            methods[part]()

    @cached_property
    def _log(self) -> Log:
        """Read when a part needs it, and once."""
        return self._options.load_log()

    @cached_property
    def _version(self) -> SourceVersion:
        """The version whose answers are compared, and held-out events."""
        folder = self._options.version or self._train(measures.DEFAULT, {})
        return load_source(folder, 1, self._log, self._options.questions, FeatureSettings())

    @cached_property
    def _timed_version(self) -> SourceVersion:
        """The untrained version that is timed."""
        return self._options.sizes.make_version(self._make_folder("timed"))

    def _make_folder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _train(self, size: str, change: Mapping[str, Any], teacher: Path | None = None) -> Path:
        """Train on the first part of the log, as `headwater train` does."""
        folder, schema = self._make_folder(size), FeatureSchema(FeatureSettings())
        # Sizes are compared, not how far each comes in so many seconds.
        settings = TrainerSettings(
            threads=self._options.threads, max_seconds=runner.UNHURRIED_S, **change
        )
        setup = TrainingSetup(
            settings,
            text_encoder=load_text_encoder(settings.language_model, default_cache_dir()),
            teacher=checkpoint.load(teacher) if teacher else None,
        )
        trained = train_first_model(self._log.split(LEARNED)[0], schema, setup)
        export(trained.model, schema, folder / GRAPH)
        checkpoint.save(trained, folder, {"features": schema.settings.model_dump(mode="json")})
        return folder

    def _measure_cpu(self) -> None:
        threads = self._options.threads
        self._time(measures.cpu_forms(self._timed_version, self._folder / "timed-graphs", threads))
        self._compare(measures.cpu_forms(self._version, self._folder / "compared-graphs", threads))

    def _measure_engines(self) -> None:
        built = self._folder / "engines"
        self._compare(measures.engine_forms(self._version, built))
        records = {
            path.parent.name: msgspec.to_builtins(read_record(path))
            | {"bytes": path.stat().st_size}
            for path in sorted(built.glob(f"*/{ENGINE}"))
        }
        self._reporter.figures["tensorrt"] = {"built": bool(records), "engines": records}
        if torch.cuda.is_available():
            self._time(measures.engine_forms(self._timed_version, self._folder / "timed-engines"))

    def _measure_sizes(self) -> None:
        default, threads = self._version, self._options.threads
        versions = {measures.DEFAULT: default}
        for size, change in STUDENTS.items():
            folder = self._train(size, change, default.folder)
            versions[size] = SourceVersion(
                1, folder, checkpoint.load(folder).model, default.schema, default.requests
            )
        measures.compare_sizes(self._reporter, versions, threads, self._folder)

    def _measure_serving(self) -> None:
        measures.compare_serving(self._reporter, self._options.sizes, self._folder)

    def _time(self, forms: Iterable[measures.ModelForm]) -> None:
        for form in forms:
            measures.time_form(self._reporter, form, self._options.sizes)

    def _compare(self, forms: Iterable[measures.ModelForm]) -> None:
        for form in forms:
            measures.compare_answers(self._reporter, form, self._version)


def measure(options: ModelOptions, console: Console) -> runner.Results:
    """Time all forms, and compare their answers."""
    torch.set_num_threads(options.threads)

    def keep(figures: Mapping[str, Any]) -> None:
        if options.report:
            BENCHMARK.write_report(options.report, figures)

    reporter = measures.RunReporter(console, keep)
    with runner.work_folder() as folder:
        run = ModelRun(options, reporter, folder)
        for part in options.parts:
            run.measure(part)
    report = reporter.figures | {"failed": reporter.failed}
    return runner.Results(report, list(measures.make_tables(report)))


BENCHMARK = runner.Benchmark("model", ModelOptions, measure, width=150)

if __name__ == "__main__":
    BENCHMARK.main()
