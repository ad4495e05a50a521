"""ONNX Runtime on a CPU: its settings, smaller sizes, and what a person costs.

*Settings*: how many calls at once, on how many threads, and how they wait. A call at a time is what
one worker makes; Triton runs as many at once as a version has instances, each with a session of its
own. *Sizes*: smaller ones that learned from the default one, what they answer and how fast, beside
it. *Serving*: both sizes beside a model without later parts. All take turns, so that whatever else
happens strikes all.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import onnxruntime

from bench.model.forms import EXCLUDED, RequestSizes, architectures, make_members
from bench.model.measures import BenchmarkedVersion, RunReporter
from bench.quality.figures import MEMBERS
from deploy.optimize.parity import InferFunction, load_graph, measure_parity
from deploy.optimize.precision import write_exact, write_int8, write_narrow
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.vocabulary import FIRST_ITEM
from trainer.export import Arrays, answers, open_session, sample_inputs
from trainer.export.onnx import write_graph
from trainer.network import Model

_SERVING_ROUNDS = 60
SECONDS = 0.4
_SETTING_ROUNDS = 5
AS_SERVED = "1 call, 1 thread: as served"


@dataclass(frozen=True)
class SessionSetting:
    """How sessions are opened, and how many run at once.

    Attributes:
        spin: threads that have nothing to do wait awake.
        parallel: operators that do not need each other run at once.
        arena: memory is kept for the next call.
    """

    calls: int = 1
    threads: int = 1
    spin: bool = True
    parallel: bool = False
    arena: bool = True

    def open(self, graph: Path) -> onnxruntime.InferenceSession:
        """A session of one caller."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = self.threads if self.parallel else 1
        if self.parallel:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.enable_cpu_mem_arena = self.arena
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spin)))
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def settings_of(cores: int) -> Mapping[str, SessionSetting]:
    """What is compared on so many cores, by what it is called."""
    return {
        AS_SERVED: SessionSetting(),
        "no arena": SessionSetting(arena=False),
        f"1 call, {cores} threads": SessionSetting(threads=cores),
        f"1 call, {cores} threads, no spinning": SessionSetting(threads=cores, spin=False),
        f"1 call, {cores} threads, operators in parallel": SessionSetting(
            threads=cores, parallel=True
        ),
        f"{cores} calls, 1 thread each": SessionSetting(calls=cores),
        f"{cores} calls, {cores} threads each": SessionSetting(calls=cores, threads=cores),
    }


def compare_settings(
    reporter: RunReporter, graph: Path, sizes: RequestSizes, seconds: float = SECONDS
) -> None:
    """Note users/s by setting and batch, all in turns, at the longest history.

    Args:
        seconds: that each is called, in each of some rounds.
    """
    settings = settings_of(len(os.sched_getaffinity(0)))
    sessions = {
        name: [setting.open(graph) for _ in range(setting.calls)]
        for name, setting in settings.items()
    }
    found: dict[str, dict[str, Any]] = {name: {} for name in settings}
    longest = replace(sizes, histories=(max(sizes.histories),))
    for _, batch, feeds in longest.requests():
        rounds = [
            {name: _call_rate(own, feeds, batch, seconds) for name, own in sessions.items()}
            for _ in range(_SETTING_ROUNDS)
        ]
        for name in settings:
            rates = [one[name] for one in rounds]
            over = [one[name] / one[AS_SERVED] for one in rounds]
            found[name][str(batch)] = {
                "users_per_second": statistics.median(rates),
                "over_served": statistics.median(over),
            }
    reporter.figures["settings"] = found


def _call_rate(
    sessions: Sequence[onnxruntime.InferenceSession], feeds: Arrays, batch: int, seconds: float
) -> float:
    """Users a second of all callers together, each calling again and again."""
    ready = Barrier(len(sessions))

    def call(session: onnxruntime.InferenceSession) -> float:
        for _ in range(_WARM_UP):
            answers(session, feeds)
        ready.wait()
        started, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - started < seconds:
            answers(session, feeds)
            calls += 1
        return calls * batch / (time.perf_counter() - started)

    with ThreadPoolExecutor(len(sessions)) as pool:
        return sum(pool.map(call, sessions))


