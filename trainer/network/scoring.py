"""Scores of the requests of a batch, the loss that trains them, and the ranks that judge them.

B stretches, P requests of each, M requests in all, K targets, L history, N items, T trends,
S shares of the people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import chain

import torch
from torch import Tensor

from trainer.examples.requests import Batch, Companions, Requests
from trainer.network.ensemble import Model
from trainer.network.layers import LOWEST
from trainer.network.model import Reading, TemporalModel, companions, related_scores


def batch_scores(
    model: Model,
    batch: Batch,
    shown: Shown | None = None,
    identity_dropout: float = 0.0,
) -> Tensor:
    """Every item's score for each request, with trends, forbidden items lowest: float[M, N].

    Args:
        shown: what the batch's people are shown of what others take together; default: what the
            version takes with it.
    """
    scores = scores_at(model, batch.asked, batch.places, batch.trends, shown, identity_dropout)
    return scores.masked_fill(batch.forbidden, LOWEST)


def scores_at(
    model: Model,
    asked: Requests,
    places: Tensor,
    trends: Tensor,
    shown: Shown | None = None,
    identity_dropout: float = 0.0,
) -> Tensor:
    """Every item's score for some of the requests, float[M, N]: the mean of the members'.

    Args:
        places: int64[M], where in the flattened requests [B * P] they are.
        trends: float32[M, T, N], as of each.
    """
    parts = (
        parts_at(member, asked, places, trends, shown, identity_dropout).values()
        for member in model.members
    )
    return reduce(torch.add, chain.from_iterable(parts)) / len(model.members)


def parts_at(
    model: TemporalModel,
    asked: Requests,
    places: Tensor,
    trends: Tensor,
    shown: Shown | None = None,
    identity_dropout: float = 0.0,
) -> dict[str, Tensor]:
    """What every item's score is the sum of, float[M, N] each, of the `PARTS` that the model has.

    Args: as `scores_at`.
    """
    items = model.all_items(identity_dropout)
    reading = model.read(asked, model.biases(asked.items.shape[1], asked.newest), items.vectors)
    taste = reading.states.flatten(0, 1)[places] @ items.vectors.T
    found = {"taste": taste, "prior": items.bias.expand_as(taste)}
    if model.architecture.alike:
        liked = model.liked(reading.alike, asked.items).flatten(0, 1)[places]
        found["alike"] = liked @ model.described.T
    counted = _counted(model, reading, asked.items, shown or own_counts(model, asked))
    for name, part in counted.items():
        # An item that must do with its text has not been counted either.
        found[name] = part.flatten(0, 1)[places] * items.known
    if model.architecture.decay:
        weights = reading.trend_weights.flatten(0, 1)[places]
        found["trends"] = trend_scores(weights, trends, items.known)
    return found


def trend_scores(weights: Tensor, trends: Tensor, known: Tensor) -> Tensor:
    """What every item gains by live trends, float[M, N].

    Args:
        weights: float[M, 2 * T], for known items and for others.
        trends: float[M, T, N].
        known: bool[N].
    """
    both = weights.view(len(weights), 2, -1) @ trends
    return torch.where(known, both[:, 0], both[:, 1])


def _counted(
    model: TemporalModel, reading: Reading, items: Tensor, shown: Shown
) -> dict[str, Tensor]:
    """What every item gains by what was taken with the past ones, part by part: float[B, P, N]."""
    size, found = model.architecture, {}
    if size.neighbours:
        found["companions"] = reading.near @ shown.companions(items, size.items)
    if size.related:
        found["related"] = related_scores(reading.related, items, shown.factors())
    return found


@dataclass(frozen=True)
class Shown:
    """What a batch's people are shown of what others take together.

    Attributes:
        known: S of them.
        shares: int64[B], which of them each stretch is shown.
    """

    known: Companions
    shares: Tensor

    def companions(self, items: Tensor, count: int) -> Tensor:
        """Rows over all items of the companions of int64[B, L] items, float[B, L, count]."""
        places = self.shares[:, None] * count + items
        neighbours, weights = self.known.neighbours, self.known.weights
        return companions(places, neighbours.flatten(0, 1), weights.flatten(0, 1), count)

    def factors(self) -> Tensor:
        """float[B, N, C]."""
        return self.known.factors[self.shares]


def own_counts(model: TemporalModel, asked: Requests) -> Shown:
    """What the version takes with it, for everyone."""
    known = Companions(model.neighbours[None], model.neighbour_weights[None], model.factors[None])
    return Shown(known, torch.zeros_like(asked.items[:, 0]))
