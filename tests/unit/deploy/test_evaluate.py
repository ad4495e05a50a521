"""`headwater evaluate` judges a version without a server, and says in a line why it cannot."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from headwater_client.errors import DataError, HeadwaterError, SettingsError

from deploy.commands.models import evaluate
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.schema import FeatureSchema, Vocabulary
from features.settings import FeatureSettings
from trainer.network import TemporalModel, TrainedModel, TrainingOutcome, architecture_of
from trainer.registry import checkpoint
from trainer.settings import TrainerSettings

START_S = 1_700_000_000
EVENTS = 100
SCHEMA = FeatureSchema(FeatureSettings(history_length=8))
SETTINGS = TrainerSettings(width=8)

Command = Callable[..., str]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model repository with versions 1, 2 and 10; 10 was trained on 70 events."""
    monkeypatch.chdir(tmp_path)
    vocabulary = Vocabulary([f"i{at}" for at in range(20)])
    torch.manual_seed(1)
    model = TemporalModel(architecture_of(vocabulary, SCHEMA, SETTINGS))
    trained = TrainedModel(
        model.eval(), vocabulary, TrainingOutcome(epoch=1, held_out=0.1, seconds=1.0)
    )
    for number, events in ((1, None), (2, EVENTS), (10, 70)):
        until_ms = events and (START_S + events - 1) * 1000
        folder = Settings().model_repository / MODEL_NAME / str(number)
        folder.mkdir(parents=True)
        features = SCHEMA.settings.model_dump(mode="json")
        checkpoint.save(replace(trained, until_ms=until_ms), folder, {"features": features})
    return Settings().model_repository / MODEL_NAME


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.csv", "i")


def write_log(path: Path, prefix: str) -> Path:
    with path.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp", "type"])
        for at in range(EVENTS):
            rows.writerow([f"u{at % 7}", f"{prefix}{at % 20}", START_S + at, "click"])
    return path


@pytest.fixture
def run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(**options: object) -> str:
        evaluate(**{"data": data, "report": tmp_path / "report.json"} | options)  # type: ignore[arg-type]
        return capsys.readouterr().out

    return command


def figures(tmp_path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((tmp_path / "report.json").read_text())["figures"]
    return found


def test_the_newest_version_is_judged_on_what_it_was_not_trained_on(
    run: Command, tmp_path: Path, repository: Path
) -> None:
    out = run()
    assert f"{repository}/10: 30 events" in out
    assert "NDCG@10" in out
    assert "return visits" in out
    assert "flatter" not in out
    found = figures(tmp_path)
    assert found["version"] == str(repository / "10")
    assert (found["history_events"], found["judged_events"], found["trained_on"]) == (70, 30, 0)
    assert set(found["evaluation"]) == {"model", "popularity"}  # type: ignore[call-overload]


def test_a_share_may_reach_into_what_was_trained_on_and_says_so(
    run: Command, tmp_path: Path
) -> None:
    assert "20 of these events were trained on" in run(share=0.5)
    assert figures(tmp_path)["judged_events"] == 50


def test_a_version_that_does_not_say_is_judged_on_the_last_fifth(
    run: Command, tmp_path: Path
) -> None:
    run(version=1)
    assert (figures(tmp_path)["judged_events"], figures(tmp_path)["trained_on"]) == (20, None)


def test_a_folder_is_judged_wherever_it_lies(
    run: Command, repository: Path, tmp_path: Path
) -> None:
    moved = (repository / "1").rename(tmp_path / "elsewhere")
    assert "elsewhere: 20 events" in run(folder=moved)


def test_nothing_needs_to_be_trained_as_the_settings_say_today(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_FEATURES__USER_HALF_LIVES_MS", "[1000]")
    assert FeatureSchema(Settings().features).user_feature_count != SCHEMA.user_feature_count
    assert "30 events" in run()


def test_the_slow_loop_is_judged_window_by_window(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_TRAINER__LANGUAGE_MODEL", "")
    monkeypatch.setenv("HEADWATER_TRAINER__EPOCHS", "1")
    out = run(prequential=True, window_events=20)
    assert "last third" in out
    found = figures(tmp_path)
    windows = found["windows"]
    assert isinstance(windows, list)
    assert len(windows) == 4
    # Of 20 items all are taken by everyone some day, and then no more asked for.
    assert all(0 <= window["events"] <= 20 for window in windows)
    assert sum(window["events"] for window in windows) > 40
    assert windows[0]["frozen"] == windows[0]["incremental"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"version": 3}, DataError, "no version 3: it has 1, 2, 10"),
        ({"folder": Path("nowhere")}, DataError, "nowhere: not a trained model"),
        ({"version": 2}, DataError, "nothing of the log is left to judge: .*2 was trained on all"),
        ({"share": 1.0}, DataError, "nothing of the log is left to judge: choose a smaller"),
        ({"folder": Path("1"), "version": 1}, SettingsError, "exclude one another"),
        ({"prequential": True, "version": 1}, SettingsError, "--prequential judges no version"),
        ({"prequential": True, "share": 0.5}, SettingsError, "--prequential judges no version"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    run: Command, options: dict[str, object], error: type[HeadwaterError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run(**options)
    assert "\n" not in str(caught.value)


def test_a_log_of_other_items_is_one_line(run: Command, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10: knows none of the log's 20 items"):
        run(data=write_log(tmp_path / "other.csv", "other"))


def test_a_repository_without_versions_says_what_makes_one(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADWATER_MODEL_REPOSITORY", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no version in it: `headwater train` makes one"):
        run()
