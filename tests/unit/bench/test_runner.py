"""A benchmark as a command: its options, its report, its chart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from headwater_client.errors import SettingsError
from rich.console import Console

from bench.harness import charts
from bench.harness.runner import Benchmark, ChartOptions, MappedDataOptions, Results, work_folder


@dataclass(frozen=True, kw_only=True)
class AnyOptions(MappedDataOptions, ChartOptions):
    """Options of a made-up benchmark."""

    factor: Annotated[list[int] | None, typer.Option(help="to be multiplied")] = None
    rate: Annotated[float, typer.Option(min=1)] = 2.0


def measure(options: AnyOptions, _: Console) -> Results:
    """Multiply."""
    if options.rate == 13:
        raise SettingsError("--rate 13: brings bad luck")
    product = options.rate
    for factor in options.factor or []:
        product *= factor
    figure, (axes,) = charts.make_panels((2, 2))
    axes.plot([product])
    fault = "it is zero" if product == 0 else ""
    return Results({"product": product}, [f"it is {product}"], lambda: figure, fault)


BENCHMARK = Benchmark("any", AnyOptions, measure)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Its exit code as a command."""
    monkeypatch.setattr("sys.argv", ["any", *words])
    with pytest.raises(SystemExit) as exit_:
        BENCHMARK.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_a_report_says_what_was_measured_on_what_and_how_to_do_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, chart = tmp_path / "new" / "report.json", tmp_path / "new" / "chart.png"
    words = ("--factor", "2", "--factor", "3", "--report", str(path), "--chart", str(chart))
    assert call(monkeypatch, *words) == 0
    assert capsys.readouterr().out == "it is 12.0\n"
    report = json.loads(path.read_text())
    assert report["benchmark"] == "any"
    assert report["command"].startswith("uv run python -m bench.any --factor 2 --factor 3")
    assert report["figures"] == {"product": 12.0}
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["feast"]
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_what_goes_wrong_ends_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--rate", "13") == SettingsError.exit_code
    assert capsys.readouterr().err == "bench: --rate 13: brings bad luck\n"
    assert call(monkeypatch, "--rate", "0") == 2


def test_a_fault_of_what_was_measured_ends_it_with_1_once_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    assert call(monkeypatch, "--factor", "0", "--report", str(path)) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("it is 0.0\n", "bench: it is zero\n")
    assert json.loads(path.read_text())["figures"] == {"product": 0.0}


def test_the_log_is_found_by_its_options(tmp_path: Path) -> None:
    source = AnyOptions(data=tmp_path, maps=["user=who"], types=["click"]).source
    assert source.path == tmp_path
    assert source.mapping
    assert source.mapping.user == "who"


def test_work_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    with work_folder(tmp_path) as kept, work_folder() as gone:
        assert kept == tmp_path
        assert gone.is_dir()
    assert kept.exists()
    assert not gone.exists()