# By name, what is changed of the settings; the default is their teacher.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"width": 48, "history": 48},
    "tiny": {"width": 32, "history": 40},
}
DEFAULT = "default"
PUBLISHED, EXACT, NARROW, INT8 = "as published", "exact for CPUs", "narrow", "INT8"
_WARM_UP, _SIZE_ROUNDS, _BATCHES = 2, 7, 4
KEPT = 0.99


class SizedForm(NamedTuple):
    """A size in a form, and its graph."""

    size: str
    form: str
    graph: Path


def compare_sizes(
    reporter: RunReporter,
    version: BenchmarkedVersion,
    students: Mapping[str, Model],
    threads: int,
    folder: Path,
) -> None:
    """Note users/s and NDCG@10 of each size and form, over the default one as it is published."""
    forms = [SizedForm(DEFAULT, PUBLISHED, version.graph)]
    for size, model in {DEFAULT: version.recommender.model, **students}.items():
        into = folder / f"{size}-graphs"
        into.mkdir()
        graphs = write_cpu_graphs(model, version.schema, into)
        forms += [SizedForm(size, name, graph) for name, graph in graphs.items()]
    asking = [load_graph(form.graph, threads) for form in forms]
    rates = _time_turns(asking, version)
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


def write_cpu_graphs(model: Model, schema: FeatureSchema, folder: Path) -> dict[str, Path]:
    """Write a model's graphs for CPUs into a folder; by the form's name."""
    exact, narrow, int8 = (folder / f"{name}.onnx" for name in ("exact", "narrow", "int8"))
    write_exact(model, schema, exact)
    write_narrow(model, schema, narrow)
    write_int8(narrow, model.architecture.items, int8)
    return {EXACT: exact, NARROW: narrow, INT8: int8}


def _time_turns(asking: Sequence[InferFunction], version: BenchmarkedVersion) -> list[list[float]]:
    """Seconds a person of each form, batch by batch: all take turns, so that a ratio is one."""
    batches = [feeds for feeds, _ in version.asked.batches()][:_BATCHES]
    found: list[list[float]] = [[] for _ in asking]
    for turn in range(_WARM_UP + _SIZE_ROUNDS):
        for feeds in batches:
            for ask, times in zip(asking, found, strict=True):
                started = time.perf_counter()
                ask(feeds)
                if turn >= _WARM_UP:
                    times.append((time.perf_counter() - started) / _people(feeds))
    return found


def _people(feeds: Arrays) -> int:
    return len(feeds["request_time_ms"])


def compare_serving(
    reporter: RunReporter,
    items: int,
    batches: Sequence[int],
    folder: Path,
    rounds: int = _SERVING_ROUNDS,
) -> None:
    """Note users/s on one thread of the plain, the default and the larger model, by batch.

    The plain model is the first one of this project: a state times the items, a bias, live trends.
    The default one has what people do together and what items are alike by besides; the larger
    size is several of those, averaged.
    """
    schema, rows = FeatureSchema(FeatureSettings()), items + FIRST_ITEM
    shapes = architectures(rows, schema)
    compared = {name: (shape, 1) for name, shape in shapes.items()}
    compared[f"{MEMBERS}_members"] = (shapes["default"], MEMBERS)
    sessions = {}
    for name, (shape, members) in compared.items():
        graph = folder / f"serving-{name}.onnx"
        write_graph(make_members(shape, members), schema, graph)
        sessions[name] = open_session(graph)
    rates: dict[int, dict[str, float]] = {}
    for batch in batches:
        feeds = sample_inputs(rows, schema, batch, excluded=EXCLUDED)
        rates[batch] = _median_rates(sessions, feeds, rounds)
    found: dict[str, Any] = {"items": items, "users_per_second": rates}
    if 64 in rates:
        over = {name: rate / rates[64]["plain"] for name, rate in rates[64].items()}
        found |= {f"{name}_over_plain": ratio for name, ratio in over.items() if name != "plain"}
    reporter.figures["serving"] = found


def _median_rates(
    sessions: Mapping[str, onnxruntime.InferenceSession], feeds: Arrays, rounds: int
) -> dict[str, float]:
    """Users a second of the median call."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            started = time.perf_counter()
            answers(session, feeds)
            taken[name].append(time.perf_counter() - started)
    return {name: _people(feeds) / statistics.median(times) for name, times in taken.items()}
