"""How fast the forms of a model answer, and how like the published graph; as tables, too.

What is compared takes turns, so that whatever else happens strikes all alike.

The forms in which a version can be served, and untrained models to time them on.

What a request costs does not depend on the weights.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.harness.runner import make_table
from bench.quality.figures import MEMBERS
from deploy.optimize import MatmulPrecision, OptimizeSettings, variants
from deploy.optimize.precision import write_exact, write_int8, write_narrow
from features.schema import FIRST_ITEM, FeatureSchema
from features.settings import FeatureSettings
from trainer.evaluation import EvalRequests
from trainer.evaluation.evaluate import BATCH
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
    load: Callable[[], variants.InferFunction]


def cpu_forms(version: variants.SourceVersion, folder: Path, threads: int) -> list[ModelForm]:
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
    return [
        ModelForm(name, partial(variants.load_graph, path, threads))
        for name, path in graphs.items()
    ]


def engine_forms(version: variants.SourceVersion, folder: Path) -> Iterator[ModelForm]:
    """An engine by each TensorRT that is installed, in each precision; loading builds it."""
    for products in MatmulPrecision:
        for variant in variants.available_variants(OptimizeSettings(products=products), folder):
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

    def make_version(self, folder: Path) -> variants.SourceVersion:
        """An untrained version that reads the longest of the histories."""
        schema = FeatureSchema(FeatureSettings(history_length=max(self.histories)))
        model = make_model(architectures(self.items + FIRST_ITEM, schema)["default"])
        write_graph(ScoringGraph(model), schema, folder / GRAPH)
        asked = EvalRequests(make_requests(self.items, schema, BATCH), np.zeros(BATCH, np.int64))
        return variants.SourceVersion(0, folder, model, schema, asked)

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


DEFAULT = "default"
KEPT = 0.99
_LINE = 600
_WARM_UP, _LEAST_CALLS, _SIZE_ROUNDS, _BATCHES, _SERVING_ROUNDS = 2, 7, 7, 4, 60
# Columns of tables: the figure, and how it is written.
_AGREEMENT = {
    "same of the best 10": ("overlap", ".4f"),
    "furthest score": ("furthest", ".2g"),
    "NDCG@10": ("ndcg", ".4f"),
    "kept": ("ndcg_kept", ".4f"),
}
_SIZES = {
    "users/s": ("users_per_second", ",.0f"),
    "over the published": ("over_fp32", ".2f"),
    "NDCG@10": ("ndcg", ".4f"),
    "kept": ("ndcg_kept", ".4f"),
    "same of the best 10": ("overlap", ".4f"),
}


@dataclass
class RunReporter:
    """What was found so far; a part that fails leaves the others.

    Attributes:
        keep: is given all figures after every part, so that a run that is cut off has some.
        failed: why a part has no figures, or not all, in a line.
    """

    console: Console
    keep: Callable[[Mapping[str, Any]], None]
    figures: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

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


def time_form(
    reporter: RunReporter, form: ModelForm, sizes: RequestSizes, seconds: float = 0.25
) -> None:
    """Note users/s of a form by history and batch, from and to the host's memory.

    Args:
        seconds: of calls at each size. `spread` is the middle half of them over their median.
    """
    with reporter.part(form.name):
        infer = form.load()
        rates = reporter.figures.setdefault("forms", {}).setdefault(form.name, {})
        for history, batch, feeds in sizes.requests():
            low, median, high = statistics.quantiles(_time_calls(infer, feeds, seconds), n=4)
            rates.setdefault(str(history), {})[str(batch)] = {
                "users_per_second": batch / median,
                "ms": 1e3 * median,
                "spread": (high - low) / median,
            }


def _time_calls(infer: variants.InferFunction, feeds: Arrays, seconds: float) -> list[float]:
    for _ in range(_WARM_UP):
        infer(feeds)
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < seconds:
        times.append(_time_call(infer, feeds))
    return times


def _time_call(infer: variants.InferFunction, feeds: Arrays) -> float:
    started = time.perf_counter()
    infer(feeds)
    return time.perf_counter() - started


def compare_answers(
    reporter: RunReporter, form: ModelForm, version: variants.SourceVersion
) -> None:
    """Note how like the published graph a form answers on held-out events."""
    with reporter.part(f"answers of {form.name}"):
        found = variants.measure_parity(
            variants.load_graph(version.graph), form.load(), version.requests
        )
        kept = reporter.figures.setdefault("agreement", {})
        kept[form.name] = asdict(found) | {"ndcg_kept": found.ndcg_ratio}


def compare_sizes(
    reporter: RunReporter,
    versions: Mapping[str, variants.SourceVersion],
    threads: int,
    folder: Path,
) -> None:
    """Note users/s and NDCG@10 of each size and form, over the default one as it is published."""
    forms = {
        f"{size}, {form.name}": form.load()
        for size, version in versions.items()
        for form in cpu_forms(version, folder / f"{size}-graphs", threads)
    }
    asked, published = versions[DEFAULT].requests, f"{DEFAULT}, {PUBLISHED}"
    batches = [feeds for feeds, _ in asked.batches()][:_BATCHES]
    times = time_in_turns(forms, batches, _SIZE_ROUNDS)
    found: dict[str, Any] = {}
    for name, infer in forms.items():
        like = variants.measure_parity(forms[published], infer, asked)
        turns = zip(times[published], times[name], strict=True)
        found[name] = {
            "users_per_second": 1 / statistics.median(times[name]),
            "over_fp32": statistics.median(first / own for first, own in turns),
            "ndcg": like.ndcg,
            "ndcg_kept": like.ndcg_ratio,
            "overlap": like.overlap,
        }
    reporter.figures |= {"sizes": found, **choose_best(found)}


def choose_best(sizes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The fastest that keeps 99 % of NDCG@10."""
    kept = {name: size for name, size in sizes.items() if size["ndcg_kept"] >= KEPT}
    name = max(kept, key=lambda each: kept[each]["over_fp32"])
    return {
        "cpu_optimised": name,
        "cpu_optimised_over_fp32": kept[name]["over_fp32"],
        "ndcg_kept": kept[name]["ndcg_kept"],
    }


