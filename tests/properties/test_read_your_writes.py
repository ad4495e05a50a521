"""A row with a request's events is what a worker would make of the log with these events."""

from __future__ import annotations

import asyncio

import pytest
from headwater_client.events import Interaction, Item
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import encode_item, encode_user
from features.rows import UserRow, apply_event, empty_user, observation
from features.schema import FeatureSchema
from features.settings import HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash
from stream.catalogue import CatalogueCache
from stream.row_updates import RowReader, RowView
from tests.harness.builders import CHANGE_ROWS, make_interaction
from tests.harness.memory_store import MemoryRowStore

SCHEMA = FeatureSchema(FeatureSettings(history_length=8))
START_MS = 1_600_000_000_000
SOURCE = source_hash("t", 0)

events = st.lists(
    st.tuples(
        st.sampled_from(CHANGE_ROWS),
        st.integers(0, 5),
        st.integers(0, 60).map(lambda hours: START_MS + hours * 12 * HOUR_MS),
    ),
    min_size=1,
    max_size=30,
)


def make_events(drawn: list[tuple[str, int, int]]) -> list[Interaction]:
    return [
        make_interaction(name, event_id=f"e{number}", item_id=f"i{item}", timestamp=time_ms)
        for number, (name, item, time_ms) in enumerate(drawn)
    ]


def absorb(events: list[Interaction]) -> UserRow:
    row = empty_user(SCHEMA)
    for offset, event in enumerate(events):
        seen = observation(event, SOURCE, offset, (hash64(f"c{event.item_id}"),))
        apply_event(row, seen, SCHEMA)
    return row


def read(row: UserRow, events: list[Interaction]) -> UserRow:
    store = MemoryRowStore()
    store.rows["user_activity", "ann"] = dict(encode_user(row))
    for name in {event.item_id for event in events}:
        entry = encode_item(Item(item_id=name, category=[f"c{name}"]), 1, 1)
        store.rows["item_catalogue", name] = dict(entry)
    reader = RowReader(store, SCHEMA, CatalogueCache(store, 60.0))  # type: ignore[arg-type]
    (found,) = asyncio.run(reader.read([RowView("ann", events)]))
    return found


@settings(max_examples=200, deadline=None)
@given(events, st.data())
def test_the_answer_knows_the_request_whatever_the_worker_has_seen(
    drawn: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    log = make_events(drawn)
    # The worker is somewhere in the log; the request brings a part of it, seen or not.
    done = data.draw(st.integers(0, len(log)))
    first = data.draw(st.integers(0, done))
    found, expected = read(absorb(log[:done]), log[first:]), absorb(log)
    assert found.counters == pytest.approx(expected.counters, rel=1e-9, abs=1e-12)
    assert found.events == expected.events
    assert found.seen == expected.seen
    assert found.dedup_ids == expected.dedup_ids
    assert found.categories.keys() == expected.categories.keys()
    for name, values in expected.categories.items():
        assert found.categories[name] == pytest.approx(values, rel=1e-9, abs=1e-12)
