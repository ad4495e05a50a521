"""Ranked lists as messages."""

from __future__ import annotations

import pytest
from headwater_client.events import Click, Reason, RecommendedItem, Shadow, encode
from msgspec.structs import replace

from features.rows import empty_user
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from stream.recommendations import (
    POPULAR_ITEMS,
    EventPlace,
    RankedLists,
    RecommendationRequest,
    is_fallback,
    make_recommendations,
    make_shadows,
    recommendation_id,
)

ROW = empty_user(FeatureSchema(FeatureSettings()))
CLICK = Click(event_id="e", user_id="ann", item_id="i", timestamp=1_700_000_000_000)
ITEM = RecommendedItem("a", 1.5, Reason("popular"))


def test_ids_that_hold_a_separator_name_answers_of_their_own() -> None:
    pairs = [("a", "b\0c"), ("a\0b", "c"), ("a", "1b"), ("a\0", "\0c"), ("a\0\0", "c"), ("a", "b")]
    events = [replace(CLICK, user_id=user, event_id=event) for user, event in pairs]
    assert len({recommendation_id(event) for event in events}) == len(pairs)


def test_a_message_names_its_event_its_version_and_its_variant() -> None:
    place = EventPlace("clicks", 0, 7, 12)
    request = RecommendationRequest("ann", CLICK.timestamp + 5, ROW, CLICK, place)
    lists = RankedLists([[ITEM]], POPULAR_ITEMS, "canary", "r", "version 2: too late", 12.5)
    (message,) = make_recommendations([request], lists)
    assert (message.recommendation_id, message.event_id) == (recommendation_id(CLICK), "e")
    assert (message.user_id, message.items) == ("ann", [ITEM])
    assert (message.variant, message.rollout_id) == ("canary", "r")
    assert (message.failed, message.latency_ms) == ("version 2: too late", 12.5)
    assert message.fallback
    assert (message.topic, message.partition, message.offset, message.sequence) == place
    assert message.event_time == CLICK.timestamp


def test_a_request_without_an_event_is_no_message() -> None:
    with pytest.raises(ValueError, match="ann"):
        make_recommendations(
            [RecommendationRequest("ann", CLICK.timestamp, ROW)], RankedLists([[ITEM]], "1")
        )


def test_what_a_rule_has_put_into_its_place_says_nothing_of_the_version() -> None:
    ranked, pinned = RankedLists([[]], "1"), replace(ITEM, placed_by="pin")
    own = RecommendedItem("b", 1.0, Reason("history"))
    assert not is_fallback(ranked, [pinned])
    assert not is_fallback(ranked, [pinned, own])
    assert is_fallback(ranked, [pinned, ITEM])
    assert is_fallback(ranked, [])
    assert is_fallback(RankedLists([[]], POPULAR_ITEMS), [pinned, own])


def test_a_list_without_an_item_of_the_version_is_marked_and_counts_what_is_missing() -> None:
    request = RecommendationRequest("ann", CLICK.timestamp, ROW, CLICK)
    own = RecommendedItem("b", 1.0, Reason("history"))
    lists = RankedLists([[], [ITEM], [own, ITEM], [own] * 3], "1", "stable", top_k=3)
    messages = make_recommendations([request] * 4, lists)
    assert [message.fallback for message in messages] == [True, True, False, False]
    assert [message.model_version for message in messages] == [POPULAR_ITEMS] * 2 + ["1"] * 2
    assert [message.missing for message in messages] == [3, 2, 1, 0]
    assert b"missing" not in encode(messages[3])


def test_a_shadow_says_what_it_would_have_shown_or_why_nothing() -> None:
    lists = RankedLists([[ITEM], []], "2", "shadow", latency_ms=3.0)
    assert make_shadows(lists) == [
        Shadow(model_version="2", items=["a"], score=1.5, latency_ms=3.0),
        Shadow(model_version="2", latency_ms=3.0),
    ]
    assert make_shadows(RankedLists([[]], "2", "shadow", failed="too late")) == [
        Shadow(model_version="2", failed="too late")
    ]
