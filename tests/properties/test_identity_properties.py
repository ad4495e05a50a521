"""A guest who has become a member for good: whatever crashes, the row is that of one person."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from headwater_client import EVENT_TYPES, Interaction, Item
from headwater_client.identities import Merge
from headwater_client.topics import IDENTITIES
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rows import UserRow, apply_event, empty_user, observation
from features.schema import FeatureSchema
from features.settings import HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash
from tests.harness.builders import CHANGE_ROWS, make_interaction
from tests.harness.identity_log import PARTITIONS, START_MS, Fate, IdentityLog

BOUNDS = {"history_length": 100, "seen_limit": 4, "category_limit": 3}
SCHEMA = FeatureSchema(FeatureSettings(**BOUNDS))
ITEMS = [
    Item(item_id=f"i{number}", category=[f"c{number}", f"c{number + 1}"]) for number in range(4)
]
PLACES = {"guest": 0, "ann": 1, "bob": 2}
TOPICS = (*EVENT_TYPES.topics, IDENTITIES)
TAKES = {"return": "purchase", "remove_from_cart": "add_to_cart"}

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("event"),
            st.sampled_from(["guest", "ann"]),
            st.sampled_from(CHANGE_ROWS),
            st.integers(0, 3),
            st.integers(0, 40),
        ),
        st.tuples(st.just("merge"), st.sampled_from(["ann", "ann", "ann", "bob"])),
        st.tuples(
            st.just("handle"),
            st.sampled_from(TOPICS),
            st.integers(0, PARTITIONS - 1),
            st.integers(1, 6),
            st.sampled_from([Fate.GOES_ON, Fate.GOES_ON, Fate.DIES_UNSENT, Fate.DIES_UNCOMMITTED]),
        ),
        st.tuples(st.just("commit"), st.integers(0, PARTITIONS - 1)),
        st.tuples(st.just("die"), st.integers(0, PARTITIONS - 1)),
        st.tuples(st.just("lose")),
    ),
    max_size=60,
)
Steps = list[tuple[Any, ...]]


class Scenario:
    """Steps, and all events that were sent in them."""

    def __init__(self) -> None:
        self.log = IdentityLog(SCHEMA, ITEMS, PLACES)
        self.sent: list[Interaction] = []
        self.merged_into: str | None = None
        self._could_take: dict[str, list[Interaction]] = {}

    async def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("event", person, name, item, hours):
                self._send(person, name, item, hours)
            case ("merge", member):
                self.merged_into = self.merged_into or member
                number = f"m{len(self.log.messages[IDENTITIES, 0])}"
                self.log.send(Merge(merge_id=number, guest="guest", member=member))
            case ("handle", topic, partition, limit, fate):
                await self.log.handle((topic, partition), limit, fate)
            case ("commit", partition):
                self.log.commit(partition)
            case ("die", partition):
                self.log.restart(partition)
            case _:
                self.log.lose_store()

    def _send(self, person: str, name: str, item: int, hours: int) -> None:
        number = len(self.sent)
        fields: dict[str, Any] = {"event_id": f"e{number}", "item_id": f"i{item}"}
        fields["timestamp"] = START_MS + hours * 12 * HOUR_MS + number
        if name in TAKES:
            # Whoever of both did it: one person takes back what they did.
            could = self._could_take.get(TAKES[name], [])
            if not could:
                return
            taken = could.pop(hours % len(could))
            fields |= {"item_id": taken.item_id, "taken_time": taken.timestamp}
            fields["timestamp"] = max(fields["timestamp"], taken.timestamp)
        event = make_interaction(name, user_id=person, **fields)
        if name in TAKES.values():
            self._could_take.setdefault(name, []).append(event)
        self.sent.append(event)
        self.log.send(event)


def absorb(events: list[Interaction]) -> UserRow:
    """The row of one person who has done all of it."""
    row, categories = empty_user(SCHEMA), {item.item_id: item.category for item in ITEMS}
    for number, event in enumerate(events):
        kinds = tuple(map(hash64, categories[event.item_id]))
        apply_event(row, observation(event, source_hash("x", 0), number, kinds), SCHEMA)
    return row


def check_alike(row: UserRow, expected: UserRow) -> None:
    assert row.history == expected.history
    assert row.seen == expected.seen
    assert row.counters == pytest.approx(expected.counters, rel=1e-9, abs=1e-9)
    assert row.categories.keys() == expected.categories.keys()
    for name, values in expected.categories.items():
        assert row.categories[name] == pytest.approx(values, rel=1e-9, abs=1e-9)


@settings(max_examples=400, deadline=None)
@given(drawn=steps)
def test_a_merged_row_is_that_of_one_person_whatever_crashes(drawn: Steps) -> None:
    async def run() -> None:
        scenario = Scenario()
        for step in drawn:
            await scenario.take(step)
        await scenario.log.drain()
        members = {scenario.merged_into: ("guest", scenario.merged_into), "ann": ("ann",)}
        for member in {"ann", scenario.merged_into} - {None}:
            both = {member, "guest"} if member == scenario.merged_into else {member}
            mine = [event for event in scenario.sent if event.user_id in both]
            others = [e for e in scenario.sent if e not in mine]
            if any(takes_over(event, others) for event in mine):
                # Somebody else's things: what is nobody's to take back is another test's.
                continue
            check_alike(scenario.log.row(str(member)), absorb(mine))
        counted = [e for e in scenario.sent if counts_for_items(e)]
        assert members
        assert scenario.log.count_items() == pytest.approx(sum(map(measure, counted)))

    asyncio.run(run())


def takes_over(event: Interaction, others: list[Interaction]) -> bool:
    taken_ms = getattr(event, "taken_time", None)
    return any(each.timestamp == taken_ms for each in others)


def counts_for_items(event: Interaction) -> bool:
    return EVENT_TYPES.spec_of(event).counts_for_items


def measure(event: Interaction) -> float:
    if getattr(event, "taken_time", None) is not None:
        return 1.0
    return max(0.0, EVENT_TYPES.spec_of(event).measure_strength(event))
