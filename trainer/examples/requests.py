"""What a network is asked, what it is trained on, and what people are known to take together.

B histories, P requests of each, L columns of a history, M requests in all, K targets, N items,
T trends, F user features, K neighbours of an item, C factors, S folds of users.
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
    def from_histories(
        cls,
        items: Tensor,
        types: Tensor,
        times_ms: Tensor,
        request_time_ms: Tensor,
        user_features: Tensor,
    ) -> Requests:
        """One request after the last column of each history, as the exported graph is asked.

        Args:
            items, types, times_ms: int64[B, L].
            request_time_ms: int64[B, 1].
            user_features: float32[B, F].
        """
        newest = torch.full_like(request_time_ms, items.shape[1] - 1)
        return cls(items, types, times_ms, newest, request_time_ms, user_features[:, None, :])


@dataclass(frozen=True)
class ScoredRequests:
    """The requests that every item is scored for.

    Attributes:
        requests: histories, and all requests made of each.
        positions: int64[M], the scored ones among the flattened requests [B * P].
        trends: float32[M, T, N], as of each scored request.
    """

    requests: Requests
    positions: Tensor
    trends: Tensor


@dataclass(frozen=True)
class Batch:
    """What a model is trained or judged on in one step.

    Attributes:
        requests: the histories, and a request for each tie group of the segments.
        users: int64[B], the first event of whose history each segment belongs to.
        positions: int64[M], where in the flattened requests [B * P] the requests are.
        rows: int64[K], which of the M requests each target belongs to.
        targets: int64[K], the item of each.
        events: int64[K], the event that each is.
        purchased: bool[K], whether the item was bought at that time.
        excluded: bool[M, N], items taken before, and what is no item.
        tied: bool[M, N], items of the request's tie group.
        trends: float32[M, T, N], as of each request.
    """

    requests: Requests
    users: Tensor
    positions: Tensor
    rows: Tensor
    targets: Tensor
    events: Tensor
    purchased: Tensor
    excluded: Tensor
    tied: Tensor
    trends: Tensor

    @property
    def scored(self) -> ScoredRequests:
        """The requests with a target."""
        return ScoredRequests(self.requests, self.positions, self.trends)


@dataclass(frozen=True)
class CooccurrenceTables:
    """What users take together, of all users or, with S first, of all but each fold of them.

    Attributes:
        neighbours: int32[..., N, K], the items most often taken in the same sessions.
        weights: float32[..., N, K], their cosines.
        factors: float32[..., N, C]; products are about the cosines of who took the items.
    """

    neighbours: Tensor
    weights: Tensor
    factors: Tensor

    def fold(self, number: int) -> CooccurrenceTables:
        """Those of all but one fold."""
        return CooccurrenceTables(
            self.neighbours[number], self.weights[number], self.factors[number]
        )
