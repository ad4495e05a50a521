"""Ranks to metrics, with intervals. Numpy only, and for whatever ranks: training, gate, benchmarks.

A rank is how many items stand before the right one, from 0 on; an equal score counts half, and a
missed item's is infinite. Each of M events has one right item.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.schema import Float64Array, Int64Array

CUTOFF = 10
DEEP_CUTOFF = 50
_SAMPLES = 1000
_SEED = 0


@dataclass(frozen=True)
class RankingMetrics:
    """Of so many events: how often the right item was among the best 10 and 50, and NDCG@10."""

    events: int
    hr_at_10: float = 0.0
    ndcg_at_10: float = 0.0
    hr_at_50: float = 0.0


def ranking_metrics(ranks: Float64Array) -> RankingMetrics:
    """The metrics of the ranks of the right items, float64[M].

    >>> ranking_metrics(np.array([0.0, 30.0]))
    RankingMetrics(events=2, hr_at_10=0.5, ndcg_at_10=0.5, hr_at_50=1.0)
    """
    if not len(ranks):
        return RankingMetrics(0)
    return RankingMetrics(
        events=len(ranks),
        hr_at_10=float((ranks < CUTOFF).mean()),
        ndcg_at_10=float(ndcg(ranks).mean()),
        hr_at_50=float((ranks < DEEP_CUTOFF).mean()),
    )


def ndcg(ranks: Float64Array) -> Float64Array:
    """NDCG@10 of each event, float64[M]: 0 from rank 10 on.

    K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002; with one
    right item the ideal gain is 1.

    >>> ndcg(np.array([0.0, 1.0, 10.0, np.inf])).round(3)
    array([1.   , 0.631, 0.   , 0.   ])
    """
    gains: Float64Array = np.where(ranks < CUTOFF, dcg_discount(ranks), 0.0)
    return gains


def dcg_discount(ranks: Any) -> Any:
    """What an item at a rank, or at each of an array of ranks, counts in DCG: 1 in the first place.

    >>> float(dcg_discount(2))
    0.5
    """
    return 1 / np.log2(ranks + 2)


def ranks_in_lists(top_items: Int64Array, targets: Int64Array) -> Float64Array:
    """The place of each target in its list, float64[M]; infinite where it is not there.

    Args:
        top_items: int64[M, K], best first, an item once at most.
        targets: int64[M].

    >>> ranks_in_lists(np.array([[5, 6, 7], [5, 6, 7]]), np.array([6, 9]))
    array([ 1., inf])
    """
    hits = top_items == targets[:, None]
    ranks: Float64Array = np.where(hits.any(1), hits.argmax(1), np.inf)
    return ranks


def bootstrap_interval(values: Float64Array, people: Any) -> list[float]:
    """95 % interval of the mean, by bootstrap: people are drawn, with all their events.

    Args:
        values: float64[M].
        people: [M], whose each is, in any numbering.
    """
    who, draws = draw_people(people)
    sums, counts = np.bincount(who, values), np.bincount(who)
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return [float(edge) for edge in np.percentile(means, (2.5, 97.5))]


def draw_people(people: Any) -> tuple[Int64Array, Int64Array]:
    """People drawn as often as there are people, the same draws every time.

    Args:
        people: [M], whose each event is, in any numbering; at least one.

    Returns:
        int64[M], the same numbered from 0; int64[draws, number of people].
    """
    _, who = np.unique(people, return_inverse=True)
    count = int(who.max()) + 1
    return who, np.random.default_rng(_SEED).integers(0, count, (_SAMPLES, count))
