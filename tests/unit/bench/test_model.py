"""What `bench.model` says, from known figures and from tiny models, without a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench.model.cpu import AS_SERVED, choose_best, compare_serving, compare_settings, settings_of
from bench.model.forms import (
    RequestSizes,
    make_requests,
    session_form,
    to_half_precision,
    torch_run,
)
from bench.model.measures import RunReporter, time_form
from bench.model.tables import draw, make_tables
from bench.model.timing import Ceilings, MinimalWork, minimal_work
from trainer.export import ScoringGraph
from trainer.export.onnx import write_graph

SIZES = RequestSizes(histories=(8, 16), batches=(1, 4), items=250)


@pytest.fixture(scope="module")
def recommender() -> ScoringGraph:
    return SIZES.make_model("cpu")


@pytest.fixture(scope="module")
def graph(recommender: ScoringGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    write_graph(recommender, SIZES.schema, path)
    return path


@pytest.fixture
def reporter() -> RunReporter:
    return RunReporter(Console(quiet=True), lambda _: None, float("inf"))


def test_the_floor_is_the_larger_of_two_times() -> None:
    ceilings = Ceilings(1e12, 1e13, 1e14)
    products = MinimalWork(operations=10**10, table_bytes=10**6, request_bytes=0)
    assert products.floor_ms(ceilings, half=False) == pytest.approx(1.0)
    assert products.floor_ms(ceilings, half=True) == pytest.approx(0.1)
    moved = MinimalWork(operations=0, table_bytes=10**9, request_bytes=10**8)
    assert moved.floor_ms(ceilings, half=False) == pytest.approx(1.1)
    assert moved.floor_ms(ceilings, half=True) == pytest.approx(0.6)


def test_work_grows_with_the_batch_and_tables_are_read_once(recommender: ScoringGraph) -> None:
    few, many = (
        minimal_work(recommender, SIZES.schema, make_requests(250, SIZES.schema, size))
        for size in (2, 4)
    )
    assert many.operations == pytest.approx(2 * few.operations, rel=0.01)
    assert many.table_bytes < 2 * few.table_bytes
    tables = recommender.tables.nbytes + recommender.likeness.kinds.nbytes
    assert few.table_bytes > tables


def test_a_model_reads_all_histories_that_are_asked(recommender: ScoringGraph) -> None:
    run = torch_run(recommender, SIZES.schema)
    for history, batch, feeds in SIZES.requests():
        answers = run({name: torch.from_numpy(array) for name, array in feeds.items()})
        assert feeds["item_indices"].shape == (batch, history)
        assert answers["top_items"].shape == (batch, 100)


def test_only_what_is_multiplied_is_halved(recommender: ScoringGraph) -> None:
    copied = to_half_precision(recommender, torch.float16)
    assert copied.likeness.kinds.dtype == torch.float16
    assert copied.item_bias.dtype == torch.float32
    assert recommender.likeness.kinds.dtype == torch.float32


def test_the_fastest_size_that_keeps_quality_is_the_best() -> None:
    def form(over: float, kept: float) -> dict[str, float]:
        return {"over_fp32": over, "ndcg_kept": kept}

    sizes = {"default": form(1.0, 1.0), "small": form(1.6, 0.995), "tiny": form(2.1, 0.98)}
    assert choose_best(sizes) == {
        "cpu_optimised": "small",
        "cpu_optimised_over_fp32": 1.6,
        "ndcg_kept": 0.995,
    }


def test_each_form_is_timed_by_history_and_batch(graph: Path, reporter: RunReporter) -> None:
    time_form(reporter, session_form("a graph", graph, 1), SIZES, {})
    rates = reporter.figures["forms"]["a graph"]
    assert {history: set(by_batch) for history, by_batch in rates.items()} == {
        "8": {"1", "4"},
        "16": {"1", "4"},
    }
    assert all(one["users_per_second"] > 0 for by in rates.values() for one in by.values())


def test_settings_are_compared_with_what_is_served(graph: Path, reporter: RunReporter) -> None:
    compare_settings(reporter, graph, SIZES, seconds=0.001)
    found = reporter.figures["settings"]
    assert list(found) == list(settings_of(len(os.sched_getaffinity(0))))
    assert {batch for by_batch in found.values() for batch in by_batch} == {"1", "4"}
    assert found[AS_SERVED]["4"]["over_served"] == 1.0
    assert all(by_batch["4"]["users_per_second"] > 0 for by_batch in found.values())


def test_both_sizes_stand_beside_the_plain_model(tmp_path: Path, reporter: RunReporter) -> None:
    compare_serving(reporter, 250, [64], tmp_path, rounds=1)
    found = reporter.figures["serving"]
    (rates,) = found["users_per_second"].values()
    assert set(rates) == {"plain", "default", "6_members"}
    assert found["default_over_plain"] == rates["default"] / rates["plain"]
    assert found["6_members_over_plain"] == rates["6_members"] / rates["plain"]


def test_a_part_that_fails_leaves_the_others() -> None:
    kept: list[Mapping[str, Any]] = []
    reporter = RunReporter(Console(quiet=True), kept.append, 0.0)
    with reporter.part("first"):
        raise ValueError("no such\ndevice")
    with reporter.part("second"):
        reporter.figures["second"] = 2
    assert reporter.is_late
    assert kept[-1] == {"second": 2, "failed": {"first": "ValueError: no such device"}}


def timed(users: float, ndcg: float) -> dict[str, float]:
    return {"users_per_second": users, "over_fp32": 1, "ndcg": ndcg, "ndcg_kept": 1, "overlap": 1}


FIGURES = {
    "sizes": {"default, as published": timed(4000, 0.11), "small, INT8": timed(8000, 0.112)},
    "catalogue": {
        "2000": {"float32": {"users_per_second": 300.0}, "float16": {"users_per_second": 500.0}},
        "100000": {"float32": {"users_per_second": 5.0, "over_floor": 2.0}},
    },
}


def test_tables_and_charts_are_of_what_was_measured() -> None:
    text = StringIO()
    for table in make_tables(FIGURES):
        Console(file=text, width=150).print(table)
    for said in ("small, INT8", "8,000", "0.1120", "100000", "5 2x"):
        assert said in text.getvalue()
    both, one = (draw(figures).axes for figures in (FIGURES, {"sizes": FIGURES["sizes"]}))
    assert (len(both), len(one)) == (2, 1)
    assert [line.get_label() for line in both[0].lines] == ["default", "small"]
    assert list(both[1].lines[0].get_xdata()) == [2000, 100_000]
