"""The event that drives an item is named, and removing it is what the deletion test sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.quality.explanations import (
    compare_choices,
    make_falls_table,
    margins_over_others,
    measure_falls,
    remove_each,
    sample_questions,
    summary,
)
from bench.quality.questions import TEST, Questions
from trainer.export import ScoringGraph
from trainer.export.scoring_graph import principal, relative_to_mean
from trainer.network import Architecture, TemporalModel

ITEMS, HISTORY, WIDTH = 140, 8, 12
START_MS, MINUTE_MS = 1_700_000_000_000, 60_000
# What stands in the history of the test's person; one of them drives WANTED.
PAST = [20, 30, 40, 50, 60, 70]
WANTED = 99
PARTS = ("near", "alike", "related")

Tensors = dict[str, torch.Tensor]


def driven_by(part: str, item: int) -> ScoringGraph:
    """A model in which WANTED gains by one past item alone, and every other item by none."""
    torch.manual_seed(0)
    size = Architecture(
        items=ITEMS,
        user_features=3,
        trends=2,
        history=HISTORY,
        width=8,
        layers=2,
        heads=2,
        dropout=0.0,
        alike=WIDTH,
        related=WIDTH,
        neighbours=1,
    )
    model = TemporalModel(size)
    with torch.no_grad():
        model.items.weight.mul_(0.01)
        if part == "near":
            model.neighbours[item], model.neighbour_weights[item] = WANTED, 1.0
        else:
            same = model.described if part == "alike" else model.factors
            same[[item, WANTED], 5] = 1.0
    return ScoringGraph(model)


def asked_by(past: list[int], columns: int = HISTORY) -> Tensors:
    """One person's request, the events a minute apart; what is past is left out of the best."""
    padding = [0] * (columns - len(past))
    times = [START_MS + MINUTE_MS * place for place in range(len(past))]
    return {
        "item_indices": torch.tensor([padding + past]),
        "event_types": torch.tensor([padding + [1] * len(past)]),
        "event_times_ms": torch.tensor([padding + times]),
        "request_time_ms": torch.tensor([[START_MS + MINUTE_MS * len(past)]]),
        "user_features": torch.zeros(1, 3),
        "candidate_items": torch.tensor([[WANTED, 3]]),
        "excluded_items": torch.tensor([past]),
    }


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("place", range(len(PAST)))
def test_the_event_that_drives_an_item_is_named(part: str, place: int) -> None:
    tensors = asked_by(PAST)
    column = HISTORY - len(PAST) + place
    with torch.no_grad():
        answers = driven_by(part, PAST[place])(*tensors.values())
    assert answers[0][0, 0] == WANTED
    assert answers[2][0, 0] == column
    assert answers[4][0, 0] == column


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_its_removal_is_what_lowers_the_item_most(part: str, place: int) -> None:
    found = measure_falls(driven_by(part, PAST[place]), asked_by(PAST))
    column = HISTORY - len(PAST) + place
    assert found.there[0].sum() == len(PAST)
    for one in (found.margin, found.score):
        (mine,) = np.where(found.there, one[:, 0], -np.inf)
        assert mine.argmax() == found.named[0, 0] == column
        assert mine[column] > 0.1
        # Without another event this one's share of the attention only grows.
        assert (np.delete(mine, column) < 0.01).all()


def test_a_full_history_and_a_longer_one_name_the_same_event() -> None:
    recommender = driven_by("near", 50)
    with torch.no_grad():
        short = recommender(*asked_by(PAST, len(PAST)).values())
        long = recommender(*asked_by([9, 9, 9, 9, *PAST]).values())
    assert short[2][0, 0] == PAST.index(50)
    assert long[2][0, 0] == 4 + PAST.index(50)


def test_of_equal_events_the_newest_is_named() -> None:
    tensors = asked_by([50, 30, 50, 20])
    tensors["event_times_ms"][tensors["item_indices"] > 0] = START_MS
    recommender = driven_by("alike", 50)
    with torch.no_grad():
        # But for the order of the history they are the same: none is looked at more.
        recommender.explaining.mul_(1 - recommender.weighed_by[0])
        recommender.alike_bias.zero_()
        recommender.model.alike.query.weight.zero_()
        recommender.model.alike.query.bias.zero_()
        assert recommender(*tensors.values())[2][0, 0] == HISTORY - 2


def test_each_column_is_removed_once() -> None:
    found = remove_each(asked_by([1, 2, 3], 3))
    assert found["item_indices"].tolist() == [[2, 3], [1, 3], [1, 2]]
    assert (found["event_times_ms"][1] == START_MS + torch.tensor([0, 2 * MINUTE_MS])).all()
    assert found["request_time_ms"].shape == (3, 1)


def test_a_removal_leaves_padding_on_the_left() -> None:
    found = remove_each(asked_by([1, 2], 4))
    assert found["item_indices"].tolist() == [[0, 1, 2], [0, 1, 2], [0, 0, 2], [0, 0, 1]]


def test_a_margin_is_over_the_mean_of_the_others() -> None:
    found = margins_over_others(torch.tensor([[4.0, 1.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[3.0, -1.5, -1.5]]))


def test_a_case_is_compared_with_every_other_event() -> None:
    fall = np.array([[[9.0, 1.0, 3.0, 3.0, 2.0]]])
    there = np.array([[False, True, True, True, True]])
    found = compare_choices(fall, there, np.array([[2]]))
    # Columns 1, 3 and 4 are the others; 3 measure_falls as far.
    assert {name: values.tolist() for name, values in found.items()} == {
        "explained": [3.0],
        "random": [2.0],
        "newest": [2.0],
        "best": [3.0],
        "beats_random": [pytest.approx(2.5 / 3)],
        "is_best": [1.0],
    }


def test_a_summary_has_an_interval_for_each_mean() -> None:
    found = measure_falls(driven_by("near", 50), asked_by(PAST))
    figures = summary(found, np.array([7]))
    for measure in ("margin", "score"):
        for one in figures[measure].values():
            low, high = one["interval"]
            assert low == pytest.approx(one["mean"]) == high
    assert make_falls_table(figures, "").row_count == len(figures["margin"])


def test_only_people_with_enough_events_are_asked_about() -> None:
    starts, before = np.array([0, 10, 20, 30]), np.array([0, 4, 5, 9])
    asked = Questions(None, TEST, starts, starts + before, starts + before + 1)  # type: ignore[arg-type]
    assert sample_questions(asked, 5, 10, 0).tolist() == [2, 3]
    assert len(sample_questions(asked, 5, 1, 0)) == 1


def test_narrow_tables_keep_products_of_few_directions() -> None:
    torch.manual_seed(1)
    scales = torch.tensor([2.0, -1.0, 0.5, 1.0, 3.0])
    vectors = torch.randn(30, 2) @ torch.randn(2, 5)
    past, wanted = principal(vectors, scales, 3)
    assert past.shape == wanted.shape == (30, 3)
    whole = (vectors * scales) @ vectors.T
    torch.testing.assert_close(past @ wanted.T, whole, atol=1e-4, rtol=1e-4)


def test_an_event_adds_what_the_others_would_not_in_its_place() -> None:
    weights = torch.tensor([[[1.0], [3.0]]])
    found = relative_to_mean(torch.tensor([[[4.0], [0.0]]]), weights)
    torch.testing.assert_close(found, torch.tensor([[[3.0], [-3.0]]]))
    assert relative_to_mean(torch.ones(1, 2, 1), torch.zeros(1, 2, 1)).isfinite().all()
