"""What `bench.model` says, from known figures and from tiny models, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.model.measures import (
    DEFAULT,
    EXACT,
    INT8,
    NARROW,
    PUBLISHED,
    RequestSizes,
    RunReporter,
    choose_best,
    compare_answers,
    compare_serving,
    compare_sizes,
    cpu_forms,
    make_tables,
    time_form,
)
from deploy.optimize.variants import SourceVersion

SIZES = RequestSizes(histories=(8, 16), batches=(1, 4), items=250)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> SourceVersion:
    return SIZES.make_version(tmp_path_factory.mktemp("version"))


@pytest.fixture
def reporter() -> RunReporter:
    return RunReporter(Console(quiet=True), lambda _: None)


def test_a_model_reads_all_histories_that_are_asked(version: SourceVersion, tmp_path: Path) -> None:
    infer = cpu_forms(version, tmp_path, 1)[0].load()
    for history, batch, feeds in SIZES.requests():
        assert feeds["item_indices"].shape == (batch, history)
        assert infer(feeds)["top_items"].shape == (batch, 100)


def test_the_fastest_size_that_keeps_quality_is_the_best() -> None:
    def form(over: float, kept: float) -> dict[str, float]:
        return {"over_fp32": over, "ndcg_kept": kept}

    sizes = {"default": form(1.0, 1.0), "small": form(1.6, 0.995), "tiny": form(2.1, 0.98)}
    assert choose_best(sizes) == {
        "cpu_optimised": "small",
        "cpu_optimised_over_fp32": 1.6,
        "ndcg_kept": 0.995,
    }


def test_each_form_is_timed_and_compared(
    version: SourceVersion, tmp_path: Path, reporter: RunReporter
) -> None:
    forms = cpu_forms(version, tmp_path, 1)
    assert [form.name for form in forms] == [PUBLISHED, EXACT, NARROW, INT8]
    time_form(reporter, forms[1], SIZES, seconds=0)
    compare_answers(reporter, forms[1], version)
    assert not reporter.failed
    rates = reporter.figures["forms"][EXACT]
    assert {history: set(by_batch) for history, by_batch in rates.items()} == {
        "8": {"1", "4"},
        "16": {"1", "4"},
    }
    assert all(one["users_per_second"] > 0 for by in rates.values() for one in by.values())
    assert reporter.figures["agreement"][EXACT]["overlap"] > 0.99


def test_sizes_stand_beside_the_default_as_published(
    version: SourceVersion, tmp_path: Path, reporter: RunReporter
) -> None:
    compare_sizes(reporter, {DEFAULT: version, "small": version}, 1, tmp_path)
    found = reporter.figures["sizes"]
    assert len(found) == 8
    assert found[f"{DEFAULT}, {PUBLISHED}"]["over_fp32"] == 1.0
    assert reporter.figures["cpu_optimised"] in found


def test_both_sizes_stand_beside_the_plain_model(tmp_path: Path, reporter: RunReporter) -> None:
    sizes = RequestSizes(histories=(8,), batches=(64,), items=250)
    compare_serving(reporter, sizes, tmp_path, rounds=1)
    found = reporter.figures["serving"]
    (rates,) = found["users_per_second"].values()
    assert set(rates) == {"plain", "default", "6_members"}
    assert found["default_over_plain"] == rates["default"] / rates["plain"]
    assert found["6_members_over_plain"] == rates["6_members"] / rates["plain"]


def test_a_part_that_fails_leaves_the_others() -> None:
    kept: list[Mapping[str, Any]] = []
    reporter = RunReporter(Console(quiet=True), kept.append)
    with reporter.part("first"):
        raise ValueError("no such\ndevice")
    with reporter.part("second"):
        reporter.figures["second"] = 2
    assert kept[-1] == {"second": 2, "failed": {"first": "ValueError: no such device"}}


def timings(users: float, ndcg: float) -> dict[str, float]:
    return {"users_per_second": users, "over_fp32": 1, "ndcg": ndcg, "ndcg_kept": 1, "overlap": 1}


FIGURES = {
    "forms": {"INT8": {"50": {"1": {"users_per_second": 1234.0}}}},
    "sizes": {"default, as published": timings(4000, 0.11), "small, INT8": timings(8000, 0.112)},
}


def test_tables_are_of_what_was_measured() -> None:
    text = StringIO()
    for table in make_tables(FIGURES):
        Console(file=text, width=150).print(table)
    for said in ("1,234", "small, INT8", "8,000", "0.1120"):
        assert said in text.getvalue()
