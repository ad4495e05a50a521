"""A history extended window by window says what one replay of the whole log says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from headwater_client.events import Click, Item
from msgspec.structs import replace

from features.schema import FeatureSchema, Vocabulary
from features.settings import HOUR_MS
from tests.harness.windows import closed_window
from tests.unit.trainer.conftest import START_MS
from trainer.datasets import Log
from trainer.examples import (
    EventHistory,
    Examples,
    build_examples,
    compute_trends,
    observe_log,
    replay_log,
)
from trainer.windows.store import WindowStore, read_log


@pytest.mark.parametrize("size", [1, 37, 1000])
def test_rows_and_trends_are_those_of_the_whole(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema, size: int
) -> None:
    history = EventHistory(schema, small_log.items)
    for at in range(0, len(small_log.events), size):
        history.extend(small_log.events[at : at + size])
    replayed = replay_log(observe_log(small_log.events, small_log.items), schema)
    found, expected = history.examples(vocabulary), build_examples(replayed, vocabulary, schema)
    for field in fields(Examples):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))
    trended = history.trends(vocabulary, found.times_ms, HOUR_MS)
    whole = compute_trends([one.event for one in replayed], vocabulary, schema, HOUR_MS)
    np.testing.assert_array_equal(trended.times_ms, whole.times_ms)
    np.testing.assert_array_equal(trended.values, whole.values)


def test_trends_of_some_times_are_those_of_all(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    history = EventHistory(schema, small_log.items)
    history.extend(small_log.events)
    whole = history.trends(vocabulary, history.times_ms, HOUR_MS)
    some_ms = history.times_ms[[200, 17, 90]]
    some = history.trends(vocabulary, some_ms, HOUR_MS)
    np.testing.assert_array_equal(
        some.values[some.snapshot_indices(some_ms)], whole.values[whole.snapshot_indices(some_ms)]
    )


def click(name: str, item_id: str, hours: int) -> Click:
    return Click(event_id=name, user_id="u", item_id=item_id, timestamp=START_MS + hours * HOUR_MS)


def test_what_comes_late_has_its_place_in_a_history_and_trends_once_it_is_there(
    vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    history = EventHistory(schema)
    history.extend([click("a", "i1", 0), click("b", "i2", 5)])
    history.extend([click("late", "i3", 1), click("c", "i4", 9)])
    columns = history.examples(vocabulary)
    assert columns.items.tolist() == vocabulary.indices_of(["i1", "i3", "i2", "i4"]).tolist()
    asked_ms = START_MS + np.array([3, 7]) * HOUR_MS
    trended = history.trends(vocabulary, asked_ms, 1)
    (late,) = vocabulary.indices_of(["i3"])
    before, after = trended.values[:, :, late]
    assert not before.any()
    assert after.all()


def test_an_event_sent_again_in_a_later_window_counts_once(schema: FeatureSchema) -> None:
    history = EventHistory(schema)
    for _ in range(2):
        history.extend([click("a", "i1", 0)])
    assert history.events_of == {"i1": 1}


def test_it_is_rebuilt_from_window_files(
    schema: FeatureSchema, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    store = WindowStore(str(tmp_path))
    kept, rebuilt = EventHistory(schema), EventHistory(schema)
    # All of the last window is late.
    for number, minutes in enumerate([(65, 67), (121, 125), (20, 30)], start=1):
        store.write(store.prepare(number, closed_window(*minutes, first_offset=10 * number)))
        kept.extend(read_log(store, [number]).events)
    for number in WindowStore(str(tmp_path)).numbers():
        rebuilt.extend(read_log(store, [number]).events)
    found, expected = rebuilt.examples(vocabulary), kept.examples(vocabulary)
    assert len(found) == 6
    for field in fields(Examples):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_the_newest_word_of_the_catalogue_stays(schema: FeatureSchema) -> None:
    history = EventHistory(schema, [Item(item_id="a", title="old"), Item(item_id="b")])
    history.extend([], [Item(item_id="a", title="new")])
    assert history.catalogue == {"a": Item(item_id="a", title="new"), "b": Item(item_id="b")}


def test_a_guest_who_has_become_a_member_is_one_person_from_then_on(schema: FeatureSchema) -> None:
    vocabulary = Vocabulary(["i1", "i2", "i3", "i4"])
    past = [replace(click("g", "i1", 0), user_id="guest"), click("a", "i2", 1)]
    later = [
        replace(click("h", "i3", 3), user_id="guest"),
        click("b", "i1", 4),
        click("c", "i4", 5),
    ]
    history = EventHistory(schema)
    history.extend(past)
    # Somebody else's word on the guest comes too late, and a circle changes nothing.
    history.merge({"guest": "u"})
    history.merge({"guest": "eve", "u": "guest"})
    history.extend(later)
    found = history.examples(vocabulary)
    as_one = [replace(event, user_id="u") for event in (*past, *later)]
    whole = build_examples(replay_log(observe_log(as_one, []), schema), vocabulary, schema)
    for name in ("items", "types", "times_ms", "starts", "is_target", "marks_seen"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    np.testing.assert_allclose(found.features[2:], whole.features[2:], rtol=1e-6)
    assert (found.features[1] != whole.features[1]).any(), "what was known then was one of them"
