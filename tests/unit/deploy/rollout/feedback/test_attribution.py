"""What a click is credited to, in the broker's order, and once."""

from __future__ import annotations

import math

import pytest
from headwater_client import Impression
from headwater_client.event_types import CLICK, PURCHASE
from headwater_client.events import Click, Purchase

from deploy.rollout.feedback.attribution import (
    MAX_SERVED,
    AttributionWindow,
    Credit,
    ServedRecommendation,
)
from deploy.rollout.feedback.ledger import TimeOrderedMerge
from features.topics import hash64

WINDOW_MS = 1000


def served_list(
    name: str, time_ms: int, *items: str, variant: str = "canary"
) -> ServedRecommendation:
    return ServedRecommendation(name, time_ms, 3, {variant: [hash64(item) for item in items]})


def click(item: str, event: str = "e1", **known: str) -> Click:
    return Click(event_id=event, user_id="ann", item_id=item, timestamp=10**12, **known)


def memory(*lists: ServedRecommendation) -> AttributionWindow:
    found = AttributionWindow(WINDOW_MS)
    for one in lists:
        assert found.remember("ann", one)
    return found


def test_the_newest_that_held_the_item_earns_by_its_position() -> None:
    found = memory(
        served_list("r1", 0, "a", "b"),
        served_list("r2", 10, "b", "c", "a"),
        served_list("r3", 20, "x"),
    )
    assert found.attribute(click("a"), 30) == [Credit("canary", 3, 1 / math.log2(4), CLICK.code)]


def test_the_one_that_the_app_names_goes_first_if_it_held_the_item() -> None:
    found = memory(served_list("r1", 0, "a"), served_list("r2", 10, "b", "a"))
    (earned,) = found.attribute(click("a", recommendation_id="r1"), 30)
    assert earned.discount == 1
    (other,) = found.attribute(click("b", "e2", recommendation_id="r1"), 30)
    assert other.discount == 1


def test_nothing_is_earned_by_chance_late_or_unseen() -> None:
    found = memory(served_list("r1", 0, "a"))
    assert not found.attribute(click("z"), 1)
    assert not found.attribute(click("a", "e2"), WINDOW_MS + 1)
    assert not found.attribute(click("a", "e3", recommendation_id="r1"), WINDOW_MS + 1)
    assert not AttributionWindow(WINDOW_MS).attribute(click("a"), 1)


def test_an_event_counts_once_and_an_item_once_a_recommendation() -> None:
    found = memory(served_list("r1", 0, "a"))
    assert found.attribute(click("a"), 1)
    assert not found.attribute(click("a"), 2)
    assert not found.attribute(click("a", "e2"), 3)
    bought = Purchase(event_id="p1", user_id="ann", item_id="a", timestamp=10**12)
    (earned,) = found.attribute(bought, 4)
    assert earned.event_code == PURCHASE.code


def test_a_recommendation_that_is_sent_again_is_shown_once() -> None:
    found = memory(served_list("r1", 0, "a"))
    assert not found.remember("ann", served_list("r1", 5, "a"))


def test_a_shadow_earns_beside_what_was_shown() -> None:
    lists = {"stable": [hash64("a")], "shadow": [hash64("b"), hash64("a")]}
    found = memory(ServedRecommendation("r1", 0, 3, lists))
    earned = found.attribute(click("a"), 1)
    assert [(one.variant, one.discount) for one in earned] == [
        ("stable", 1.0),
        ("shadow", 1 / math.log2(3)),
    ]


def test_what_is_remembered_is_bounded() -> None:
    found = memory(*(served_list(f"r{n}", 0, f"i{n}") for n in range(MAX_SERVED + 5)))
    assert not found.attribute(click("i4"), 1)
    assert found.attribute(click("i5", "e2"), 1)
    for n in range(100):
        found.remember(f"u{n}", served_list("r", 10 * WINDOW_MS * n, "a"))
    assert len(found) < 5


def test_a_person_who_comes_back_after_the_window_is_remembered_anew() -> None:
    found = memory(served_list("r1", 0, "a"))
    found.remember("ann", served_list("r2", 50 * WINDOW_MS, "b"))
    assert found.attribute(click("b"), 50 * WINDOW_MS + 1)


def ready(merge: TimeOrderedMerge[str]) -> list[str]:
    return list(merge.pop_ready())


def test_messages_come_in_the_brokers_order_once_none_can_come_before() -> None:
    merge = TimeOrderedMerge[str](["shown", "clicked"])
    merge.add("clicked", 10, "c10")
    assert ready(merge) == []
    merge.add("shown", 5, "s5")
    merge.add("shown", 10, "s10")
    assert ready(merge) == ["s5", "s10"]
    merge.advance_watermark("shown", 10)
    assert ready(merge) == []
    merge.advance_watermark("shown", 11)
    assert ready(merge) == ["c10"]


@pytest.mark.parametrize("order", ["sscc", "ccss", "scsc", "cssc"])
def test_the_order_does_not_hang_on_what_is_fetched_first(order: str) -> None:
    left = {"s": [1, 4], "c": [2, 3]}
    merge, found = TimeOrderedMerge[str](["s", "c"]), []
    for source in order:
        time_ms = left[source].pop(0)
        merge.add(source, time_ms, f"{source}{time_ms}")
        found += ready(merge)
    for source in "sc":
        merge.advance_watermark(source, 100)
    assert found + ready(merge) == ["s1", "c2", "c3", "s4"]


def impression(name: str, position: int) -> Impression:
    return Impression(
        event_id=f"{name}{position}",
        user_id="ann",
        recommendation_id=name,
        position=position,
        timestamp=10**12,
    )


def test_what_was_seen_earns_apart_from_what_was_sent() -> None:
    """The newest list that was sent with it, and the newest of which it was seen."""
    found = memory(served_list("r1", 0, "a", "b"), served_list("r2", 10, "b", "a"))
    assert found.see(impression("r1", 0), 20)
    sent = Credit("canary", 3, 1 / math.log2(3), CLICK.code)
    assert found.attribute(click("a"), 30) == [
        sent,
        Credit("canary", 3, 1.0, CLICK.code, of_seen=True),
    ]
    # It was sent, and below what was seen.
    assert [each.of_seen for each in found.attribute(click("b", "e2"), 40)] == [False]
    assert found.see(impression("r1", 1), 50) is None
    assert [
        each.of_seen for each in found.attribute(click("b", "e3", recommendation_id="r1"), 60)
    ] == [False, True]


def test_an_impression_of_no_list_of_the_window_says_nothing() -> None:
    found = memory(served_list("r1", 0, "a"))
    assert found.see(impression("r9", 0), 10) is None
    other = Impression(
        event_id="e", user_id="bob", recommendation_id="r1", position=0, timestamp=10**12
    )
    assert found.see(other, 10) is None
    seen = found.see(impression("r1", 0), 10)
    assert seen
    assert seen.recent == set()
    assert found.see(impression("r1", 0), 11) is None
    late = memory(served_list("r1", 0, "a"))
    assert late.see(impression("r1", 0), WINDOW_MS + 1) is None
