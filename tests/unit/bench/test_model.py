"""Figures of `bench.model` that do not hang on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.model.calls import halved, torch_run
from bench.model.chart import draw
from bench.model.floor import Ceilings, Work, work
from bench.model.progress import Progress
from bench.model.settings import AS_SERVED, compare_settings, settings_of
from bench.model.shapes import Sizes, requests_of
from bench.model.sizes import best
from trainer.export.onnx import write_graph
from trainer.export.recommender import ScoringGraph

SIZES = Sizes(histories=(8, 16), batches=(1, 4), items=250)


@pytest.fixture(scope="module")
def recommender() -> ScoringGraph:
    return SIZES.model("cpu")


def test_the_floor_is_the_larger_of_two_times() -> None:
    found = Ceilings(1e12, 1e13, 1e14)
    products = Work(operations=10**10, table_bytes=10**6, request_bytes=0)
    assert products.floor_ms(found, half=False) == pytest.approx(1.0)
    assert products.floor_ms(found, half=True) == pytest.approx(0.1)
    moved = Work(operations=0, table_bytes=10**9, request_bytes=10**8)
    assert moved.floor_ms(found, half=False) == pytest.approx(1.1)
    assert moved.floor_ms(found, half=True) == pytest.approx(0.6)


def test_work_grows_with_the_batch_and_tables_are_read_once(recommender: ScoringGraph) -> None:
    few, many = (work(recommender, SIZES.schema, requests_of(250, SIZES.schema, n)) for n in (2, 4))
    assert many.operations == pytest.approx(2 * few.operations, rel=0.01)
    assert many.table_bytes < 2 * few.table_bytes
    tables = recommender.tables.nbytes + recommender.likeness.kinds.nbytes
    assert few.table_bytes > tables


def test_a_model_reads_all_histories_that_are_asked(recommender: ScoringGraph) -> None:
    run = torch_run(recommender, SIZES.schema)
    for history, batch, feeds in SIZES.cells():
        found = run({name: torch.from_numpy(array) for name, array in feeds.items()})
        assert feeds["item_indices"].shape == (batch, history)
        assert found["top_items"].shape == (batch, 100)


def test_only_what_is_multiplied_is_halved(recommender: ScoringGraph) -> None:
    copied = halved(recommender, torch.float16)
    assert copied.likeness.kinds.dtype == torch.float16
    assert copied.item_bias.dtype == torch.float32
    assert recommender.likeness.kinds.dtype == torch.float32


def test_the_fastest_size_that_keeps_quality_is_the_best() -> None:
    def form(over: float, kept: float) -> dict[str, float]:
        return {"over_fp32": over, "ndcg_kept": kept}

    found = best({"default": form(1.0, 1.0), "small": form(1.6, 0.995), "tiny": form(2.1, 0.98)})
    assert found == {
        "cpu_optimised": "small",
        "cpu_optimised_over_fp32": 1.6,
        "ndcg_kept": 0.995,
    }


def test_settings_are_compared_with_what_is_served(
    recommender: ScoringGraph, tmp_path: Path
) -> None:
    graph = tmp_path / "model.onnx"
    write_graph(recommender, SIZES.schema, graph)
    progress = Progress(Console(quiet=True), lambda _: None, float("inf"))
    compare_settings(progress, graph, SIZES, seconds=0.001)
    found = progress.figures["settings"]
    assert list(found) == list(settings_of(len(os.sched_getaffinity(0))))
    assert {batch for one in found.values() for batch in one} == {"1", "4"}
    assert found[AS_SERVED]["4"]["over_served"] == 1.0
    assert all(one["4"]["users_per_second"] > 0 for one in found.values())


def test_the_chart_is_drawn_of_what_was_measured(tmp_path: Path) -> None:
    def form(users: float, ndcg: float) -> dict[str, float]:
        return {"users_per_second": users, "ndcg": ndcg}

    sizes = {"default, as published": form(4000, 0.11), "small, INT8": form(8000, 0.112)}
    ways = {"exact": {"users_per_second": 100.0}, "INT8": {"users_per_second": 300.0}}
    catalogue = {"2000": ways, "100000": {"exact": {"users_per_second": 5.0, "recall_at_10": 0.9}}}
    drawn = []
    for figures in ({"sizes": sizes, "catalogue": catalogue}, {"sizes": sizes}):
        draw(figures, tmp_path / "chart.svg")
        drawn.append((tmp_path / "chart.svg").read_text().count('<g id="axes_'))
    assert drawn == [2, 1]
