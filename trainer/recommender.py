"""What is exported: `temporal_llm` with the inputs and outputs of `features.inputs`.

B batch, L history, R newest events, X excluded items, C candidates, K top items, N items, T trends,
D width, A width of what items are alike by, W wanted items, S directions that explain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.inputs import TOP_ITEMS
from features.vocabulary import FIRST_ITEM, PADDING
from trainer.model import (
    LOWEST,
    NEWEST,
    Biases,
    Reading,
    Requests,
    TemporalModel,
    companions,
)

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

# So many principal directions stand for what an event adds to an item's score by the attention to
# it, by likeness and by who else took it: enough to tell which event adds most, at a tenth of the
# cost of all. What follows it in sessions is exact.
ATTENDED, ALIKE, RELATED = 8, 16, 8
# Of events that add the same the newest is named, whatever rounding says.
NEWER = 1e-5


class Recommender(nn.Module):
    """One request a person: the top items, candidates, explanations and trend weights."""

    event_biases: Tensor
    request_bias: Tensor
    near_bias: Tensor
    alike_bias: Tensor
    item_bias: Tensor
    table: Tensor
    kinds: Tensor
    liked: Tensor
    explaining: Tensor
    explained: Tensor
    weighed_by: Tensor
    newer: Tensor

    def __init__(self, model: TemporalModel) -> None:
        super().__init__()
        self.model = model.eval()
        history = model.architecture.history
        with torch.no_grad():
            biases = model.biases(history, torch.full((1,), history - 1))
            # The language model has had its say: the graph holds what came of it.
            items = model.all_items()
            self.register_buffer("event_biases", torch.stack(biases.events))
            self.register_buffer("request_bias", biases.request)
            self.register_buffer("near_bias", biases.near)
            self.register_buffer("alike_bias", biases.alike)
            self.register_buffer("item_bias", _recommendable(items.bias))
            self.register_buffer("table", items.vectors)
            # One product for what an item is, what it is like, and who takes it.
            self.register_buffer("kinds", torch.cat([model.described, model.factors], 1))
            scales = [model.alike_scales, torch.ones(model.architecture.related)]
            self.register_buffer("liked", self.kinds * torch.cat(scales))
            explaining, explained, weighed_by = explanations(model, items.vectors)
            self.register_buffer("explaining", explaining)
            self.register_buffer("explained", explained)
            self.register_buffer("weighed_by", weighed_by)
            self.register_buffer("newer", NEWER * torch.arange(history))

    def forward(
        self,
        item_indices: Tensor,
        event_types: Tensor,
        event_times_ms: Tensor,
        request_time_ms: Tensor,
        user_features: Tensor,
        candidate_items: Tensor,
        excluded_items: Tensor,
    ) -> Outputs:
        """Outputs in the order of `features.inputs.model_outputs`."""
        # What is older than the model's history is not read.
        newest = self.model.architecture.history
        items = item_indices[:, -newest:]
        asked = Requests(
            items,
            event_types[:, -newest:],
            event_times_ms[:, -newest:],
            torch.full_like(request_time_ms, items.shape[1] - 1),
            request_time_ms,
            user_features[:, None, :],
        )
        reading = self.model.read(asked, self._biases(items.shape[1]), self.table)
        followers = self._followers(items)
        scores = self._scores(reading, items, followers)
        top_scores, top_items = self._top(scores, excluded_items)
        wanted = torch.cat([top_items, candidate_items], 1)
        explained_by = self._explained_by(wanted, items, reading, followers)
        # Padding stands on the left: a history without a last event has none.
        unread = item_indices.shape[1] - items.shape[1]
        explained_by = torch.where(items[:, -1:] == PADDING, -1, explained_by + unread)
        return (
            top_items,
            top_scores,
            explained_by[:, :TOP_ITEMS],
            scores.gather(1, candidate_items),
            explained_by[:, TOP_ITEMS:],
            reading.trend_weights[:, 0] * float(self.model.architecture.decay),
        )

    def _biases(self, length: int) -> Biases:
        events = self.event_biases[:, :, :length, :length]
        return Biases(
            list(events.unbind(0)),
            self.request_bias[:, :, -length:],
            self.near_bias[:, :, -length:],
            self.alike_bias[:, :, -length:],
        )

    def _followers(self, items: Tensor) -> Tensor | None:
        """What is taken with each of the newest events, float[B, R, N]; None where not counted."""
        size, known = self.model.architecture, self.model
        if not size.neighbours:
            return None
        newest = items[:, -NEWEST:]
        return companions(newest, known.neighbours, known.neighbour_weights, size.items)

    def _scores(self, reading: Reading, items: Tensor, followers: Tensor | None) -> Tensor:
        """Every item's score without trends, float[B, N]."""
        scores = reading.states[:, 0] @ self.table.T + self.item_bias
        size = self.model.architecture
        if size.alike or size.related:
            alike = reading.alike @ self.liked[items, : size.alike]
            related = reading.related @ self.liked[items, size.alike :]
            scores = scores + torch.cat([alike, related], 2)[:, 0] @ self.kinds.T
        if followers is not None:
            scores = scores + (reading.near[:, :, -NEWEST:] @ followers)[:, 0]
        return scores

    def _top(self, scores: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """The K best scores and items of each row; padding where there are no more."""
        lowest = torch.full_like(excluded, LOWEST, dtype=scores.dtype)
        scores = scores.scatter(1, excluded, lowest)
        missing = TOP_ITEMS - self.model.architecture.items
        if missing > 0:
            scores = nn.functional.pad(scores, (0, missing), value=LOWEST)
        top_scores, top_items = scores.topk(TOP_ITEMS, dim=1)
        return top_scores, torch.where(top_scores > LOWEST / 2, top_items, PADDING)

    def _explained_by(
        self, wanted: Tensor, items: Tensor, reading: Reading, followers: Tensor | None
    ) -> Tensor:
        """The column of the event that explains each wanted item best, int64[B, W].

        It is the event without which the item would fall most beside the best K: what the event
        adds to the item, less what it adds to them on average, and less what the other events would
        add in its place, since weights are shares of a whole.
        """
        attention = reading.attention.mean(2)
        weights = torch.cat([attention, reading.alike, reading.related], 1).transpose(1, 2)
        past = beside_the_mean(self.explaining[items], weights @ self.weighed_by)
        added = self.explained[wanted] @ past.transpose(1, 2)
        if followers is not None:
            added = _with_newest(added, followed(wanted, reading, followers))
        newer = self.newer[-items.shape[1] :]
        beside = added[:, :TOP_ITEMS].mean(1)
        added = added + torch.where(items == PADDING, LOWEST, newer - beside)[:, None, :]
        return added.argmax(2)


def followed(wanted: Tensor, reading: Reading, followers: Tensor) -> Tensor:
    """What the newest events add by what is taken with them, float[B, W, R]."""
    columns = wanted[:, None, :].expand(-1, followers.shape[1], -1)
    weights = reading.near[:, 0, -NEWEST:, None]
    return beside_the_mean(followers.gather(2, columns), weights).transpose(1, 2)


def _with_newest(added: Tensor, newest: Tensor) -> Tensor:
    """The sum, of float[B, W, L] and float[B, W, R] for the last R columns."""
    return torch.cat([added[:, :, :-NEWEST], added[:, :, -NEWEST:] + newest], 2)


def beside_the_mean(values: Tensor, weights: Tensor) -> Tensor:
    """What each event adds, less what the others would in its place: float[B, L, S].

    Args:
        values: float[B, L, S], of each event.
        weights: float[B, L, S] or float[B, L, 1]; not below 0.
    """
    mean = (weights * values).sum(1, keepdim=True) / (weights.sum(1, keepdim=True) + 1e-9)
    return weights * (values - mean)


def explanations(model: TemporalModel, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What stands for the parts of a score that explain it.

    Returns:
        Two tables, float[N, S], whose products are about what a past item adds to a wanted one;
        float[3, S], 1 where a direction is weighed by attention, likeness, or who else took it.
    """
    size = model.architecture
    even = torch.ones(max(size.width, size.related))
    parts = [
        principal(vectors, even[: size.width], ATTENDED),
        principal(model.described, model.alike_scales, ALIKE),
        principal(model.factors, even[: size.related], RELATED),
    ]
    widths = torch.tensor([past.shape[1] for past, _ in parts])
    weighed_by = torch.eye(len(parts)).repeat_interleave(widths, 1)
    return (
        torch.cat([one[0] for one in parts], 1),
        torch.cat([one[1] for one in parts], 1),
        weighed_by,
    )


def principal(vectors: Tensor, scales: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Two narrow tables whose products are about those of `vectors * scales` and `vectors`.

    The directions of the largest eigenvalues, above or below 0 (Eckart, Young, 1936).

    Args:
        vectors: float[N, A].
        scales: float[A].

    Returns:
        float[N, width] each, less wide where there are fewer directions.
    """
    if not vectors.shape[1]:
        return vectors, vectors
    basis, inner = torch.linalg.qr(vectors)
    values, directions = torch.linalg.eigh((inner * scales) @ inner.T)
    largest = values.abs().argsort(descending=True)[:width]
    reduced = basis @ directions[:, largest]
    return reduced * values[largest], reduced


def _recommendable(item_bias: Tensor) -> Tensor:
    """The biases with padding and the unknown item at the lowest."""
    return torch.cat([torch.full((FIRST_ITEM,), LOWEST), item_bias[FIRST_ITEM:]])
