"""A half-life of 90 days is a matter of settings: what reads rows follows, or refuses in a line.

Nothing else changes silently: what trends is ranked by seven days as before.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from headwater_client.errors import SettingsError

from deploy.jobs.train import train_and_publish
from deploy.local.store import list_definitions, write_feature_repo
from deploy.settings import Settings
from features.columns import decode_group, decode_user, encode_group, encode_user
from features.inputs import MODEL_NAME, model_inputs, model_outputs, user_features
from features.rows import empty_group, empty_user
from features.schema import FeatureSchema, RowMark, check_version_fits
from features.settings import DAY_MS, FeatureSettings
from trainer.datasets import Log
from trainer.export.triton_config import render_config, tensor_refusals

GOLDEN = Path(__file__).parents[2] / "golden/13a9bcc/model_repo"
DEFAULT = FeatureSettings()
SETTINGS = FeatureSettings(
    user_half_lives_ms=(*DEFAULT.user_half_lives_ms, 90 * DAY_MS),
    item_half_lives_ms=(*DEFAULT.item_half_lives_ms, 90 * DAY_MS),
)
BEFORE, AFTER = FeatureSchema(DEFAULT), FeatureSchema(SETTINGS)


def test_rows_and_tensors_follow() -> None:
    user, group = empty_user(AFTER), empty_group(AFTER)
    assert len(user.counters) == len(empty_user(BEFORE).counters) + 2
    assert decode_user(encode_user(user), AFTER) == user
    assert decode_group(encode_group(group), AFTER) == group
    shapes = {tensor.name: tensor.shape for tensor in (*model_inputs(AFTER), *model_outputs(AFTER))}
    assert shapes["user_features"] == (len(user_features(user, 0, AFTER)),) == (44,)
    assert shapes["trend_weights"] == (8,)


def test_feast_and_triton_follow(tmp_path: Path) -> None:
    write_feature_repo(tmp_path, {"connection_string": "127.0.0.1:6379"}, 2)
    names = {definition.name for definition in list_definitions(tmp_path)}
    assert {"user_activity", "item_popularity", "trending"} <= names, "lists grow, not columns"
    config = render_config(AFTER)
    assert 'name: "user_features", data_type: TYPE_FP32, dims: [44]' in config
    assert list(tensor_refusals(config, AFTER)) == []


def test_what_trends_is_ranked_as_before() -> None:
    for schema in (BEFORE, AFTER):
        assert schema.item_half_lives[schema.trending_index] == 7 * DAY_MS


def test_rows_of_before_are_refused() -> None:
    assert not RowMark(BEFORE.row_mark).fits(RowMark(AFTER.row_mark))


def test_a_model_of_before_is_refused() -> None:
    folder = (GOLDEN / MODEL_NAME / "1").as_uri()
    check_version_fits(folder, BEFORE.contract)
    with pytest.raises(SettingsError, match=r"user_half_lives_ms \[.*\], not .*headwater train"):
        check_version_fits(folder, AFTER.contract)


def test_nothing_is_trained_for_a_config_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server is asked, and no event read, before it is refused."""
    monkeypatch.setattr(
        "deploy.jobs.train.train_first_model", lambda *_, **__: pytest.fail("trains")
    )
    shutil.copytree(GOLDEN, tmp_path / "model_repo", ignore=shutil.ignore_patterns(".aside"))
    settings = Settings(features=SETTINGS, model_repository=tmp_path / "model_repo")
    with pytest.raises(SettingsError, match=r"config.pbtxt is for other features, input user_feat"):
        train_and_publish(settings, Log([], []), lambda _: None)


def test_a_folder_without_a_manifest_is_taken(tmp_path: Path) -> None:
    """A model of somebody's own making: what it expects is not known."""
    check_version_fits(tmp_path.as_uri(), AFTER.contract)


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(SettingsError, match="not a manifest"):
        check_version_fits(tmp_path.as_uri(), AFTER.contract)
