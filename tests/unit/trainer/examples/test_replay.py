"""A training row is what the stream would have had before the event, and nothing later."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from headwater_client.events import Click, Interaction, Purchase
from msgspec.structs import replace

from features import inputs, rows
from features.schema import FeatureSchema, Vocabulary
from features.settings import FeatureSettings
from features.topics import hash64
from tests.harness.columns import columns_of
from trainer.datasets import Log
from trainer.examples import Examples, Replayer, observe_log, replay_log


def of_person(log: Log, user_id: str) -> list[Interaction]:
    return [event for event in log.events if event.user_id == user_id]


def test_a_row_equals_the_stream_s_row_built_from_the_events_before(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    found = columns_of(small_log, vocabulary, schema)
    kinds = {item.item_id: item.category for item in small_log.items}
    people = list(dict.fromkeys(event.user_id for event in small_log.events))
    at = 0
    for user in people:
        row = rows.empty_user(schema)
        for number, event in enumerate(of_person(small_log, user)):
            expected = inputs.user_features(row, event.timestamp, schema)
            assert found.features[at] == pytest.approx(expected, rel=1e-6)
            after_last = row.reference_ms or event.timestamp
            expected = inputs.user_features(row, after_last, schema)
            assert found.features_after_last[at] == pytest.approx(expected, rel=1e-6)
            categories = tuple(map(hash64, kinds[event.item_id]))
            rows.apply_event(
                row, rows.observation(event, hash64("any"), number, categories), schema
            )
            at += 1
    assert at == len(found)


def test_a_person_s_events_stand_together_in_their_order(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    found = columns_of(small_log, vocabulary, schema)
    by_person = defaultdict(list)
    for event in small_log.events:
        by_person[event.user_id].append(event)
    expected = [event for mine in by_person.values() for event in mine]
    assert found.items.tolist() == vocabulary.indices_of([e.item_id for e in expected]).tolist()
    assert found.times_ms.tolist() == [event.timestamp for event in expected]
    assert found.types.tolist() == [2 if isinstance(e, Purchase) else 1 for e in expected]
    lengths = [len(mine) for mine in by_person.values()]
    assert found.starts.tolist() == np.repeat(np.cumsum([0, *lengths[:-1]]), lengths).tolist()


def test_what_comes_later_changes_no_earlier_row(
    small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    before = columns_of(small_log, vocabulary, schema)
    cut_ms = small_log.events[200].timestamp
    later = [
        replace(event, item_id="i3") if event.timestamp >= cut_ms else event
        for event in small_log.events
    ]
    after = columns_of(dataclasses.replace(small_log, events=later), vocabulary, schema)
    same = before.times_ms < cut_ms
    assert 100 < same.sum() < len(before)
    for column in dataclasses.fields(Examples):
        one, other = getattr(before, column.name), getattr(after, column.name)
        np.testing.assert_array_equal(one[same], other[same])
    assert (before.features != after.features).any()


def test_an_item_is_wanted_until_it_is_taken(vocabulary: Vocabulary) -> None:
    bought = FeatureSchema(FeatureSettings(seen_by=frozenset({"purchase"})))
    events = [
        kind(event_id=f"e{at}", user_id="u", item_id=item, timestamp=10**12 + at)
        for at, (kind, item) in enumerate(
            [(Click, "i1"), (Click, "i1"), (Purchase, "i1"), (Click, "i1"), (Click, "i2")]
        )
    ]
    found = columns_of(Log(events, []), vocabulary, bought)
    assert found.is_target.tolist() == [True, True, True, False, True]
    assert found.marks_seen.tolist() == [False, False, True, False, False]


def test_an_event_sent_twice_is_one_example(vocabulary: Vocabulary, schema: FeatureSchema) -> None:
    click = Click(event_id="same", user_id="u", item_id="i1", timestamp=10**12)
    assert len(columns_of(Log([click, click], []), vocabulary, schema)) == 1


def test_rows_of_one_part_after_another_are_those_of_the_whole(
    small_log: Log, schema: FeatureSchema
) -> None:
    whole = replay_log(observe_log(small_log.events, small_log.items), schema)
    replayer = Replayer(schema)
    parts = [
        replayer.replay(observe_log(part.events, part.items))
        for first in small_log.split(0.4)
        for part in first.split(0.5)
    ]
    assert len(parts) == 4
    assert all(parts)
    assert [one for part in parts for one in part] == whole


def test_an_event_sent_again_in_a_later_part_is_no_example(schema: FeatureSchema) -> None:
    click = Click(event_id="same", user_id="u", item_id="i1", timestamp=10**12)
    replayer = Replayer(schema)
    assert len(replayer.replay(observe_log([click], []))) == 1
    assert replayer.replay(observe_log([click], [])) == []
