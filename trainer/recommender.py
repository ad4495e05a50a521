"""What is exported: `temporal_llm` with the inputs and outputs of `features.inputs`.

B batch, L history, X excluded items, C candidates, K top items, N items, T trends, D width,
S similarity width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from features.inputs import TOP_ITEMS
from features.vocabulary import FIRST_ITEM, PADDING
from trainer.model import LOWEST, Biases, Requests, TemporalModel

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

# An item is explained by its neighbour among the past items, as long as the model looked there:
# what counts is attention * exp(SHARPNESS * cosine). So many directions tell items apart.
SHARPNESS = 5.0
SIMILARITY_WIDTH = 15


class Recommender(nn.Module):
    """One request a person: the top items, candidates, explanations and trend weights."""

    event_biases: Tensor
    request_bias: Tensor
    item_bias: Tensor
    table: Tensor
    similarity: Tensor
    wanted_similarity: Tensor

    def __init__(self, model: TemporalModel) -> None:
        super().__init__()
        self.model = model.eval()
        biases = model.biases(model.architecture.history, requests=1)
        self.register_buffer("event_biases", torch.stack(biases.events).detach())
        self.register_buffer("request_bias", biases.request.detach())
        self.register_buffer("item_bias", _recommendable(model.item_bias.detach()))
        # The language model has had its say: the graph holds what came of it.
        self.register_buffer("table", model.item_table().detach())
        near = similarity(self.table)
        self.register_buffer("similarity", near)
        self.register_buffer("wanted_similarity", nn.functional.pad(near, (0, 1), value=1.0))

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
            request_time_ms,
            user_features[:, None, :],
        )
        states, attention = self.model.states(asked, self._biases(items.shape[1]), self.table)
        state = states[:, 0]
        scores = state @ self.table.T + self.item_bias
        top_scores, top_items = self._top(scores, excluded_items)
        wanted = torch.cat([top_items, candidate_items], 1)
        explained_by = self._explained_by(wanted, items, attention[:, 0].mean(1))
        # Padding stands on the left: a history without a last event has none.
        unread = item_indices.shape[1] - items.shape[1]
        explained_by = torch.where(items[:, -1:] == PADDING, -1, explained_by + unread)
        return (
            top_items,
            top_scores,
            explained_by[:, :TOP_ITEMS],
            scores.gather(1, candidate_items),
            explained_by[:, TOP_ITEMS:],
            self.model.trend_weights(state),
        )

    def _biases(self, length: int) -> Biases:
        events = self.event_biases[:, :, :length, :length]
        return Biases(list(events.unbind(0)), self.request_bias[:, :, -length:])

    def _top(self, scores: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """The K best scores and items of each row; padding where there are no more."""
        lowest = torch.full_like(excluded, LOWEST, dtype=scores.dtype)
        scores = scores.scatter(1, excluded, lowest)
        missing = TOP_ITEMS - self.model.architecture.items
        if missing > 0:
            scores = nn.functional.pad(scores, (0, missing), value=LOWEST)
        top_scores, top_items = scores.topk(TOP_ITEMS, dim=1)
        return top_scores, torch.where(top_scores > LOWEST / 2, top_items, PADDING)

    def _explained_by(self, wanted: Tensor, items: Tensor, attention: Tensor) -> Tensor:
        """The column of the event that explains each wanted item best, int64[B, wanted]."""
        looked_at = torch.where(items == PADDING, LOWEST, torch.log(attention + 1e-12))
        # One product for both parts of the sum: the last direction of what is wanted is 1.
        past = torch.cat([self.similarity[items], looked_at[:, :, None]], 2)
        near = self.wanted_similarity[wanted] @ past.transpose(1, 2)
        return near.argmax(2)


def similarity(items: Tensor) -> Tensor:
    """Vectors whose products are about `SHARPNESS` times the items' cosines: float[N, S].

    The first principal directions of the normalised table (Eckart, Young, 1936): a quarter of the
    width tells neighbours apart, and explanations stay cheap.
    """
    directions = nn.functional.normalize(items, dim=1)
    width = min(SIMILARITY_WIDTH, *directions.shape)
    principal = torch.linalg.svd(directions, full_matrices=False).Vh[:width]
    reduced = nn.functional.normalize(directions @ principal.T, dim=1)
    return reduced * math.sqrt(SHARPNESS)


def _recommendable(item_bias: Tensor) -> Tensor:
    """The biases with padding and the unknown item at the lowest."""
    return torch.cat([torch.full((FIRST_ITEM,), LOWEST), item_bias[FIRST_ITEM:]])
