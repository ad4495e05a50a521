"""The network: time, padding, and one position when serving as all of them in training."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import pytest
import torch

from tests.harness.models import every_part
from trainer.examples.batches import Requests, ScoredRequests
from trainer.network import (
    LOWEST,
    NEWEST,
    Architecture,
    RequestStates,
    TemporalModel,
    cooccurrence_rows,
    score_requests,
)
from trainer.network.model import GAPS, collaborative_scores, gap_buckets

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
# What a reading says of each past event.
OF_EVENTS = ("attention", "session_weights", "content_weights", "collaborative_weights")


def history(length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    items = torch.randint(2, 130, (1, length), generator=random)
    types = torch.randint(1, 3, (1, length), generator=random)
    gaps = torch.randint(0, DAY_MS, (1, length), generator=random)
    return items, types, NOW_MS + gaps.cumsum(1)


def reading(model: TemporalModel, asked: Requests) -> RequestStates:
    biases = model.biases(asked.items.shape[1], asked.newest)
    with torch.no_grad():
        return model.encode(asked, biases, model.all_items().vectors)


def state(model: TemporalModel, asked: Requests) -> torch.Tensor:
    return reading(model, asked).states


def scores(model: TemporalModel, asked: Requests) -> torch.Tensor:
    """float[B * P, N], with the same trends for all."""
    count = asked.newest.numel()
    size = model.architecture
    random = torch.Generator().manual_seed(1)
    trends = torch.rand(size.trends, size.items, generator=random).expand(count, -1, -1)
    with torch.no_grad():
        return score_requests(model, ScoredRequests(asked, torch.arange(count), trends))


def one_request(model: TemporalModel, length: int, request_ms: int, padding: int = 0) -> Requests:
    items, types, times = history(length)
    pad = torch.zeros(1, padding, dtype=torch.long)
    return Requests(
        torch.cat([pad, items], 1),
        torch.cat([pad, types], 1),
        torch.cat([pad, times], 1),
        torch.tensor([[padding + length - 1]]),
        torch.tensor([[request_ms]]),
        torch.ones(1, 1, model.architecture.user_features),
    )


def segment(model: TemporalModel, length: int = 10) -> Requests:
    """A history, and a request after each number of its events: none, one, ..., all."""
    items, types, times = history(length)
    requests = torch.cat([times[:, :1] - 5000, times + 5000], 1)
    random = torch.Generator().manual_seed(2)
    features = torch.rand(1, length + 1, model.architecture.user_features, generator=random)
    newest = torch.arange(-1, length)[None]
    return Requests(items, types, times, newest, requests, features)


def alone(asked: Requests, at: int) -> Requests:
    """One request of a segment with the events before it only."""
    upto = int(asked.newest[0, at]) + 1
    return Requests(
        asked.items[:, :upto],
        asked.types[:, :upto],
        asked.times_ms[:, :upto],
        asked.newest[:, at : at + 1],
        asked.request_times_ms[:, at : at + 1],
        asked.user_features[:, at : at + 1],
    )


def test_a_request_among_many_is_as_alone(model: TemporalModel) -> None:
    """Training reads a segment at once; serving reads the events before one request."""
    asked = segment(model)
    together, all_scores = reading(model, asked), scores(model, asked)
    for at in range(1, 9):
        single = alone(asked, at)
        found = reading(model, single)
        torch.testing.assert_close(found.states[0, 0], together.states[0, at])
        torch.testing.assert_close(found.trend_weights[0, 0], together.trend_weights[0, at])
        for name in OF_EVENTS:
            one, among = getattr(found, name)[0, 0], getattr(together, name)[0, at]
            torch.testing.assert_close(one, among[..., :at])
            assert not among[..., at:].any()
            assert one.abs().max() > 0
        torch.testing.assert_close(scores(model, single)[0], all_scores[at], rtol=1e-4, atol=1e-4)


def test_no_request_sees_an_event_at_or_after_its_instant(model: TemporalModel) -> None:
    """Whatever happens there: another item, another type, another time."""
    asked = segment(model)
    found = scores(model, asked)
    length = asked.items.shape[1]
    for cut in range(length):
        items, types, times = asked.items.clone(), asked.types.clone(), asked.times_ms.clone()
        items[:, cut:] = (items[:, cut:] + 50) % 128 + 2
        types[:, cut:] = 3 - types[:, cut:]
        times[:, cut:] += 3 * DAY_MS
        other = scores(model, replace(asked, items=items, types=types, times_ms=times))
        # Request r has seen r events. Ages count from the newest event of all, so they are rounded
        # otherwise.
        torch.testing.assert_close(other[: cut + 1], found[: cut + 1], rtol=0, atol=2e-5)
        for later in range(cut + 1, length + 1):
            assert (other[later] - found[later]).abs().max() > 1e-3


def test_a_request_without_history_gives_no_event_a_weight(model: TemporalModel) -> None:
    """Though its segment has events, later."""
    found = reading(model, segment(model))
    padded = reading(model, one_request(model, 0, NOW_MS, padding=3))
    for name in OF_EVENTS:
        assert not getattr(found, name)[0, 0].any()
        assert not getattr(padded, name).any()
        assert getattr(found, name)[0, 1:].flatten(1).any(1).all()


def test_padding_on_the_left_changes_nothing(model: TemporalModel) -> None:
    request_ms = NOW_MS + 20 * DAY_MS
    bare, padded = (
        reading(model, one_request(model, 4, request_ms, padding=padding)) for padding in (0, 4)
    )
    for field in fields(RequestStates):
        one, other = getattr(bare, field.name), getattr(padded, field.name)
        if field.name in OF_EVENTS:
            assert not other[..., :4].any()
            other = other[..., 4:]
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(
        scores(model, one_request(model, 4, request_ms)),
        scores(model, one_request(model, 4, request_ms, padding=4)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_request_before_the_newest_event_is_as_at_it(model: TemporalModel) -> None:
    """Only for the newest: the events before it lie at other distances."""
    newest_ms = int(history(1)[2][0, -1])
    at_event = state(model, one_request(model, 1, newest_ms))
    before = state(model, one_request(model, 1, newest_ms - 5 * DAY_MS))
    after = state(model, one_request(model, 1, newest_ms + 5 * DAY_MS))
    torch.testing.assert_close(before, at_event)
    assert (after - at_event).abs().max() > 1e-3


def test_what_a_request_looks_for_depends_on_how_long_ago_the_newest_event_was(
    model: TemporalModel,
) -> None:
    """Also where attention itself does not see time."""
    blind = copy.deepcopy(model)
    torch.nn.init.zeros_(blind.attention_gaps.weight)
    soon = state(blind, one_request(blind, 3, NOW_MS + 4 * DAY_MS))
    late = state(blind, one_request(blind, 3, NOW_MS + 40 * DAY_MS))
    assert (late - soon).abs().max() > 1e-3


def test_no_layer_looks_further_back_than_the_history(model: TemporalModel) -> None:
    biases = model.biases(10, torch.tensor([8, 9]))
    of_requests = (biases.request, biases.session, biases.content)
    seen = [bias[0, -1] > LOWEST / 2 for bias in biases.events]
    seen += [bias[-1, 0] > LOWEST / 2 for bias in of_requests]
    assert len(seen) == 5
    assert all(one.tolist() == [False] * 2 + [True] * 8 for one in seen)
    for bias in of_requests:
        assert (bias[0, 0] > LOWEST / 2).tolist() == [False] + [True] * 8 + [False]


def test_only_the_newest_events_have_companions(shape: Architecture) -> None:
    model = every_part(replace(shape, history=NEWEST + 6))
    found = reading(model, one_request(model, NEWEST + 5, NOW_MS + 40 * DAY_MS))
    assert not found.session_weights[0, 0, :5].any()
    assert (found.session_weights[0, 0, 5:] > 0).all()
    for weights in (found.content_weights, found.collaborative_weights):
        assert (weights[0, 0] > 0).all()


def test_an_empty_history_has_a_state_of_its_own(model: TemporalModel) -> None:
    empty = state(model, one_request(model, 0, NOW_MS, padding=3))
    later = state(model, one_request(model, 0, NOW_MS + DAY_MS, padding=1))
    assert empty.isfinite().all()
    torch.testing.assert_close(empty, later)


def test_no_history_is_the_same_before_a_stretch_and_with_nothing_to_read(
    model: TemporalModel,
) -> None:
    asked = segment(model)
    nothing = torch.zeros(1, 1, dtype=torch.long)
    bare = Requests(
        nothing,
        nothing,
        nothing,
        nothing,
        asked.request_times_ms[:, :1],
        asked.user_features[:, :1],
    )
    torch.testing.assert_close(scores(model, bare)[0], scores(model, asked)[0])


def test_a_timeless_model_answers_the_same_whenever_things_happened(shape: Architecture) -> None:
    for time in (True, False):
        model = every_part(replace(shape, time=time))
        asked = segment(model)
        faster = asked.times_ms[:, :1] + (asked.times_ms - asked.times_ms[:, :1]) // 9
        other = replace(asked, times_ms=faster, request_times_ms=asked.request_times_ms + DAY_MS)
        same = torch.equal(scores(model, asked), scores(model, other))
        assert same is not time


def test_a_model_without_decay_sees_no_features_and_no_trends(shape: Architecture) -> None:
    for decay in (True, False):
        model = every_part(replace(shape, decay=decay))
        asked = segment(model)
        other = replace(asked, user_features=asked.user_features + 1)
        assert torch.equal(state(model, asked), state(model, other)) is not decay
        places, trends = torch.arange(11), torch.rand(11, shape.trends, shape.items)
        with torch.no_grad():
            plain = score_requests(model, ScoredRequests(asked, places, 0 * trends))
            lifted = score_requests(model, ScoredRequests(asked, places, trends))
        assert torch.equal(plain, lifted) is not decay


def test_items_of_a_model_without_identity_are_what_is_written_of_them(
    shape: Architecture,
) -> None:
    model = every_part(replace(shape, identity=False))
    assert model.text is not None
    assert model.text_bias is not None
    with torch.no_grad():
        found, bias = model.all_items(), model.text_bias(model.texts)[:, 0]
        torch.testing.assert_close(found.vectors, model.text(model.texts))
    there = model.recommendable
    torch.testing.assert_close(found.bias[there], bias[there])
    assert torch.equal(found.known, model.learned), "it still has been counted"


def test_only_learned_items_have_an_identity(model: TemporalModel) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.items.weight.add_(1)
        other.item_bias.add_(1)
    before, after = model.all_items(), other.all_items()
    changed = (before.vectors != after.vectors).any(1)
    assert torch.equal(changed, model.learned)
    assert 0 < int(changed.sum()) < len(changed)
    assert torch.equal(before.bias != after.bias, model.learned & model.recommendable)


def test_what_is_not_recommendable_has_the_lowest_bias(model: TemporalModel) -> None:
    other = copy.deepcopy(model)
    other.recommendable[[7, 9]] = False
    lowest = other.all_items().bias <= LOWEST
    assert lowest.nonzero()[:, 0].tolist() == [0, 1, 7, 9]


def test_an_item_is_lifted_by_what_it_is_like(model: TemporalModel) -> None:
    """The product of descriptions, scaled, times the weight of the past item."""
    weights, items = torch.tensor([[[0.5, 2.0]]]), torch.tensor([[5, 9]])
    with torch.no_grad():
        found = model.content_profile(weights, items)[0, 0] @ model.described.T
    scaled = model.described * model.alike_scales
    expected = 0.5 * scaled[5] @ model.described.T + 2 * scaled[9] @ model.described.T
    torch.testing.assert_close(found, expected)


def test_an_item_is_lifted_by_who_else_took_it() -> None:
    factors = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    found = collaborative_scores(torch.tensor([[[0.5, 2.0]]]), torch.tensor([[1, 2]]), factors)
    assert found.tolist() == [[[0.0, 0.5, 2.0, 2.5]]]


def test_companions_are_a_row_over_all_items() -> None:
    neighbours = torch.tensor([[0, 0], [2, 3], [3, 1]], dtype=torch.int32)
    weights = torch.tensor([[0.0, 0.0], [0.5, 0.25], [0.75, 1.0]])
    found = cooccurrence_rows(torch.tensor([[1, 2, 0]]), neighbours, weights, 4)
    assert found.tolist() == [[[0, 0, 0.5, 0.25], [0, 1.0, 0, 0.75], [0, 0, 0, 0]]]


def test_gap_buckets_are_by_the_logarithm_and_never_is_the_last() -> None:
    gaps = torch.tensor([-5, 0, 1000, 3000, 7000, 3_600_000, NOW_MS])
    assert gap_buckets(gaps).tolist() == [0, 0, 2, 4, 6, 23, GAPS - 1]


@pytest.mark.parametrize("part", ["alike", "related", "neighbours", "text"])
def test_a_model_without_a_part_answers(shape: Architecture, part: str) -> None:
    model = every_part(Architecture(**{**vars(shape), part: 0}))
    assert scores(model, segment(model)).isfinite().all()
