"""`config.pbtxt` is what `features.inputs` says."""

from __future__ import annotations

import json
from pathlib import Path

from features.model_server import with_versions
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.export.triton_config import render_config

CHECKED_IN = Path(__file__).parents[4] / "model_repo" / "temporal_llm" / "config.pbtxt"


def test_the_checked_in_config_is_the_rendered_one() -> None:
    assert CHECKED_IN.read_text() == render_config(FeatureSchema(FeatureSettings()))


def test_the_load_call_s_config_differs_in_the_versions_only() -> None:
    loaded = json.loads(with_versions(CHECKED_IN.read_text(), [7, 3]))
    assert loaded["version_policy"] == {"specific": {"versions": ["3", "7"]}}
    assert loaded["max_batch_size"] == 256
    assert [one["name"] for one in loaded["input"]][:2] == ["item_indices", "event_types"]
    assert loaded["output"][0]["dims"] == ["100"]