def time_in_turns(
    forms: Mapping[str, variants.InferFunction], batches: Sequence[Arrays], rounds: int
) -> dict[str, list[float]]:
    """Seconds a person of each form, batch by batch."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(_WARM_UP + rounds):
        for feeds in batches:
            for name, infer in forms.items():
                seconds = _time_call(infer, feeds) / len(feeds["request_time_ms"])
                if turn >= _WARM_UP:
                    times[name].append(seconds)
    return times


def compare_serving(
    reporter: RunReporter, sizes: RequestSizes, folder: Path, rounds: int = _SERVING_ROUNDS
) -> None:
    """Note users/s on one thread of the plain, the default and the larger model, by batch.

    The plain model is the first one of this project: a state times the items, a bias, live trends.
    The default one has what people do together and what items are alike by besides; the larger
    size is several of those, averaged.
    """
    schema = FeatureSchema(FeatureSettings())
    shapes = architectures(sizes.items + FIRST_ITEM, schema)
    compared = {name: (shape, 1) for name, shape in shapes.items()}
    compared[f"{MEMBERS}_members"] = (shapes[DEFAULT], MEMBERS)
    forms = {}
    for name, (shape, members) in compared.items():
        graph = folder / f"serving-{name}.onnx"
        write_graph(ScoringGraph(make_model(shape, members)), schema, graph)
        forms[name] = variants.load_graph(graph)
    rates: dict[int, dict[str, float]] = {}
    for batch in sizes.batches:
        times = time_in_turns(forms, [make_requests(sizes.items, schema, batch)], rounds)
        rates[batch] = {name: 1 / statistics.median(own) for name, own in times.items()}
    found: dict[str, Any] = {"items": sizes.items, "users_per_second": rates}
    if 64 in rates:
        over = {name: rate / rates[64]["plain"] for name, rate in rates[64].items()}
        found |= {f"{name}_over_plain": ratio for name, ratio in over.items() if name != "plain"}
    reporter.figures["serving"] = found


def make_tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """What was measured: users/s by history and batch, agreement, sizes, serving."""
    forms = figures.get("forms", {})
    for history in dict.fromkeys(history for found in forms.values() for history in found):
        rates = {name: found[history] for name, found in forms.items() if history in found}
        batches = list(dict.fromkeys(batch for found in rates.values() for batch in found))
        shown = make_table(f"users/s, history {history}", "batch", batches)
        for name, found in rates.items():
            cells = (found[b]["users_per_second"] if b in found else None for b in batches)
            shown.add_row(name, *("-" if rate is None else f"{rate:,.0f}" for rate in cells))
        yield shown
    if agreement := figures.get("agreement"):
        yield _forms_table("beside the graph in ONNX Runtime", _AGREEMENT, agreement)
    if sizes := figures.get("sizes"):
        yield _forms_table("sizes, held-out events in batches of 64", _SIZES, sizes)
    if serving := figures.get("serving"):
        yield _serving_table(serving)


def _forms_table(
    title: str,
    columns: Mapping[str, tuple[str, str]],
    forms: Mapping[str, Mapping[str, float]],
) -> Table:
    """A row for each form.

    Args:
        columns: by their title, the figure and how it is written.
    """
    shown = make_table(title, "", columns)
    for name, found in forms.items():
        shown.add_row(name, *(format(found[one], how) for one, how in columns.values()))
    return shown


def _serving_table(serving: Mapping[str, Any]) -> Table:
    title = f"users/s, one thread, {serving['items']} items; over the plain model"
    rates = serving["users_per_second"]
    names = list(next(iter(rates.values())))
    shown = make_table(title, "batch", (name.replace("_", " ") for name in names))
    for batch, found in rates.items():
        cells = (f"{found[name]:,.0f} {found[name] / found['plain']:.2f}x" for name in names)
        shown.add_row(str(batch), *cells)
    return shown
