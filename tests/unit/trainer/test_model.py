"""The network: time, padding, and one position when serving as all of them in training."""

from __future__ import annotations

import copy

import torch

from trainer.model import GAPS, LOWEST, Requests, TemporalModel, gap_buckets

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000


def history(length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    items = torch.randint(2, 130, (1, length), generator=random)
    types = torch.randint(1, 3, (1, length), generator=random)
    gaps = torch.randint(0, DAY_MS, (1, length), generator=random)
    return items, types, NOW_MS + gaps.cumsum(1)


def state(model: TemporalModel, asked: Requests) -> torch.Tensor:
    biases = model.biases(asked.items.shape[1], asked.request_times_ms.shape[1])
    with torch.no_grad():
        return model.states(asked, biases, model.item_table())[0]


def one_request(model: TemporalModel, length: int, request_ms: int, padding: int = 0) -> Requests:
    items, types, times = history(length)
    pad = torch.zeros(1, padding, dtype=torch.long)
    return Requests(
        torch.cat([pad, items], 1),
        torch.cat([pad, types], 1),
        torch.cat([pad, times], 1),
        torch.tensor([[request_ms]]),
        torch.ones(1, 1, model.architecture.user_features),
    )


def test_a_request_among_many_is_as_alone(model: TemporalModel) -> None:
    """Training reads a stretch at once; serving reads the events before one request."""
    items, types, times = history(10)
    requests = times[:, 4:] + 5000
    features = torch.rand(1, 6, model.architecture.user_features)
    together = state(model, Requests(items, types, times, requests, features))
    for at in range(4):
        upto = 5 + at
        alone = Requests(
            items[:, :upto],
            types[:, :upto],
            times[:, :upto],
            requests[:, at : at + 1],
            features[:, at : at + 1],
        )
        torch.testing.assert_close(state(model, alone)[0, 0], together[0, at])


def test_padding_on_the_left_changes_nothing(model: TemporalModel) -> None:
    request_ms = NOW_MS + 20 * DAY_MS
    bare = state(model, one_request(model, 4, request_ms))
    padded = state(model, one_request(model, 4, request_ms, padding=4))
    torch.testing.assert_close(bare, padded)


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
    biases = model.biases(length=10, requests=2)
    seen = [bias[0, -1] > LOWEST for bias in biases.events] + [biases.request[-1, 0] > LOWEST]
    assert len(seen) == 3
    assert all(one.tolist() == [False] * 2 + [True] * 8 for one in seen)
    assert (biases.request[0, 0] > LOWEST).tolist() == [False] + [True] * 8 + [False]


def test_an_empty_history_has_a_state_of_its_own(model: TemporalModel) -> None:
    empty = state(model, one_request(model, 0, NOW_MS, padding=3))
    later = state(model, one_request(model, 0, NOW_MS + DAY_MS, padding=1))
    assert empty.isfinite().all()
    torch.testing.assert_close(empty, later)


def test_gap_buckets_are_by_the_logarithm_and_never_is_the_last() -> None:
    gaps = torch.tensor([-5, 0, 1000, 3000, 7000, 3_600_000, NOW_MS])
    assert gap_buckets(gaps).tolist() == [0, 0, 2, 4, 6, 23, GAPS - 1]
