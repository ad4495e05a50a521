"""Trend snapshots are the item rows' popularity just before their time."""

from __future__ import annotations

import numpy as np
import pytest

from features import inputs, rows
from features.rows import ItemGroup
from features.schema import FeatureSchema, Vocabulary
from features.settings import HOUR_MS, FeatureSettings
from trainer.datasets import Log
from trainer.examples import ItemTrends, compute_trends, observe_log
from trainer.examples.replay import ItemPopularity


@pytest.mark.parametrize("snapshot_ms", [HOUR_MS, 1000])
def test_a_snapshot_is_the_popularity_of_the_events_before_it(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema, snapshot_ms: int
) -> None:
    """Every event lies on a whole second: with the finer snapshots, at one's very time."""
    log = observe_log(small_log.events, small_log.items)
    found = compute_trends(log, vocabulary, schema, snapshot_ms)
    assert len(found.times_ms) > 20
    for at in (1, 7, len(found.times_ms) - 1):
        time_ms = int(found.times_ms[at])
        groups: dict[str, dict[int, ItemGroup]] = {}
        for event in log:
            if event.time_ms < time_ms:
                mine = groups.setdefault(event.item_id, {})
                group = mine.setdefault(event.type, rows.empty_group(schema))
                rows.apply_item_event(group, event, schema)
        for item in ("i0", "i1", "i17"):
            popularity = rows.popularity(groups.get(item, {}).items(), time_ms, schema)
            (index,) = vocabulary.indices_of([item])
            expected = pytest.approx(inputs.trend_values(popularity), rel=2e-3, abs=1e-3)
            assert found.values[at, :, index] == expected
        assert not found.values[at, :, :2].any()


def test_a_request_sees_no_snapshot_of_later(small_log: Log, schema: FeatureSchema) -> None:
    at = ItemTrends(np.array([100, 200, 300]), np.zeros((3, 1, 1), np.float16)).snapshot_indices
    assert at(np.array([100, 199, 200, 10_000])).tolist() == [0, 0, 1, 2]


def test_snapshots_are_made_only_from_where_they_are_needed(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    log = observe_log(small_log.events, small_log.items)
    whole = compute_trends(log, vocabulary, schema, HOUR_MS)
    since_ms = int(whole.times_ms[10])
    part = compute_trends(log, vocabulary, schema, HOUR_MS, since_ms)
    np.testing.assert_array_equal(part.times_ms, whole.times_ms[10:])
    np.testing.assert_array_equal(part.values, whole.values[10:])


def test_what_arrived_late_counts_when_it_happened(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    in_time = observe_log(small_log.events, small_log.items)
    late = observe_log([*small_log.events[1:], small_log.events[0]], small_log.items)
    np.testing.assert_array_equal(
        compute_trends(late, vocabulary, schema, HOUR_MS).values,
        compute_trends(in_time, vocabulary, schema, HOUR_MS).values,
    )


def test_training_and_rows_bound_what_one_person_weighs_alike(
    small_log: Log, vocabulary: Vocabulary
) -> None:
    schema = FeatureSchema(FeatureSettings(item_event_limit=1, history_length=8))
    log = observe_log(small_log.events, small_log.items)
    people: dict[str, rows.UserRow] = {}
    groups: dict[tuple[str, int], ItemGroup] = {}
    for event in log:
        row = people.setdefault(event.user_id, rows.empty_user(schema))
        group = groups.setdefault((event.item_id, event.type), rows.empty_group(schema))
        if rows.find_item_event(row, event, schema):
            rows.apply_item_event(group, event, schema)
        rows.apply_event(row, event, schema)
    popular = ItemPopularity(schema).apply(log)
    last = {event.item_id: at for at, event in enumerate(log)}
    for item_id, at in last.items():
        mine = [(code, group) for (item, code), group in groups.items() if item == item_id]
        expected = rows.popularity(mine, int(popular.reference_ms[at]), schema)[:-1]
        assert popular.values[at].tolist() == pytest.approx(expected)
    assert sum(group.values[-1] for group in groups.values()) < len(log)
