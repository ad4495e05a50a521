"""Rows: one event's effect, replays, duplicates, bounds."""

from __future__ import annotations

from headwater_client.events import EventType

from features.rows import (
    Layout,
    Observed,
    absorb,
    absorb_item,
    empty_group,
    empty_user,
    popularity,
)
from features.settings import DAY_MS, FeatureSettings
from features.topics import Hash, hash64, source_hash

LAYOUT = Layout(FeatureSettings())
START_MS = 1_700_000_000_000
CLICKS = source_hash("topic", 0)


def seen(
    number: int,
    time_ms: int = START_MS,
    kind: EventType = EventType.CLICK,
    source: Hash = CLICKS,
    item: str | None = None,
    categories: tuple[Hash, ...] = (),
) -> Observed:
    name = item or f"i{number}"
    return Observed(
        kind, "u", name, hash64(name), time_ms, hash64(f"e{number}"), source, number, categories
    )


def test_a_replayed_offset_changes_nothing() -> None:
    row = empty_user(LAYOUT)
    assert absorb(row, seen(5), LAYOUT)
    before = repr(row)
    assert not absorb(row, seen(5), LAYOUT)
    assert not absorb(row, seen(4), LAYOUT)
    assert repr(row) == before


def test_an_event_sent_twice_counts_once_but_its_offset_is_absorbed() -> None:
    row = empty_user(LAYOUT)
    first = seen(1)
    again = first._replace(offset=9)
    assert absorb(row, first, LAYOUT)
    counters = list(row.counters)
    assert not absorb(row, again, LAYOUT)
    assert row.counters == counters
    assert row.offsets == {CLICKS: 9}


def test_counters_halve_with_each_half_life() -> None:
    row = empty_user(LAYOUT)
    absorb(row, seen(1, START_MS), LAYOUT)
    absorb(row, seen(2, START_MS + DAY_MS), LAYOUT)
    day = LAYOUT.user_half_lives.index(DAY_MS)
    assert row.counters[day] == 1.5
    assert row.counters[len(LAYOUT.user_half_lives) - 1] == 2.0


def test_purchases_have_counters_of_their_own() -> None:
    row = empty_user(LAYOUT)
    absorb(row, seen(1, kind=EventType.PURCHASE), LAYOUT)
    half = len(LAYOUT.user_half_lives)
    assert row.counters == [0.0] * half + [1.0] * half


def test_history_keeps_the_newest_events_by_time_whatever_the_order() -> None:
    layout = Layout(FeatureSettings(history_length=3))
    row = empty_user(layout)
    for number, minute in enumerate([5, 1, 4, 2, 3]):
        absorb(row, seen(number, START_MS + minute), layout)
    assert [time - START_MS for time, _, _ in row.history] == [3, 4, 5]


def test_bounded_sets_hold_the_same_members_whatever_the_order() -> None:
    layout = Layout(FeatureSettings(taken_limit=3, category_limit=2))
    events = [
        seen(n, START_MS + n, categories=(hash64(f"c{n}"),), source=source_hash("t", n))
        for n in range(8)
    ]
    forward, backward = empty_user(layout), empty_user(layout)
    for event in events:
        absorb(forward, event, layout)
    for event in reversed(events):
        absorb(backward, event, layout)
    assert forward.taken == backward.taken
    assert len(forward.taken) == 3
    assert forward.categories.keys() == backward.categories.keys()
    assert len(forward.categories) == 2


def test_only_what_the_settings_name_takes_an_item() -> None:
    layout = Layout(FeatureSettings(taken_by=frozenset({"purchase"})))
    row = empty_user(layout)
    absorb(row, seen(1, item="looked"), layout)
    absorb(row, seen(2, item="bought", kind=EventType.PURCHASE), layout)
    assert list(row.taken) == [hash64("bought")]


def test_a_topic_made_anew_starts_again_without_losing_what_was_counted() -> None:
    group = empty_group(LAYOUT)
    absorb_item(group, seen(100), LAYOUT)
    absorb_item(group, seen(0, source=source_hash("the topic's next life", 0)), LAYOUT)
    assert group.values[-1] == 2.0
    assert group.offset == 0


def test_popularity_adds_the_sources_and_weighs_purchases() -> None:
    clicked, bought = empty_group(LAYOUT), empty_group(LAYOUT)
    absorb_item(clicked, seen(1, START_MS), LAYOUT)
    absorb_item(bought, seen(1, START_MS, EventType.PURCHASE), LAYOUT)
    found = popularity(
        [(EventType.CLICK, clicked), (EventType.PURCHASE, bought)], START_MS + DAY_MS, LAYOUT
    )
    weight = LAYOUT.settings.click_weight + LAYOUT.settings.purchase_weight
    assert found[0] == weight / 2
    assert found[-1] == weight
