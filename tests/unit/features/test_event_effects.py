"""What each type of event does to a person's row and to an item's trend."""

from __future__ import annotations

from typing import Any

import pytest
from headwater_client import EventError, Rating, decode
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, encode

from features.inputs import user_features
from features.rows import (
    ItemGroup,
    UserRow,
    apply_event,
    apply_item_event,
    empty_group,
    empty_user,
    find_item_event,
    observation,
    popularity,
)
from features.schema import FeatureSchema
from features.settings import HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash
from tests.harness.builders import START_MS, make_interaction

SCHEMA = FeatureSchema(FeatureSettings())
CATEGORY = hash64("lamps")
CLICKS, PURCHASES = 4, 9
"""Where the plain counts of the two types stand."""


class World:
    """One person's row, and what is counted of each item."""

    def __init__(self, schema: FeatureSchema = SCHEMA) -> None:
        self.schema = schema
        self.row: UserRow = empty_user(schema)
        self.groups: dict[str, dict[int, ItemGroup]] = {}
        self._offset = 0

    def absorb(self, event: Interaction) -> None:
        """As a worker does it."""
        self._offset += 1
        topic = EVENT_TYPES.spec_of(event).topic
        seen = observation(event, source_hash(topic, 0), self._offset, (CATEGORY,))
        counted = find_item_event(self.row, seen, self.schema)
        if apply_event(self.row, seen, self.schema) and counted:
            groups = self.groups.setdefault(event.item_id, {})
            group = groups.setdefault(seen.type, empty_group(self.schema))
            apply_item_event(group, counted, self.schema)

    def trend(self, item_id: str) -> float:
        groups = self.groups.get(item_id, {}).items()
        return popularity(groups, START_MS + 10 * HOUR_MS, self.schema)[-1]


def event(name: str, hour: float = 0, **fields: Any) -> Interaction:
    time_ms = START_MS + round(hour * HOUR_MS)
    known = {"event_id": f"{name}{hour}", "item_id": "lamp", "timestamp": time_ms}
    return make_interaction(name, **(known | fields))


def absorb(*events: Interaction, schema: FeatureSchema = SCHEMA) -> World:
    world = World(schema)
    for each in events:
        world.absorb(each)
    return world


@pytest.mark.parametrize(
    ("told", "clicks", "trend", "seen"),
    [
        (event("click"), 1, 1.0, True),
        (event("add_to_cart"), 1, 2.0, True),
        (event("rating", value=4.0), 1, 1.6, True),
        (event("rating", value=2.4), 0, 0.0, True),
        (event("play", seconds=30, length_seconds=120), 1, 0.5, True),
        (event("play", seconds=500, length_seconds=120), 1, 2.0, True),
        (event("play", seconds=5, length_seconds=None), 1, 2.0, True),
        (event("dislike"), 0, 0.0, True),
        (event("hide"), 0, 0.0, True),
        (event("return"), 0, 0.0, False),
        (event("remove_from_cart"), 0, 0.0, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Interaction) else "",
)
def test_what_a_type_does(told: Interaction, clicks: int, trend: float, seen: bool) -> None:
    world = absorb(told)
    assert (world.row.counters[CLICKS], world.row.counters[PURCHASES]) == (clicks, 0)
    assert world.row.history == [(START_MS, 1, hash64("lamp"))] * clicks
    assert world.trend("lamp") == pytest.approx(trend)
    assert world.row.categories.get(CATEGORY, [0, 0])[1] == pytest.approx(trend)
    assert list(world.row.seen) == [hash64("lamp")] * seen


def test_where_all_may_be_recommended_again_a_no_is_still_a_no() -> None:
    schema = FeatureSchema(FeatureSettings(seen_by=frozenset()))
    names = ("click", "add_to_cart", "rating", "purchase")
    taken = absorb(*(event(name, item_id=name) for name in names), schema=schema)
    assert not taken.row.seen
    against = [
        event("hide", item_id="a"),
        event("dislike", item_id="b"),
        event("rating", item_id="c", value=0.5),
    ]
    assert set(absorb(*against, schema=schema).row.seen) == {hash64(name) for name in "abc"}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("name", "taken"), [("return", "purchase"), ("remove_from_cart", "add_to_cart")]
)
def test_what_is_taken_back_counts_no_more(name: str, taken: str, named: bool) -> None:
    """In any counter, at any moment; what is left is a look in the history."""
    other = event("click", 3, item_id="rug")
    bought = event(taken, 1)
    back = event(name, 5, **({"taken_time": bought.timestamp} if named else {}))
    world, without = absorb(bought, other, back), absorb(other)
    assert world.row.counters == pytest.approx(without.row.counters, abs=1e-12)
    assert world.row.counters[CLICKS] == 1
    assert world.row.categories[CATEGORY] == pytest.approx(without.row.categories[CATEGORY])
    assert world.trend("lamp") == pytest.approx(0)
    assert world.row.history == [(bought.timestamp, 1, hash64("lamp")), *without.row.history]
    assert user_features(world.row, START_MS + 20 * HOUR_MS, SCHEMA) == pytest.approx(
        user_features(without.row, START_MS + 20 * HOUR_MS, SCHEMA)
    )


def test_each_is_taken_back_once() -> None:
    bought = [event("purchase", hour, event_id=f"p{hour}") for hour in (0, 1)]
    back = [event("return", hour, event_id=f"r{hour}") for hour in (2, 3, 4)]
    row = absorb(*bought, back[0]).row
    assert row.counters[PURCHASES] == 1
    assert [code for _, code, _ in row.history] == [2, 1]
    assert absorb(*bought, *back[:2]).row.counters[PURCHASES] == 0
    # Of a third nothing is there.
    world = absorb(*bought, *back)
    assert world.row.counters[PURCHASES] == 0
    assert world.trend("lamp") == pytest.approx(0)
    named = [event("return", 5 + n, taken_time=bought[0].timestamp) for n in range(2)]
    assert absorb(*bought, *named).row.counters[PURCHASES] == 1


def test_a_purchase_that_left_the_history_is_taken_back_by_its_time() -> None:
    schema = FeatureSchema(FeatureSettings(history_length=2))
    clicks = [event("click", hour, item_id="rug", event_id=f"c{hour}") for hour in (1, 2, 3)]
    unnamed = absorb(event("purchase"), *clicks, event("return", 4), schema=schema)
    assert unnamed.row.counters[PURCHASES] == 1
    back = event("return", 4, taken_time=START_MS)
    world = absorb(event("purchase"), *clicks, back, schema=schema)
    assert world.row.counters == pytest.approx(
        absorb(*clicks, schema=schema).row.counters, abs=1e-12
    )


def test_what_is_to_come_cannot_be_taken_back() -> None:
    back = event("return", 1, taken_time=START_MS + 2 * HOUR_MS)
    with pytest.raises(EventError, match=r"taken_time.*after the event"):
        decode(type(back), encode(back))
    # A clock that was set right since (`events.wrong_time`) may leave one behind.
    world = absorb(event("purchase"), back)
    assert world.row.counters[PURCHASES] == 1
    assert world.trend("lamp") == 3.0


def test_a_rating_has_a_scale() -> None:
    for value in (-0.5, 5.5, None):
        raw = encode(
            {"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": START_MS}
            | ({} if value is None else {"value": value})
        )
        with pytest.raises(EventError, match="value"):
            decode(Rating, raw)
