"""Training knows what was taken back: it is nothing to be predicted, and no trend."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.events import Interaction

from features.schema import FeatureSchema, Vocabulary
from features.settings import FeatureSettings
from tests.harness.builders import HOUR_MS, make_interaction
from trainer.datasets import Log
from trainer.examples import (
    EventHistory,
    Examples,
    build_examples,
    compute_trends,
    item_events,
    observe_log,
    replay_log,
    select_positive,
)

START_MS = 1_700_000_000_000
ITEMS = ["i0", "i1", "i2"]
SCHEMA = FeatureSchema(FeatureSettings(seen_by=frozenset({"purchase"})))
VOCABULARY = Vocabulary(ITEMS)


def event(name: str, item: str, hour: int, **fields: object) -> Interaction:
    said = {"event_id": f"{name}{item}{hour}", "item_id": item, **fields}
    return make_interaction(name, timestamp=START_MS + hour * HOUR_MS, **said)


def back(name: str, item: str, hour: int, taken_hour: int) -> Interaction:
    return event(name, item, hour, taken_time=START_MS + taken_hour * HOUR_MS)


def replay(events: list[Interaction]) -> Examples:
    return build_examples(replay_log(observe_log(events, []), SCHEMA), VOCABULARY, SCHEMA)


KEPT = [event("click", "i0", 0), event("purchase", "i1", 2), event("click", "i2", 5)]
GONE = event("purchase", "i0", 1)
RETURNED = back("return", "i0", 9, 1)


def test_what_was_taken_back_is_not_to_be_predicted_and_is_read_as_a_look() -> None:
    found = replay([KEPT[0], GONE, *KEPT[1:], RETURNED])
    assert found.is_target.tolist() == [True, False, True, True]
    assert found.types.tolist() == [1, 1, 2, 1]


def test_a_cart_that_was_emptied_is_not_to_be_predicted() -> None:
    events = [event("add_to_cart", "i0", 1), event("click", "i1", 2)]
    found = replay([*events, back("remove_from_cart", "i0", 3, 1)])
    assert found.is_target.tolist() == [False, True]


@pytest.mark.parametrize("name", ["dislike", "hide", "rating"])
def test_what_speaks_against_an_item_is_not_to_be_predicted(name: str) -> None:
    fields = {"value": 1.0} if name == "rating" else {}
    found = replay([KEPT[0], event(name, "i1", 1, **fields), event("click", "i1", 2)])
    assert found.items.tolist() == VOCABULARY.indices_of(["i0", "i1"]).tolist()
    assert found.is_target.tolist() == [True, False], "what is not wanted is not to be shown"


def test_it_is_the_same_whether_it_is_known_at_once_a_window_later_or_before() -> None:
    whole = replay([KEPT[0], GONE, *KEPT[1:], RETURNED])
    in_windows = EventHistory(SCHEMA)
    in_windows.extend([KEPT[0], GONE])
    in_windows.extend([*KEPT[1:], RETURNED])
    before = EventHistory(SCHEMA)
    before.extend([KEPT[0], RETURNED])
    before.extend([GONE, *KEPT[1:]])
    for history in (in_windows, before):
        found = history.examples(VOCABULARY)
        for name in ("items", "types", "times_ms", "is_target", "marks_seen"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_an_item_trends_as_if_it_had_not_been_bought_once_it_is_returned(cut: int) -> None:
    events = [KEPT[0], GONE, *KEPT[1:], RETURNED, event("click", "i2", 30)]
    without = [one for one in events if one not in (GONE, RETURNED)]
    history = EventHistory(SCHEMA)
    history.extend(events[:cut])
    history.extend(events[cut:])
    asked_ms = np.array([START_MS + hour * HOUR_MS for hour in (8, 30)])
    found = history.trends(VOCABULARY, asked_ms, HOUR_MS).values
    replayed = replay_log(observe_log(events, []), SCHEMA)
    once = compute_trends(item_events(replayed), VOCABULARY, SCHEMA, HOUR_MS)
    observed = observe_log(without, [])
    expected = compute_trends(observed, VOCABULARY, SCHEMA, HOUR_MS).values[-1]
    np.testing.assert_allclose(found[-1], expected, atol=1e-3)
    np.testing.assert_allclose(once.values[-1], expected, atol=1e-3)
    assert (found[0] > found[-1]).any(), "until then it was bought"


def test_the_language_model_learns_from_what_says_for_an_item() -> None:
    log = Log([*KEPT, GONE, event("dislike", "i2", 6), event("hide", "i1", 7), RETURNED], [])
    observed = observe_log(log.events, [])
    positive = select_positive(observed, replay_log(observed, SCHEMA))
    assert [log.events[each.offset] for each in positive] == KEPT
