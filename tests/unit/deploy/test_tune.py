"""`headwater tune` prints its trials, and the best as `headwater.toml` has it."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import pytest
from headwater_client.errors import DataError

from deploy.commands.models import tune
from deploy.settings import load_settings

START_S = 1_700_000_000


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in {"epochs": "1", "language_model": "", "threads": "1"}.items():
        monkeypatch.setenv(f"HEADWATER_TRAINER__{name.upper()}", value)
    (tmp_path / "headwater.toml").write_text('[trainer]\nlanguage_model = ""\n')
    with (tmp_path / "log.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp", "type"])
        rows.writerows([f"u{at % 7}", f"i{at % 20}", START_S + at, "click"] for at in range(100))
    return tmp_path / "log.csv"


def test_the_best_settings_can_be_pasted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.json"
    tune(data=data, trials=2, share=0.9, report=report)
    out = capsys.readouterr().out
    snippet = out[out.index("[trainer]") :]
    (tmp_path / "headwater.toml").write_text(snippet)
    figures = json.loads(report.read_text())["figures"]
    best = figures["best"]["settings"]
    assert load_settings().trainer.model_dump(include=set(best)) == best
    assert set(tomllib.loads(snippet)["trainer"]) == set(best)
    assert len(figures["trials"]) == 2
    assert figures["events"] == 90
    assert "NDCG@10" in out


def test_no_time_for_a_trial_is_one_line(data: Path) -> None:
    with pytest.raises(DataError, match="no trial ended: give it more time"):
        tune(data=data, trials=1, timeout=0)
