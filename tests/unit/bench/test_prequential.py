"""The prequential benchmark's figures by hand, and the whole of it on a small log."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from headwater_client.errors import SettingsError

from bench.prequential import __main__ as prequential
from bench.prequential import work as prequential_work
from bench.prequential.figures import FROZEN, INCREMENTAL, RETRAIN, WITHOUT_REPLAY, figures
from tests.unit.bench.test_quality_command import movielens_1m
from trainer.evaluation.prequential import PrequentialRun, WindowedLog

NAN = float("nan")
# Six windows of two events: one of a person that is left out.
STREAM = cast(
    "WindowedLog",
    SimpleNamespace(
        windows=[None] * 6,
        window_of=np.repeat(np.arange(6), 2),
        left_out=np.tile([False, True], 6),
        wanted=np.ones(12, bool),
        person=np.tile([0, 1], 6),
    ),
)


def way(gains: list[float], kept: Any = None, cost: float = 0.0) -> PrequentialRun:
    seconds = {at: cost for at in range(6) if not np.isnan(gains[at])}
    return PrequentialRun(
        np.repeat(gains, 2), kept, seconds, dict.fromkeys(seconds, round(100 * cost))
    )


def test_ratios_are_of_the_last_third_and_of_windows_that_both_were_asked_about() -> None:
    kept = np.full(12, 0.5), np.array([NAN, 0.4] * 4 + [NAN, 0.1] * 2)
    found = figures(
        {
            FROZEN: way([0.1, 0.1, 0.1, 0.1, 0.2, 0.2]),
            INCREMENTAL: way([0.1, 0.1, 0.1, 0.1, 0.2, 0.4], kept, 2.0),
            WITHOUT_REPLAY: way([0.1] * 6, (np.full(12, 0.5), np.full(12, 0.5)), 1.0),
            RETRAIN: way([0.1, NAN, NAN, NAN, NAN, 0.5], cost=20.0),
        },
        STREAM,
    )
    assert found["first_late_window"] == 4
    assert found["over_frozen"] == pytest.approx(1.5)
    assert found["over_retrain"] == pytest.approx(0.8)
    assert found["cost_over_retrain"] == pytest.approx(0.1)
    assert found["forgetting"] == {
        INCREMENTAL: pytest.approx(0.2),
        WITHOUT_REPLAY: pytest.approx(0.0),
    }
    assert found["series"][RETRAIN] == [0.1, None, None, None, None, 0.5]
    low, high = found["over_frozen_interval"]
    assert [low, high] == pytest.approx([1.5, 1.5]), "both people gain as much"


@pytest.fixture
def _without_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prequential, "language_model", lambda *_: None)


@pytest.mark.usefixtures("_without_language_model")
def test_the_whole_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    report, chart, work = tmp_path / "report.json", tmp_path / "chart.svg", tmp_path / "work"

    def run() -> None:
        prequential.main(
            data=movielens_1m(data),
            report=report,
            chart=chart,
            work=work,
            quick=True,
            threads=1,
            retrain_every=3,
        )

    monkeypatch.setattr(prequential, "QUICK_WINDOW", 20)
    run()
    found = json.loads(report.read_text())["figures"]
    assert found["windows"] > 2
    assert {*found["series"]} == {FROZEN, INCREMENTAL, WITHOUT_REPLAY, RETRAIN}
    assert found["over_retrain"] > 0
    assert chart.read_text().startswith("<?xml")
    assert "over full retrain" in capsys.readouterr().out

    def never(*_: object) -> None:
        raise AssertionError("a finished training is taken up")

    monkeypatch.setattr(prequential_work, "trained_on", never)
    run()
    again = json.loads(report.read_text())["figures"]
    assert again["series"][RETRAIN] == found["series"][RETRAIN]


@pytest.mark.parametrize(("windows", "every"), [(9, 50), (9, 9), (43, 28)])
def test_no_full_training_to_compare_with_is_an_error(windows: int, every: int) -> None:
    with pytest.raises(SettingsError, match=f"--retrain-every {every}: .* at most {windows // 3}"):
        prequential.check_retrained(windows, every)


def test_a_full_training_in_the_last_third_is_enough() -> None:
    prequential.check_retrained(43, 29)
    prequential.check_retrained(1, 5)
