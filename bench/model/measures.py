"""What `bench.model` measures of a form, part by part.

A part that fails leaves the others, and what was found is kept after each, so that a run that is
cut off has figures, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console

from bench.model.forms import (
    GraphCall,
    ModelForm,
    RequestSizes,
    make_recommender,
    make_requests,
    torch_run,
)
from bench.model.timing import Ceilings, minimal_work, time_call
from deploy.jobs.optimize import load_source
from deploy.optimize import MatmulPrecision, OptimizeSettings
from deploy.optimize.engine import EngineSpec, build_engine
from deploy.optimize.parity import InferFunction, load_graph, measure_parity
from deploy.optimize.precision import CalibrationSet
from deploy.optimize.runtime import installed_packages
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets import Log
from trainer.evaluation import EvalRequests
from trainer.evaluation.requests import BATCH
from trainer.export import Arrays, ScoringGraph, export
from trainer.registry import GRAPH
from trainer.registry.checkpoint import load, save
from trainer.settings import TrainerSettings
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup, train_first_model

_LINE = 600


@dataclass
class RunReporter:
    """What was found so far.

    Attributes:
        keep: is given all figures after every part.
        until: of the monotonic clock; what begins later is left out.
        failed: why a part has no figures, or not all, in a line.
    """

    console: Console
    keep: Callable[[Mapping[str, Any]], None]
    until: float
    figures: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_late(self) -> bool:
        """Whether time is up."""
        return time.monotonic() > self.until

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part; what it raises is told in the report."""
        started = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 (told: other parts go on)
            why = " ".join(f"{type(error).__name__}: {error}".split())[:_LINE]
            self.failed[name] = why
            self.console.print(f"{name}: {why}", highlight=False, markup=False)
        self.keep(self.figures | {"failed": self.failed})
        seconds = time.monotonic() - started
        self.console.print(f"{name}: {seconds:.1f} s", highlight=False, markup=False)


LEARNED = 0.9


@dataclass(frozen=True)
class BenchmarkedVersion:
    """A trained model, its graph, and held-out events."""

    recommender: ScoringGraph
    graph: Path
    schema: FeatureSchema
    asked: EvalRequests


def read_version(folder: Path, log: Log, most: int) -> BenchmarkedVersion:
    """A version's folder, asked about what it was not trained on."""
    found = load_source(folder, 1, log, most, FeatureSettings())
    return BenchmarkedVersion(ScoringGraph(found.model), found.graph, found.schema, found.requests)


def train_version(
    log: Log,
    settings: TrainerSettings,
    cache_dir: Path,
    folder: Path,
    teacher: Path | None = None,
) -> None:
    """Train on the first part of a log, as `headwater train` does, into a folder."""
    earlier, _ = log.split(LEARNED)
    schema = FeatureSchema(FeatureSettings())
    text_encoder = load_text_encoder(settings.language_model, cache_dir)
    taught_by = load(teacher) if teacher else None
    trained = train_first_model(
        earlier, schema, TrainingSetup(settings, text_encoder=text_encoder, teacher=taught_by)
    )
    export(trained.model, schema, folder / GRAPH)
    save(trained, folder, {"features": schema.settings.model_dump(mode="json")})


Floors = dict[tuple[int, int, bool], float]


def find_floors(recommender: ScoringGraph, sizes: RequestSizes, found: Ceilings) -> Floors:
    """Milliseconds by history, batch, and whether products are in half precision."""
    return {
        (history, batch, half): needed.floor_ms(found, half)
        for history, batch, feeds in sizes.requests()
        for needed in (minimal_work(recommender, sizes.schema, feeds),)
        for half in (False, True)
    }


def time_form(reporter: RunReporter, form: ModelForm, sizes: RequestSizes, floors: Floors) -> None:
    """Time a form on requests of all sizes, as far as time allows."""
    with reporter.part(form.name):
        calls = form.calls()
        rates: dict[str, Any] = reporter.figures.setdefault("forms", {}).setdefault(form.name, {})
        for history, batch, feeds in sizes.requests():
            if reporter.is_late:
                raise TimeoutError(f"time was up before history {history}, batch {batch}")
            one = time_call(calls(feeds), form.gpu)
            floor_ms = floors.get((history, batch, form.half)) if form.gpu else None
            rates.setdefault(str(history), {})[str(batch)] = {
                "users_per_second": 1e3 * batch / one.run_ms,
                "served_users_per_second": 1e3 * batch / one.served_ms,
                **asdict(one),
                **({"floor_ms": floor_ms, "over_floor": one.run_ms / floor_ms} if floor_ms else {}),
            }


def compare_answers(
    reporter: RunReporter, form: ModelForm, graph: Path, asked: EvalRequests
) -> None:
    """Note how like the graph a form answers."""
    with reporter.part(f"answers of {form.name}"):
        found = measure_parity(load_graph(graph), _answering(form), asked)
        kept = reporter.figures.setdefault("agreement", {})
        kept[form.name] = asdict(found) | {"ndcg_kept": found.ndcg_ratio}


def _answering(form: ModelForm) -> InferFunction:
    calls = form.calls()

    def answer(feeds: Arrays) -> Arrays:
        call = calls(feeds)
        call.run()
        return call.fetch()

    return answer


def time_catalogues(
    reporter: RunReporter, counts: Sequence[int], schema: FeatureSchema, found: Ceilings
) -> None:
    """Time batches of 64 over catalogues of these sizes, as CUDA graphs."""
    for items in counts:
        with reporter.part(f"catalogue of {items}"):
            if reporter.is_late:
                raise TimeoutError("left out: time was up")
            recommender = make_recommender(items, schema, "cuda")
            feeds = make_requests(items, schema, BATCH)
            needed = minimal_work(recommender, schema, feeds)
            rates = reporter.figures.setdefault("catalogue", {}).setdefault(str(items), {})
            for name, half in (("float32", None), ("float16", torch.float16)):
                one = time_call(GraphCall(torch_run(recommender, schema, half), feeds), gpu=True)
                rates[f"CUDA graph, {name}"] = {
                    "users_per_second": 1e3 * BATCH / one.run_ms,
                    "over_floor": one.run_ms / needed.floor_ms(found, half is not None),
                }
        torch.cuda.empty_cache()


def build_engines(
    reporter: RunReporter,
    graph: Path,
    schema: FeatureSchema,
    calibration: CalibrationSet,
    folder: Path,
) -> Iterator[Path]:
    """An engine of the graph by each TensorRT in each precision, where one can be built."""
    found = reporter.figures.setdefault("tensorrt", {"built": False, "engines": {}})
    for kind in installed_packages():
        for products in MatmulPrecision:
            name = f"{kind}, {products}"
            engine = folder / f"{graph.stem}-{kind}-{products}.plan"
            with reporter.part(f"build {name}"):
                settings = OptimizeSettings(products=products)
                record = build_engine(
                    graph, engine, EngineSpec(kind, schema, settings, calibration)
                )
                size = {"bytes": engine.stat().st_size}
                found["engines"][name] = msgspec.to_builtins(record) | size
                found["built"] = True
            if engine.exists():
                yield engine
