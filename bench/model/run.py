"""The parts of `bench.model`, each able to do without the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import torch

from bench.model.answers import compare
from bench.model.catalogue import grow
from bench.model.engines import build_all
from bench.model.floor import Ceilings, ceilings
from bench.model.forms import Form, compiled, engine_forms, on_cpu, on_gpu, session_form
from bench.model.progress import Progress
from bench.model.rates import Floors, floors_of, measure
from bench.model.settings import compare_settings
from bench.model.shapes import Sizes, requests_of
from bench.model.sizes import compare_sizes, cpu_graphs
from bench.model.version import Version
from deploy.optimize.precision import CalibrationSet
from deploy.optimize.requests import BATCH
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM
from trainer.export.onnx import write_graph
from trainer.export.recommender import ScoringGraph
from trainer.network.ensemble import Model

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
    COMPILE = "compile"


@dataclass
class Run:
    """A run of the benchmark.

    Attributes:
        version: makes the version whose answers are compared, if a part needs it.
        students: makes smaller sizes that learned from it.
        device: where torch runs: cuda or cpu. Some parts need the former.
        folder: for graphs and engines.
    """

    progress: Progress
    sizes: Sizes
    version: Callable[[], Version]
    students: Callable[[Path], Mapping[str, Model]]
    device: str
    threads: int
    folder: Path

    def measure(self, part: Part) -> None:
        """Measure one part, unless it cannot be."""
        measured = {
            Part.TORCH: self._torch,
            Part.ENGINES: self._engines,
            Part.CATALOGUE: self._catalogue,
            Part.CPU: self._cpu,
            Part.SETTINGS: self._settings,
            Part.SIZES: self._sizes,
            Part.COMPILE: self._compile,
        }
        with self.progress.part(part.value):
            measured[part]()

    @property
    def _gpu(self) -> bool:
        return self.device == "cuda"

    @cached_property
    def _trained(self) -> Version:
        return self.version()

    @cached_property
    def _model(self) -> ScoringGraph:
        return self.sizes.model(self.device)

    @cached_property
    def _graph(self) -> Path:
        path = self.folder / "timed.onnx"
        write_graph(self.sizes.model("cpu"), self.sizes.schema, path)
        return path

    @cached_property
    def _ceilings(self) -> Ceilings:
        found = ceilings()
        self.progress.figures |= {"gpu": torch.cuda.get_device_name(), "ceilings": asdict(found)}
        return found

    @cached_property
    def _floors(self) -> Floors:
        return floors_of(self._model, self.sizes, self._ceilings) if self._gpu else {}

    def _torch(self) -> None:
        if self._gpu:
            self._timed(on_gpu(self._model, self.sizes.schema))
            self._compared(on_gpu(self._trained.recommender.to("cuda"), self._trained.schema))
            self._trained.recommender.to("cpu")

    def _engines(self) -> None:
        trained, size = self._trained, self._trained.recommender.architecture
        feeds, _ = next(trained.asked.batches())
        asked = CalibrationSet(size.items, feeds)
        for engine in build_all(self.progress, trained.graph, trained.schema, asked, self.folder):
            if self._gpu:
                self._compared(engine_forms(engine))
        if self._gpu:
            schema, items = self.sizes.schema, self.sizes.items
            asked = CalibrationSet(items + FIRST_ITEM, requests_of(items, schema, BATCH))
            for engine in build_all(self.progress, self._graph, schema, asked, self.folder):
                self._timed(engine_forms(engine))

    def _catalogue(self) -> None:
        if self._gpu:
            grow(self.progress, CATALOGUES, self.sizes.schema, self._ceilings)

    def _cpu(self) -> None:
        model = self._model if self.device == "cpu" else self.sizes.model("cpu")
        plain = session_form(PLAIN, self._graph, self.threads)
        self._timed([plain, *self._of_onnx(model.model, self.sizes.schema)])
        self._timed([on_cpu(model, self.sizes.schema)])
        trained = self._trained.recommender.model
        self._compared(self._of_onnx(trained, self._trained.schema))

    def _settings(self) -> None:
        compare_settings(self.progress, self._graph, self.sizes)

    def _sizes(self) -> None:
        students = self.students(self._trained.graph.parent)
        compare_sizes(self.progress, self._trained, students, self.threads, self.folder)

    def _of_onnx(self, model: Model, schema: FeatureSchema) -> list[Form]:
        """Graphs for CPUs."""
        graphs = cpu_graphs(model, schema, self.folder)
        return [session_form(name, graph, self.threads) for name, graph in graphs.items()]

    def _compile(self) -> None:
        self._timed(compiled(self._model, self.sizes.schema))

    def _timed(self, forms: Iterable[Form]) -> None:
        for form in forms:
            measure(self.progress, form, self.sizes, self._floors)

    def _compared(self, forms: Iterable[Form]) -> None:
        for form in forms:
            compare(self.progress, form, self._trained.graph, self._trained.asked)
