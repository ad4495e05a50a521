"""Scores of requests: the sum of parts, of one model or of an ensemble's members averaged.

B histories, P requests of each, M requests in all, L history, N items, T trends, S folds of users.
"""

from dataclasses import dataclass
from functools import reduce
from itertools import chain

import torch
from torch import Tensor

from trainer.examples.batches import Batch, Requests, ScoredRequests
from trainer.examples.cooccurrence import CooccurrenceTables
from trainer.network.layers import LOWEST
from trainer.network.model import (
    Model,
    RequestStates,
    TemporalModel,
    collaborative_scores,
    cooccurrence_rows,
)


@dataclass(frozen=True)
class VisibleCooccurrence:
    """The co-occurrence tables that each history of a batch may be scored with.

    Attributes:
        tables: S of them, one a fold.
        folds: int64[B], the table of each history.
    """

    tables: CooccurrenceTables
    folds: Tensor

    def rows(self, items: Tensor, count: int) -> Tensor:
        """The neighbours of int64[B, L] items as rows over all items, float[B, L, count]."""
        places = self.folds[:, None] * count + items
        neighbours, weights = self.tables.neighbours, self.tables.weights
        return cooccurrence_rows(places, neighbours.flatten(0, 1), weights.flatten(0, 1), count)

    def factors(self) -> Tensor:
        """float[B, N, C]."""
        return self.tables.factors[self.folds]


def batch_scores(
    model: Model,
    batch: Batch,
    visible: VisibleCooccurrence | None = None,
    identity_dropout: float = 0.0,
) -> Tensor:
    """Every item's score for each request of a batch, excluded items lowest: float[M, N].

    Args:
        visible: default: the tables that the model holds.
    """
    scores = score_requests(model, batch.scored_requests, visible, identity_dropout)
    return scores.masked_fill(batch.excluded, LOWEST)


def score_requests(
    model: Model,
    scored: ScoredRequests,
    visible: VisibleCooccurrence | None = None,
    identity_dropout: float = 0.0,
) -> Tensor:
    """Every item's score for the chosen requests, float[M, N]: the mean over the members.

    Args: as `batch_scores`.
    """
    parts = (
        score_parts(member, scored, visible, identity_dropout).values() for member in model.members
    )
    return reduce(torch.add, chain.from_iterable(parts)) / len(model.members)


def score_parts(
    model: TemporalModel,
    scored: ScoredRequests,
    visible: VisibleCooccurrence | None = None,
    identity_dropout: float = 0.0,
) -> dict[str, Tensor]:
    """The summands of every item's score, float[M, N] each, of the `PARTS` that the model has.

    Args: as `batch_scores`.
    """
    requests, positions = scored.requests, scored.positions
    items = model.all_items(identity_dropout)
    biases = model.biases(requests.items.shape[1], requests.newest)
    states = model.encode(requests, biases, items.vectors)
    taste = states.states.flatten(0, 1)[positions] @ items.vectors.T
    parts = {"taste": taste, "prior": items.bias.expand_as(taste)}
    if model.architecture.alike:
        profile = model.content_profile(states.content_weights, requests.items)
        parts["content"] = profile.flatten(0, 1)[positions] @ model.described.T
    visible = visible or model_cooccurrence(model, requests)
    for name, part in _cooccurrence_parts(model, states, requests.items, visible).items():
        # An item that must do with its text has not been counted either.
        parts[name] = part.flatten(0, 1)[positions] * items.known
    if model.architecture.decay:
        weights = states.trend_weights.flatten(0, 1)[positions]
        parts["trends"] = trend_scores(weights, scored.trends, items.known)
    return parts


def trend_scores(weights: Tensor, trends: Tensor, known: Tensor) -> Tensor:
    """What every item gains by live trends, float[M, N].

    Args:
        weights: float[M, 2 * T], for known items and for others.
        trends: float[M, T, N].
        known: bool[N].
    """
    both = weights.view(len(weights), 2, -1) @ trends
    return torch.where(known, both[:, 0], both[:, 1])


def _cooccurrence_parts(
    model: TemporalModel, states: RequestStates, items: Tensor, visible: VisibleCooccurrence
) -> dict[str, Tensor]:
    """What every item gains by co-occurrence with the past ones, part by part: float[B, P, N]."""
    size, parts = model.architecture, {}
    if size.neighbours:
        parts["cooccurrence"] = states.session_weights @ visible.rows(items, size.items)
    if size.related:
        weights = states.collaborative_weights
        parts["collaborative"] = collaborative_scores(weights, items, visible.factors())
    return parts


def model_cooccurrence(model: TemporalModel, requests: Requests) -> VisibleCooccurrence:
    """The tables that the model holds, for every history."""
    tables = CooccurrenceTables(
        model.neighbours[None], model.neighbour_weights[None], model.factors[None]
    )
    return VisibleCooccurrence(tables, torch.zeros_like(requests.items[:, 0]))


def rank_targets(scores: Tensor, rows: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
    """How many items stand before each target, an equal score counting half: float[K].

    A target whose score is no number, or minus infinity, is missed: its rank is infinite. So a
    training that diverged is never the best one.

    Args:
        scores: float[M, N].
        rows: int64[K], which of the M requests each target belongs to.
        targets: int64[K].
        hidden: bool[M, N], what stands before no target: what was taken at the same instant.
    """
    own = scores[rows, targets][:, None]
    others = scores.masked_fill(hidden, -torch.inf)[rows]
    ranks = (others > own).sum(1) + (others == own).sum(1) / 2
    own = own[:, 0]
    return ranks.masked_fill(own.isnan() | own.isneginf(), torch.inf)
