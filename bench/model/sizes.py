"""Smaller sizes that learned from the default one: what they answer, and how fast, beside it.

All forms are asked the same held-out events, batches in turns, in ONNX Runtime on the CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.model.progress import Progress
from bench.model.version import Version
from deploy.optimize.cpu import write_exact, write_int8, write_narrow
from deploy.optimize.parity import InferFunction, load_graph, measure_parity
from features.schema import FeatureSchema
from trainer.export.parity import Arrays
from trainer.network.ensemble import Model

# By name, what is changed of the settings; the default is their teacher.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"width": 48, "history": 48},
    "tiny": {"width": 32, "history": 40},
}
DEFAULT = "default"
PUBLISHED, EXACT, NARROW, INT8 = "as published", "exact for CPUs", "narrow", "INT8"
_WARM_UP, _ROUNDS, _BATCHES = 2, 7, 4
KEPT = 0.99


class Form(NamedTuple):
    """A size in a form, and its graph."""

    size: str
    form: str
    graph: Path


def compare_sizes(
    progress: Progress, version: Version, students: Mapping[str, Model], threads: int, folder: Path
) -> None:
    """Note users/s and NDCG@10 of each size and form, over the default one as it is published."""
    forms = [Form(DEFAULT, PUBLISHED, version.graph)]
    for size, model in {DEFAULT: version.recommender.model, **students}.items():
        into = folder / f"{size}-graphs"
        into.mkdir()
        graphs = cpu_graphs(model, version.schema, into)
        forms += [Form(size, name, graph) for name, graph in graphs.items()]
    asking = [load_graph(form.graph, threads) for form in forms]
    rates = _rates(asking, version)
    found: dict[str, Any] = {}
    for form, form_asked, seconds in zip(forms, asking, rates, strict=True):
        like = measure_parity(asking[0], form_asked, version.asked)
        found[f"{form.size}, {form.form}"] = {
            "users_per_second": 1 / statistics.median(seconds),
            "over_fp32": statistics.median(
                one / own for one, own in zip(rates[0], seconds, strict=True)
            ),
            "ndcg": like.ndcg,
            "ndcg_kept": like.ndcg_ratio,
            "overlap": like.overlap,
        }
    progress.figures |= {"sizes": found, **best(found)}


def best(sizes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The fastest that keeps 99 % of NDCG@10."""
    kept = {name: one for name, one in sizes.items() if one["ndcg_kept"] >= KEPT}
    name = max(kept, key=lambda each: kept[each]["over_fp32"])
    return {
        "cpu_optimised": name,
        "cpu_optimised_over_fp32": kept[name]["over_fp32"],
        "ndcg_kept": kept[name]["ndcg_kept"],
    }


def cpu_graphs(model: Model, schema: FeatureSchema, folder: Path) -> dict[str, Path]:
    """Write a model's graphs for CPUs into a folder; by the form's name."""
    exact, narrow, int8 = (folder / f"{name}.onnx" for name in ("exact", "narrow", "int8"))
    write_exact(model, schema, exact)
    write_narrow(model, schema, narrow)
    write_int8(narrow, model.architecture.items, int8)
    return {EXACT: exact, NARROW: narrow, INT8: int8}


def _rates(asking: Sequence[InferFunction], version: Version) -> list[list[float]]:
    """Seconds a person of each form, batch by batch: all take turns, so that a ratio is one."""
    batches = [feeds for feeds, _ in version.asked.batches()][:_BATCHES]
    found: list[list[float]] = [[] for _ in asking]
    for turn in range(_WARM_UP + _ROUNDS):
        for feeds in batches:
            for ask, times in zip(asking, found, strict=True):
                started = time.perf_counter()
                ask(feeds)
                if turn >= _WARM_UP:
                    times.append((time.perf_counter() - started) / _people(feeds))
    return found


def _people(feeds: Arrays) -> int:
    return len(feeds["request_time_ms"])
