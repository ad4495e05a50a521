"""A source's list of trending items."""

from __future__ import annotations

import numpy as np
from headwater_client.event_types import CLICK

from features.columns import TrendList
from features.rows import ItemGroup
from features.schema import FeatureSchema
from features.settings import DAY_MS, FeatureSettings
from stream.ranking import popular_items
from stream.trending import sum_lists, update_list

SCHEMA = FeatureSchema(FeatureSettings())
NOW_MS = 1_700_000_000_000
NOTHING = TrendList([], np.zeros((0, 5)))


def group(count: float, age_days: int = 0) -> ItemGroup:
    return ItemGroup([count] * 4, 1, 1, NOW_MS - age_days * DAY_MS)


def test_the_most_popular_stay() -> None:
    listed = update_list(NOTHING, {"a": group(1), "b": group(3), "c": group(2)}, 2, SCHEMA)
    assert listed.item_ids == ["b", "c"]


def test_an_old_count_has_decayed_when_it_is_compared() -> None:
    listed = update_list(NOTHING, {"old": group(10, age_days=28), "new": group(2)}, 1, SCHEMA)
    assert listed.item_ids == ["new"]


def test_a_changed_group_replaces_what_was_listed() -> None:
    before = update_list(NOTHING, {"a": group(1), "b": group(2)}, 5, SCHEMA)
    after = update_list(before, {"a": group(3)}, 5, SCHEMA)
    assert after.item_ids == ["a", "b"]
    assert after.counts[:, 1].tolist() == [3.0, 2.0]


def test_nothing_trends_in_an_empty_store() -> None:
    trends = sum_lists([], SCHEMA)
    assert list(trends.item_ids) == []
    assert trends.decay_factors([NOW_MS]).shape == (1, 3)


def test_a_further_half_life_does_not_change_what_is_ranked_by() -> None:
    """Ranked by seven days: with four half-lives their middle would be thirty."""
    settings = FeatureSettings(item_half_lives_ms=(DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 90 * DAY_MS))
    schema = FeatureSchema(settings)
    groups = {
        "by seven days": ItemGroup([0, 9, 1, 1, 9], 1, 1, NOW_MS),
        "by thirty": ItemGroup([0, 1, 9, 1, 9], 1, 1, NOW_MS),
    }
    nothing = TrendList([], np.zeros((0, 6)))
    assert update_list(nothing, groups, 1, schema).item_ids == ["by seven days"]
    trends = sum_lists([(CLICK.code, update_list(nothing, groups, 2, schema))], schema)
    assert list(trends.item_ids) == ["by seven days", "by thirty"]
    assert popular_items(trends, NOW_MS, 1)[0].item_id == "by seven days"
