"""What a click is credited to, in the broker's order, and once."""

from __future__ import annotations

import math

import pytest
from headwater_client.events import Click, Purchase

from deploy.rollout.credit import MOST_SHOWN, Earned, Memory, Shown
from deploy.rollout.merging import Merge
from features.topics import hash64

WINDOW_MS = 1000


def shown(name: str, time_ms: int, *items: str, variant: str = "canary") -> Shown:
    return Shown(name, time_ms, 3, {variant: [hash64(item) for item in items]})


def click(item: str, event: str = "e1", **known: str) -> Click:
    return Click(event_id=event, user_id="ann", item_id=item, timestamp=10**12, **known)


def memory(*lists: Shown) -> Memory:
    found = Memory(WINDOW_MS)
    for one in lists:
        assert found.show("ann", one)
    return found


def test_the_newest_that_held_the_item_earns_by_its_position() -> None:
    found = memory(shown("r1", 0, "a", "b"), shown("r2", 10, "b", "c", "a"), shown("r3", 20, "x"))
    assert found.credit(click("a"), 30) == [Earned("canary", 3, 1 / math.log2(4), bought=False)]


def test_the_one_that_the_app_names_goes_first_if_it_held_the_item() -> None:
    found = memory(shown("r1", 0, "a"), shown("r2", 10, "b", "a"))
    (earned,) = found.credit(click("a", recommendation_id="r1"), 30)
    assert earned.discount == 1
    (other,) = found.credit(click("b", "e2", recommendation_id="r1"), 30)
    assert other.discount == 1


def test_nothing_is_earned_by_chance_late_or_unseen() -> None:
    found = memory(shown("r1", 0, "a"))
    assert not found.credit(click("z"), 1)
    assert not found.credit(click("a", "e2"), WINDOW_MS + 1)
    assert not found.credit(click("a", "e3", recommendation_id="r1"), WINDOW_MS + 1)
    assert not Memory(WINDOW_MS).credit(click("a"), 1)


def test_an_event_counts_once_and_an_item_once_a_recommendation() -> None:
    found = memory(shown("r1", 0, "a"))
    assert found.credit(click("a"), 1)
    assert not found.credit(click("a"), 2)
    assert not found.credit(click("a", "e2"), 3)
    bought = Purchase(event_id="p1", user_id="ann", item_id="a", timestamp=10**12)
    (earned,) = found.credit(bought, 4)
    assert earned.bought


def test_a_recommendation_that_is_sent_again_is_shown_once() -> None:
    found = memory(shown("r1", 0, "a"))
    assert not found.show("ann", shown("r1", 5, "a"))


def test_a_shadow_earns_beside_what_was_shown() -> None:
    lists = {"stable": [hash64("a")], "shadow": [hash64("b"), hash64("a")]}
    found = memory(Shown("r1", 0, 3, lists))
    earned = found.credit(click("a"), 1)
    assert [(one.variant, one.discount) for one in earned] == [
        ("stable", 1.0),
        ("shadow", 1 / math.log2(3)),
    ]


def test_what_is_remembered_is_bounded() -> None:
    found = memory(*(shown(f"r{n}", 0, f"i{n}") for n in range(MOST_SHOWN + 5)))
    assert not found.credit(click("i4"), 1)
    assert found.credit(click("i5", "e2"), 1)
    for n in range(100):
        found.show(f"u{n}", shown("r", 10 * WINDOW_MS * n, "a"))
    assert len(found) < 5


def test_a_person_who_comes_back_after_the_window_is_remembered_anew() -> None:
    found = memory(shown("r1", 0, "a"))
    found.show("ann", shown("r2", 50 * WINDOW_MS, "b"))
    assert found.credit(click("b"), 50 * WINDOW_MS + 1)


def ready(merge: Merge[str]) -> list[str]:
    return list(merge.ready())


def test_messages_come_in_the_brokers_order_once_none_can_come_before() -> None:
    merge = Merge[str](["shown", "clicked"])
    merge.add("clicked", 10, "c10")
    assert ready(merge) == []
    merge.add("shown", 5, "s5")
    merge.add("shown", 10, "s10")
    assert ready(merge) == ["s5", "s10"]
    merge.nothing_before("shown", 10)
    assert ready(merge) == []
    merge.nothing_before("shown", 11)
    assert ready(merge) == ["c10"]


@pytest.mark.parametrize("order", ["sscc", "ccss", "scsc", "cssc"])
def test_the_order_does_not_hang_on_what_is_fetched_first(order: str) -> None:
    left = {"s": [1, 4], "c": [2, 3]}
    merge, found = Merge[str](["s", "c"]), []
    for source in order:
        time_ms = left[source].pop(0)
        merge.add(source, time_ms, f"{source}{time_ms}")
        found += ready(merge)
    for source in "sc":
        merge.nothing_before(source, 100)
    assert found + ready(merge) == ["s1", "c2", "c3", "s4"]
