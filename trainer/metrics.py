"""Ranks to figures: how high the right items stood, with intervals. M events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.arrays import Int64Array
from trainer.examples.requests import Batch

TOP = 10
DEEP = 50
_SAMPLES = 1000
_SEED = 0

Floats = npt.NDArray[np.float64]


def target_ranks(scores: Tensor, batch: Batch) -> Tensor:
    """How many items stand before each target, an equal score counting half: float[K].

    What else was taken at the same instant does not stand before it. A score that is no number is
    missed: a training that diverged is never the best one.

    Args:
        scores: float[M, N].
    """
    own = scores[batch.rows, batch.targets][:, None]
    others = scores.masked_fill(batch.tied, -torch.inf)[batch.rows]
    ranks = (others > own).sum(1) + (others == own).sum(1) / 2
    return ranks.masked_fill(own[:, 0].isnan(), torch.inf)


def ndcg(ranks: Tensor) -> Tensor:
    """The gain of a single right item at each rank, 0 from place 11 on: float[M]."""
    return torch.where(ranks < TOP, 1 / torch.log2(ranks + 2), 0.0)


@dataclass(frozen=True)
class RankingMetrics:
    """Of so many events: how often the right item was among the best 10 and 50, and the gain."""

    events: int
    hr_at_10: float = 0.0
    ndcg_at_10: float = 0.0
    hr_at_50: float = 0.0


def figures(ranks: Floats) -> RankingMetrics:
    """Figures of the ranks of the right items, float[M], infinite for a missed one.

    >>> figures(np.array([0.0, 30.0]))
    RankingMetrics(events=2, hr_at_10=0.5, ndcg_at_10=0.5, hr_at_50=1.0)
    """
    if not len(ranks):
        return RankingMetrics(0)
    return RankingMetrics(
        events=len(ranks),
        hr_at_10=float((ranks < TOP).mean()),
        ndcg_at_10=float(gains(ranks).mean()),
        hr_at_50=float((ranks < DEEP).mean()),
    )


def gains(ranks: Floats) -> Floats:
    """NDCG@10 of each event, float[M]."""
    found: Floats = ndcg(torch.from_numpy(ranks)).numpy()
    return found


def interval(values: Floats, people: Any) -> list[float]:
    """95 % bootstrap interval of the mean: people are drawn, with all their events.

    Args:
        values: float[M].
        people: [M], whose each is, in any numbering.
    """
    who, draws = drawn_people(people)
    sums, counts = np.bincount(who, values), np.bincount(who)
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return [float(edge) for edge in np.percentile(means, (2.5, 97.5))]


def drawn_people(people: Any) -> tuple[Int64Array, Int64Array]:
    """People drawn as often as there are people, the same draws every time.

    Args:
        people: [M], whose each event is, in any numbering; at least one.

    Returns:
        int64[M], the same numbered from 0; int64[draws, number of people].
    """
    _, who = np.unique(people, return_inverse=True)
    count = int(who.max()) + 1
    return who, np.random.default_rng(_SEED).integers(0, count, (_SAMPLES, count))
