"""What the settings make of a row."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from features.schema import FeatureSchema
from features.settings import DAY_MS, FeatureSettings


def test_trends_are_ranked_by_seven_days() -> None:
    schema = FeatureSchema(FeatureSettings())
    assert schema.item_half_lives[schema.trending_index] == 7 * DAY_MS


def test_a_half_life_without_a_counter_cannot_rank() -> None:
    with pytest.raises(ValidationError, match="set it to one of 86400000, 2592000000"):
        FeatureSettings(item_half_lives_ms=(DAY_MS, 30 * DAY_MS))
