"""Joining the model's top with trends, filtering, cutting."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.event_types import CLICK, PURCHASE
from headwater_client.events import Reason, RecommendedItem

from features.columns import TrendList
from features.schema import FeatureSchema, Vocabulary
from features.settings import DAY_MS, FeatureSettings
from stream.ranking import available_items, popular_items, rank, rank_candidates, weigh_trends
from stream.trending import TrendingIndex, sum_lists

SCHEMA = FeatureSchema(FeatureSettings())
NOW_MS = 1_700_000_000_000
VOCABULARY = Vocabulary(["a", "b", "c", "d"])
A, B, C, D = range(2, 6)


def trending(vocabulary: Vocabulary = VOCABULARY, **counts: float) -> TrendingIndex:
    rows = [[NOW_MS, count, count, count, count] for count in counts.values()]
    listed = TrendList(list(counts), np.array(rows, np.float64).reshape(-1, 5))
    return TrendingIndex(sum_lists([(CLICK.code, listed)], SCHEMA), vocabulary)


def answer(top: list[int], scores: list[float], weight: float) -> dict[str, np.ndarray]:
    return {
        "top_items": np.array([top]),
        "top_scores": np.array([scores], np.float32),
        "top_explained_by": np.array([[1] * len(top)]),
        "candidate_scores": np.array([[0.5, -1e9]], np.float32),
        "candidate_explained_by": np.array([[0, -1]]),
        # The first half is for items that were learned, as all of these are.
        "trend_weights": np.array([[0.0, weight, 0.0, *[99.0] * 3]], np.float32),
    }


TENSORS = {
    "item_indices": np.array([[0, A]]),
    "candidate_items": np.array([[D, C]]),
    "excluded_items": np.zeros((1, 0), np.int64),
}


def test_trends_lift_an_item_by_the_persons_weight() -> None:
    outputs = answer([B, C], [1.0, 0.9], weight=2.0)
    plain = rank(answer([B, C], [1.0, 0.9], 0.0), TENSORS, trending(c=9.0), [NOW_MS], 9)
    lifted = rank(outputs, TENSORS, trending(c=9.0), [NOW_MS], 9)
    assert [item.item_id for item in plain.user_items(0)] == ["b", "c", "d"]
    first = next(iter(lifted.user_items(0)))
    assert first.item_id == "c"
    assert abs(first.score - (0.9 + 2.0 * np.log1p(9.0))) < 1e-5


def test_an_item_that_was_not_learned_has_the_weights_of_the_others() -> None:
    some = Vocabulary(["a", "b", "c", "d"], [True, True, False, True])
    table = trending(some, b=9.0, c=9.0)
    outputs = answer([B, C], [1.0, 1.0], 0.0)
    outputs["trend_weights"] = np.array([[0.0, 2.0, 0.0, 0.0, 5.0, 0.0]], np.float32)
    items = rank(outputs, TENSORS, table, [NOW_MS], 9)
    scores = {item.item_id: item.score for item in items.user_items(0)}
    assert scores["b"] == pytest.approx(1 + 2 * np.log1p(9.0), rel=1e-5)
    assert scores["c"] == pytest.approx(1 + 5 * np.log1p(9.0), rel=1e-5)


def test_every_place_has_weights_of_its_own() -> None:
    weights = np.array([[1.0, 2.0, 10.0, 20.0], [3.0, 4.0, 30.0, 40.0]], np.float32)
    learned = np.array([[True, False, True], [False, False, True]])
    values = np.array([[[1.0, 0], [1, 0], [0, 1]], [[0, 1], [1, 1], [0, 1]]])
    assert weigh_trends(weights, values, learned).tolist() == [[1, 10, 2], [40, 70, 4]]


def test_a_trend_is_worth_less_later() -> None:
    table = trending(c=9.0)
    now, later = (table.values(np.array([[C]]), [at])[0, 0, 0] for at in (NOW_MS, NOW_MS + DAY_MS))
    assert abs(now - np.log1p(9.0)) < 1e-9
    assert abs(later - np.log1p(4.5)) < 1e-9


def test_reasons_name_the_past_item_or_the_trend() -> None:
    items = rank(answer([B, C], [1.0, 0.9], 0.0), TENSORS, trending(), [NOW_MS], 9)
    reasons = {item.item_id: item.reason for item in items.user_items(0)}
    assert reasons["b"] == Reason("history", "a")
    assert reasons["d"] == Reason("trending")


def test_padding_and_excluded_items_never_appear() -> None:
    outputs = answer([B, 0], [1.0, -1e9], 5.0)
    items = rank(outputs, TENSORS, trending(a=100.0), [NOW_MS], 9)
    assert [item.item_id for item in items.user_items(0)] == ["b", "d"]
    assert set(items.item_ids()) == {"b", "d"}


def test_an_item_stands_once_though_it_is_also_a_candidate() -> None:
    tensors = TENSORS | {"candidate_items": np.array([[B, C]])}
    items = rank(answer([B, C], [1.0, 0.9], 0.0), tensors, trending(), [NOW_MS], 9)
    assert sorted(item.item_id for item in items.user_items(0)) == ["b", "c"]


def test_a_candidate_that_the_person_has_taken_is_left_out() -> None:
    tensors = TENSORS | {"excluded_items": np.array([[0, D]])}
    table = trending(d=9.0, c=8.0)
    outputs = answer([B, C], [1.0, 0.9], 0.0)
    kept = rank(outputs, tensors, table, [NOW_MS], 9)
    again = rank(outputs, TENSORS, table, [NOW_MS], 9)
    assert [item.item_id for item in kept.user_items(0)] == ["b", "c"]
    assert [item.item_id for item in again.user_items(0)] == ["b", "c", "d"]


def test_taken_candidates_leave_their_places_to_others_however_much_they_trend() -> None:
    tensors = TENSORS | {
        "candidate_items": np.array([[D, C], [D, C]]),
        "excluded_items": np.array([[C, D], [C, 0]]),
    }
    outputs = {name: np.repeat(one, 2, 0) for name, one in answer([B], [1.0], 5.0).items()}
    outputs["candidate_scores"] = np.array([[2.0, 2.0], [2.0, 2.0]], np.float32)
    table = trending(d=100.0, c=50.0)
    items = rank(outputs, tensors, table, [NOW_MS, NOW_MS], 1)
    people = [[item.item_id for item in items.user_items(at)] for at in range(2)]
    assert people == [["b"], ["d"]]


def test_only_the_best_places_are_kept_and_in_order() -> None:
    outputs = answer([B, C], [0.1, 0.9], 0.0)
    items = rank(outputs, TENSORS, trending(), [NOW_MS], 2)
    assert [item.item_id for item in items.user_items(0)] == ["c", "d"]


def test_candidates_alone_are_in_order_seen_ones_too_and_what_is_not_known_is_left_out() -> None:
    tensors = TENSORS | {
        "candidate_items": np.array([[D, VOCABULARY.unknown, 0, C, B]]),
        "excluded_items": np.array([[C]]),
    }
    outputs = answer([A], [9.0], 2.0) | {
        "candidate_scores": np.array([[0.5, 9.0, -1e9, 0.9, -1e9]], np.float32),
        "candidate_explained_by": np.array([[0, -1, -1, 1, -1]]),
    }
    ranking = rank_candidates(outputs, tensors, trending(d=9.0), [NOW_MS])
    items = list(ranking.user_items(0))
    assert [item.item_id for item in items] == ["d", "c"]
    assert items[0].score == pytest.approx(0.5 + 2 * np.log1p(9.0), rel=1e-5)
    assert items[1].reason == Reason("history", "a")


def test_what_cannot_be_had_is_left_out_and_the_list_is_cut() -> None:
    items = [RecommendedItem(name, 1.0, Reason("popular")) for name in "abcd"]
    available = {"a": True, "b": False, "c": True, "d": True}
    assert [item.item_id for item in available_items(items, available, 2)] == ["a", "c"]


def test_the_fallback_is_popularity_over_all_sources() -> None:
    lists = [
        (
            CLICK.code,
            TrendList(["a", "b"], np.array([[NOW_MS, 3, 3, 3, 3.0], [NOW_MS, 4, 4, 4, 4]])),
        ),
        (CLICK.code, TrendList(["a"], np.array([[NOW_MS, 2, 2, 2, 2.0]]))),
        (PURCHASE.code, TrendList(["c"], np.array([[NOW_MS, 2, 2, 2, 2.0]]))),
    ]
    found = popular_items(sum_lists(lists, SCHEMA), NOW_MS, 2)
    assert [(item.item_id, item.score) for item in found] == [("c", 6.0), ("a", 5.0)]


def test_the_parts_of_a_score_sum_up_to_it_with_trends() -> None:
    outputs = answer([B, C], [1.0, 0.9], weight=2.0)
    top = [[0.6, 0.4, 0, 0, 0], [0.5, 0.1, 0, 0.2, 0.1]]
    outputs["top_parts"] = np.array([top], np.float32)
    outputs["candidate_parts"] = np.array([[[0, 0, 0.5, 0, 0], [-1e9, 0, 0, 0, 0]]], np.float32)
    ranking = rank(outputs, TENSORS, trending(c=9.0), [NOW_MS], 9)
    items = {item.item_id: item for item in ranking.user_items(0)}
    assert set(items) == {"b", "c", "d"}
    for item in items.values():
        assert sum(item.parts.values()) == pytest.approx(item.score, abs=1e-3)
    assert items["b"].parts == pytest.approx({"taste": 0.6, "prior": 0.4})
    told = {"taste": 0.5, "prior": 0.1, "cooccurrence": 0.2, "collaborative": 0.1}
    assert items["c"].parts == pytest.approx({**told, "trends": 2.0 * np.log1p(9.0)}, abs=1e-6)
    assert items["d"].parts == pytest.approx({"content": 0.5})
    alone = rank_candidates(outputs, TENSORS, trending(c=9.0), [NOW_MS])
    assert [item.parts for item in alone.user_items(0)] == [items["d"].parts]
