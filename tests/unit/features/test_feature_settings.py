"""What was stored under the names of the release before is read, and stores keep their mark."""

from __future__ import annotations

import json

import pytest

from features.settings import FeatureSettings

MARK = (
    '{"category_half_lives_ms": [86400000, 2592000000], "category_limit": 256, '
    '"click_weight": 1.0, "history_length": 64, '
    '"item_half_lives_ms": [86400000, 604800000, 2592000000], "purchase_weight": 3.0, '
    '"remembered_events": 128, "taken_by": ["click", "purchase"], "taken_limit": 4096, '
    '"user_half_lives_ms": [3600000, 86400000, 604800000, 2592000000]}'
)
"""What release 0.1.0 marks a store with."""


def test_the_mark_of_a_store_is_that_of_the_release_before() -> None:
    assert json.dumps(FeatureSettings().stored_values(), sort_keys=True) == MARK


def test_stored_settings_of_the_release_before_are_read() -> None:
    stored = json.loads(MARK) | {"taken_by": ["purchase"], "remembered_events": 7}
    read = FeatureSettings(**stored)
    assert read == FeatureSettings(seen_by=frozenset({"purchase"}), dedup_window=7)
    assert FeatureSettings(**read.stored_values()) == FeatureSettings(**read.model_dump()) == read


def test_both_names_of_a_setting_are_refused() -> None:
    with pytest.raises(ValueError, match="taken_limit: is the old name of seen_limit"):
        FeatureSettings(taken_limit=1, seen_limit=1)
