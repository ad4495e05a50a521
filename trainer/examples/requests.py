"""What a network is asked, what it is trained on, and what people are known to take together.

B histories, P requests of each, L columns of a history, M requests in all, K targets, N items,
T trends, F user features, J neighbours of an item, C factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Requests:
    """Histories, and the requests made of each. Padding stands where nothing happened.

    Attributes:
        items, types, times_ms: int64[B, L].
        newest: int64[B, P], the column of the newest event before each request; -1 for none.
        request_times_ms: int64[B, P].
        user_features: float32[B, P, F].
    """

    items: Tensor
    types: Tensor
    times_ms: Tensor
    newest: Tensor
    request_times_ms: Tensor
    user_features: Tensor

    @classmethod
    def after_all(
        cls,
        items: Tensor,
        types: Tensor,
        times_ms: Tensor,
        request_time_ms: Tensor,
        user_features: Tensor,
    ) -> Requests:
        """One request of each history, after its last column, as a graph is asked.

        Args:
            items, types, times_ms: int64[B, L].
            request_time_ms: int64[B, 1].
            user_features: float32[B, F].
        """
        newest = torch.full_like(request_time_ms, items.shape[1] - 1)
        return cls(items, types, times_ms, newest, request_time_ms, user_features[:, None, :])


@dataclass(frozen=True)
class Batch:
    """One step.

    Attributes:
        asked: the histories, and a request for each instant of the stretches.
        people: int64[B], the first event of whose history each stretch belongs to.
        places: int64[M], where in the flattened requests [B * P] the requests are.
        rows: int64[K], which of the M requests each target belongs to.
        targets: int64[K], the item of each.
        events: int64[K], the event that each is.
        bought: bool[K], whether the item was bought at that instant.
        forbidden: bool[M, N], items taken before, and what is no item.
        together: bool[M, N], items of the request's instant.
        trends: float32[M, T, N], as of each request.
    """

    asked: Requests
    people: Tensor
    places: Tensor
    rows: Tensor
    targets: Tensor
    events: Tensor
    bought: Tensor
    forbidden: Tensor
    together: Tensor
    trends: Tensor


@dataclass(frozen=True)
class Companions:
    """What is known of N items, of all people or, with S first, of all but each share of them.

    Attributes:
        neighbours: int32[..., N, K], the items most often taken in the same sessions.
        weights: float32[..., N, K], their cosines.
        factors: float32[..., N, C]; products are about the cosines of who took the items.
    """

    neighbours: Tensor
    weights: Tensor
    factors: Tensor

    def of(self, share: int) -> Companions:
        """Those of all but one share."""
        return Companions(self.neighbours[share], self.weights[share], self.factors[share])
