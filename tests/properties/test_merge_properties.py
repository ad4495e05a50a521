"""A guest's row, merged into a member's, is the row of one person who did all of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import encode_user
from features.merging import merge_rows
from features.rows import Observation, UserRow, apply_event, empty_user, observation
from features.schema import FeatureSchema
from features.settings import HOUR_MS, FeatureSettings
from features.topics import hash64, source_hash
from stream.catalogue import CatalogueCache
from stream.row_updates import RowReader, RowView
from tests.harness.builders import CHANGE_ROWS, make_interaction
from tests.harness.memory_store import MemoryRowStore

START_MS = 1_600_000_000_000
SOURCE = source_hash("t", 0)
BOUNDS = {"history_length": 8, "seen_limit": 3, "category_limit": 3, "dedup_window": 12}
SCHEMA = FeatureSchema(FeatureSettings(**BOUNDS))
WITHOUT_BOUNDS = FeatureSchema(FeatureSettings())

events = st.lists(
    st.tuples(
        st.sampled_from(
            [name for name in CHANGE_ROWS if name not in ("return", "remove_from_cart")]
        ),
        st.integers(0, 5),
        st.integers(0, 60).map(lambda half_days: START_MS + half_days * 12 * HOUR_MS),
        st.booleans(),
    ),
    max_size=40,
)
Drawn = list[tuple[str, int, int, bool]]


def make_log(drawn: Drawn) -> list[tuple[Observation, bool]]:
    """Events in order of arrival, each with whether it was done as a guest."""
    log = []
    for number, (name, item, time_ms, as_guest) in enumerate(drawn):
        event = make_interaction(name, event_id=f"e{number}", item_id=f"i{item}", timestamp=time_ms)
        seen = observation(event, SOURCE, number, (hash64(f"c{item}"), hash64(f"c{item + 1}")))
        log.append((seen, as_guest))
    return log


def absorb(log: list[Observation], schema: FeatureSchema) -> UserRow:
    row = empty_user(schema)
    for event in log:
        apply_event(row, event, schema)
    return row


@pytest.mark.parametrize("schema", [SCHEMA, WITHOUT_BOUNDS], ids=["bounded", "wide"])
@settings(max_examples=200, deadline=None)
@given(drawn=events)
def test_two_rows_add_up_to_one(schema: FeatureSchema, drawn: Drawn) -> None:
    log = make_log(drawn)
    guest = absorb([event for event, as_guest in log if as_guest], schema)
    row = absorb([event for event, as_guest in log if not as_guest], schema)
    own_offsets = dict(row.offsets)
    expected = absorb([event for event, _ in log], schema)
    merge_rows(row, guest, schema)
    assert row.history == expected.history
    assert row.seen == expected.seen
    assert row.counters == pytest.approx(expected.counters, rel=1e-9, abs=1e-9)
    assert row.categories.keys() == expected.categories.keys()
    for name, values in expected.categories.items():
        assert row.categories[name] == pytest.approx(values, rel=1e-9, abs=1e-9)
    assert len(row.dedup_ids) == len(expected.dedup_ids)
    if len(log) <= schema.settings.dedup_window:
        assert set(row.dedup_ids) == set(expected.dedup_ids)
    assert row.offsets == own_offsets


@settings(max_examples=100, deadline=None)
@given(drawn=events)
def test_an_answer_for_who_was_a_guest_knows_what_both_did(drawn: Drawn) -> None:
    log = make_log(drawn)
    store = MemoryRowStore()
    for name, as_guest in (("guest", True), ("ann", False)):
        row = absorb([event for event, was_guest in log if was_guest is as_guest], WITHOUT_BOUNDS)
        if row.offsets:
            store.rows["user_activity", name] = dict(encode_user(row))
    reader = RowReader(store, WITHOUT_BOUNDS, CatalogueCache(store, 60.0))  # type: ignore[arg-type]
    views = [RowView("ann", merged_id="guest"), RowView("ann"), RowView("guest")]
    both, alone, guest = asyncio.run(reader.read(views))
    expected = absorb([event for event, _ in log], WITHOUT_BOUNDS)
    assert both.history == expected.history
    assert both.counters == pytest.approx(expected.counters, rel=1e-9, abs=1e-9)
    assert both.seen == expected.seen
    assert len(alone.history) + len(guest.history) == len(both.history)


@settings(max_examples=200, deadline=None)
@given(drawn=events, when=st.integers(0, 40))
def test_what_comes_after_the_merge_counts_as_before_it(drawn: Drawn, when: int) -> None:
    """The member goes on, and what the guest still did is sent on: the order changes nothing."""
    log = make_log(drawn)
    before, after = log[:when], log[when:]
    row = absorb([event for event, as_guest in before if not as_guest], SCHEMA)
    guest = absorb([event for event, as_guest in before if as_guest], SCHEMA)
    merge_rows(row, guest, SCHEMA)
    for event, _ in after:
        apply_event(row, event, SCHEMA)
    expected = absorb([event for event, _ in log], SCHEMA)
    assert row.history == expected.history
    assert row.seen == expected.seen
    assert row.counters == pytest.approx(expected.counters, rel=1e-9, abs=1e-9)
