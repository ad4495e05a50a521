"""Rows: one event's effect, replays, duplicates, bounds."""

from __future__ import annotations

from headwater_client.event_types import CLICK, PURCHASE

from features.rows import (
    Observation,
    apply_event,
    apply_item_event,
    empty_group,
    empty_user,
    find_item_event,
    popularity,
    says_otherwise,
)
from features.schema import FeatureSchema
from features.settings import DAY_MS, FeatureSettings
from features.topics import Hash, hash64, source_hash

SCHEMA = FeatureSchema(FeatureSettings())
START_MS = 1_700_000_000_000
SOURCE = source_hash("topic", 0)


def observation(
    number: int,
    time_ms: int = START_MS,
    kind: int = CLICK.code,
    source: Hash = SOURCE,
    item: str | None = None,
    categories: tuple[Hash, ...] = (),
) -> Observation:
    name = item or f"i{number}"
    return Observation(
        kind, "u", name, hash64(name), time_ms, hash64(f"e{number}"), source, number, categories
    )


def test_a_replayed_offset_changes_nothing() -> None:
    row = empty_user(SCHEMA)
    assert apply_event(row, observation(5), SCHEMA)
    before = repr(row)
    assert not apply_event(row, observation(5), SCHEMA)
    assert not apply_event(row, observation(4), SCHEMA)
    assert repr(row) == before


def test_an_event_sent_twice_counts_once_but_its_offset_is_absorbed() -> None:
    row = empty_user(SCHEMA)
    first = observation(1)
    again = first._replace(offset=9)
    assert apply_event(row, first, SCHEMA)
    counters = list(row.counters)
    assert not apply_event(row, again, SCHEMA)
    assert row.counters == counters
    assert row.offsets == {SOURCE: 9}


def test_an_event_of_a_known_id_that_says_something_else_is_told_apart() -> None:
    schema = FeatureSchema(FeatureSettings(history_length=2))
    row = empty_user(schema)
    assert apply_event(row, observation(1, item="a"), schema)
    again, other, later = (
        observation(2, item="a"),
        observation(3, item="b"),
        observation(4, START_MS + 1, item="a"),
    )
    assert [says_otherwise(row, each, schema) for each in (again, other, later)] == [0, 1, 1]
    for number in (5, 6):
        apply_event(row, observation(number, START_MS + number), schema)
    # The history no longer reaches back to it.
    assert not says_otherwise(row, other, schema)
    assert says_otherwise(row, observation(7, START_MS + 7, item="b"), schema)


def test_counters_halve_with_each_half_life() -> None:
    row = empty_user(SCHEMA)
    apply_event(row, observation(1, START_MS), SCHEMA)
    apply_event(row, observation(2, START_MS + DAY_MS), SCHEMA)
    day = SCHEMA.user_half_lives.index(DAY_MS)
    assert row.counters[day] == 1.5
    assert row.counters[len(SCHEMA.user_half_lives) - 1] == 2.0


def test_purchases_have_counters_of_their_own() -> None:
    row = empty_user(SCHEMA)
    apply_event(row, observation(1, kind=PURCHASE.code), SCHEMA)
    half = len(SCHEMA.user_half_lives)
    assert row.counters == [0.0] * half + [1.0] * half


def test_history_keeps_the_newest_events_by_time_whatever_the_order() -> None:
    schema = FeatureSchema(FeatureSettings(history_length=3))
    row = empty_user(schema)
    for number, minute in enumerate([5, 1, 4, 2, 3]):
        apply_event(row, observation(number, START_MS + minute), schema)
    assert [time - START_MS for time, _, _ in row.history] == [3, 4, 5]


def test_bounded_sets_hold_the_same_members_whatever_the_order() -> None:
    schema = FeatureSchema(FeatureSettings(seen_limit=3, category_limit=2))
    events = [
        observation(n, START_MS + n, categories=(hash64(f"c{n}"),), source=source_hash("t", n))
        for n in range(8)
    ]
    forward, backward = empty_user(schema), empty_user(schema)
    for event in events:
        apply_event(forward, event, schema)
    for event in reversed(events):
        apply_event(backward, event, schema)
    assert forward.seen == backward.seen
    assert len(forward.seen) == 3
    assert forward.categories.keys() == backward.categories.keys()
    assert len(forward.categories) == 2


def test_only_what_the_settings_name_takes_an_item() -> None:
    schema = FeatureSchema(FeatureSettings(seen_by=frozenset({"purchase"})))
    row = empty_user(schema)
    apply_event(row, observation(1, item="looked"), schema)
    apply_event(row, observation(2, item="bought", kind=PURCHASE.code), schema)
    assert list(row.seen) == [hash64("bought")]


def test_a_topic_made_anew_starts_again_without_losing_what_was_counted() -> None:
    group = empty_group(SCHEMA)
    apply_item_event(group, observation(100), SCHEMA)
    apply_item_event(group, observation(0, source=source_hash("the topic's next life", 0)), SCHEMA)
    assert group.values[-1] == 2.0
    assert group.offset == 0


def test_popularity_adds_the_sources_and_weighs_purchases() -> None:
    clicked, bought = empty_group(SCHEMA), empty_group(SCHEMA)
    apply_item_event(clicked, observation(1, START_MS), SCHEMA)
    apply_item_event(bought, observation(1, START_MS, PURCHASE.code), SCHEMA)
    found = popularity([(CLICK.code, clicked), (PURCHASE.code, bought)], START_MS + DAY_MS, SCHEMA)
    weight = SCHEMA.settings.click_weight + SCHEMA.settings.purchase_weight
    assert found[0] == weight / 2
    assert found[-1] == weight


def test_one_person_is_no_trend_where_a_limit_says_so() -> None:
    """A bot's clicks count for its own row; of those for one item, so many count for the item."""
    schema = FeatureSchema(FeatureSettings(item_event_limit=3))
    row, group, other = empty_user(schema), empty_group(schema), empty_group(schema)
    for number in range(1000):
        event = observation(number, START_MS + number, item="pushed")
        if find_item_event(row, event, schema):
            apply_item_event(group, event, schema)
        assert apply_event(row, event, schema)
    assert group.values[-1] == 3.0
    assert row.counters[len(schema.user_half_lives) - 1] == 1000.0
    for kind in (1, PURCHASE.code):
        event = observation(
            1000 + kind, item="pushed" if kind == PURCHASE.code else "other", kind=kind
        )
        assert find_item_event(row, event, schema) is event
        apply_item_event(other, event, schema)
    assert other.values[-1] == 2.0


def test_without_a_limit_each_event_counts_for_its_item() -> None:
    row = empty_user(SCHEMA)
    for number in range(100):
        event = observation(number, START_MS + number, item="pushed")
        assert find_item_event(row, event, SCHEMA) is event
        apply_event(row, event, SCHEMA)
