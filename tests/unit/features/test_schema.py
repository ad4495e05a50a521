"""What the settings make of a row."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from features.schema import FeatureSchema, RowMark
from features.settings import DAY_MS, FeatureSettings


def test_trends_are_ranked_by_seven_days() -> None:
    schema = FeatureSchema(FeatureSettings())
    assert schema.item_half_lives[schema.trending_index] == 7 * DAY_MS


def test_a_half_life_without_a_counter_cannot_rank() -> None:
    with pytest.raises(ValidationError, match="set it to one of 86400000, 2592000000"):
        FeatureSettings(item_half_lives_ms=(DAY_MS, 30 * DAY_MS), trending_half_life_ms=7 * DAY_MS)


@pytest.mark.parametrize(
    ("half_lives", "chosen"), [((DAY_MS, 30 * DAY_MS), 30 * DAY_MS), ((DAY_MS,), DAY_MS)]
)
def test_without_seven_days_the_nearest_ranks(half_lives: tuple[int, ...], chosen: int) -> None:
    """Settings and manifests from before the choice could be made are read."""
    assert FeatureSettings(item_half_lives_ms=half_lives).trending_half_life_ms == chosen


def test_a_mark_of_the_first_release_is_read() -> None:
    """It names neither the version of the schema nor the types of events."""
    schema = FeatureSchema(FeatureSettings())
    described = json.loads(schema.row_mark)
    del described["schema_version"], described["event_types"]
    assert RowMark(json.dumps(described)).fits(RowMark(schema.row_mark))
    assert RowMark(json.dumps(described)) == RowMark(schema.row_mark)


@pytest.mark.parametrize(
    "other",
    [{"history_length": 8}, {"schema_version": 2}, {"event_types": ["view", "click", "purchase"]}],
    ids=lambda other: next(iter(other)),
)
def test_a_mark_of_other_rows_does_not_fit(other: dict[str, object]) -> None:
    mark = FeatureSchema(FeatureSettings()).row_mark
    assert not RowMark(json.dumps(json.loads(mark) | other)).fits(RowMark(mark))


def test_types_of_events_may_be_added() -> None:
    mark = FeatureSchema(FeatureSettings()).row_mark
    more = json.dumps(json.loads(mark) | {"event_types": ["click", "purchase", "add_to_cart"]})
    assert RowMark(mark).fits(RowMark(more))
    assert not RowMark(more).fits(RowMark(mark))


@pytest.mark.parametrize("text", ["", "rows", "[1]", "null"])
def test_a_mark_of_another_kind_does_not_fit(text: str) -> None:
    assert not RowMark(text).fits(RowMark(FeatureSchema(FeatureSettings()).row_mark))


def test_which_counter_ranks_what_trends_changes_no_row() -> None:
    by_a_day = FeatureSchema(FeatureSettings(trending_half_life_ms=DAY_MS))
    assert by_a_day.row_mark == FeatureSchema(FeatureSettings()).row_mark
