"""Parity: how alike a variant and the graph that it stands for answer. B requests, K top items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.optimize.requests import EvalRequests
from deploy.optimize.settings import OptimizeSettings
from features.arrays import Float64Array, Int64Array
from trainer.export.onnx import answers, open_session
from trainer.export.parity import Array, Arrays

BEST = 10
InferFunction = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class ParityReport:
    """A variant beside the graph on the same requests. Field names are those of the JSON files.

    Attributes:
        overlap: of the best 10, on average; 1: the same items.
        furthest: the largest difference of the score of an item that both have among the best.
        ndcg, graph_ndcg: NDCG@10 on held-out events, without live trends.
    """

    requests: int
    overlap: float
    furthest: float
    ndcg: float
    graph_ndcg: float

    @property
    def ndcg_ratio(self) -> float:
        """The variant's NDCG@10 as a fraction of the graph's."""
        return self.ndcg / self.graph_ndcg if self.graph_ndcg else 1.0

    def refusals(self, settings: OptimizeSettings) -> Iterator[str]:
        """Why the variant may not serve anyone, a line each."""
        if not np.isfinite(self.furthest):
            yield "scores: some are no finite numbers"
        if not self.overlap >= settings.min_overlap:
            yield f"best 10: {self.overlap:.4f} shared with the graph, below {settings.min_overlap}"
        if not self.ndcg_ratio >= 1 - settings.max_loss:
            yield (
                f"NDCG@10: {self.ndcg:.4f} instead of {self.graph_ndcg:.4f}, a loss above "
                f"{settings.max_loss:.1%}"
            )


def load_graph(graph: Path, threads: int = 1) -> InferFunction:
    """A graph in ONNX Runtime, on the CPU.

    Raises:
        ExportError: it cannot be read.
    """
    session = open_session(graph, threads)
    return lambda feeds: answers(session, feeds)


def measure_parity(
    graph: InferFunction, variant: InferFunction, requests: EvalRequests
) -> ParityReport:
    """Send both the same requests, batch by batch."""
    overlaps, furthest, ndcg, graph_ndcg = [], 0.0, [], []
    for feeds, targets in requests.batches():
        expected, actual = graph(feeds), variant(feeds)
        overlaps.append(overlap(expected["top_items"], actual["top_items"]))
        furthest = max(furthest, _max_difference(expected, actual))
        ndcg.append(ndcg_at_10(actual["top_items"], targets))
        graph_ndcg.append(ndcg_at_10(expected["top_items"], targets))
    return ParityReport(
        requests=len(requests.targets),
        overlap=float(np.concatenate(overlaps).mean()),
        furthest=furthest,
        ndcg=float(np.concatenate(ndcg).mean()),
        graph_ndcg=float(np.concatenate(graph_ndcg).mean()),
    )


def overlap(expected: Int64Array, actual: Int64Array) -> Float64Array:
    """The fraction of the best 10 that two lists have in common, float64[B].

    >>> overlap(np.arange(20)[None], np.arange(2, 22)[None])
    array([0.8])
    """
    same = expected[:, :BEST, None] == actual[:, None, :BEST]
    shared: Float64Array = same.any(2).mean(1)
    return shared


def ndcg_at_10(top_items: Int64Array, targets: Int64Array) -> Float64Array:
    """NDCG@10 of the one right item of each request, float64[B].

    >>> ndcg_at_10(np.array([[5, 6, 7], [5, 6, 7]]), np.array([6, 9])).round(3)
    array([0.631, 0.   ])
    """
    hits = top_items[:, :BEST] == targets[:, None]
    discounts = 1 / np.log2(np.arange(hits.shape[1]) + 2)
    gains: Float64Array = (hits * discounts).sum(1)
    return gains


def _max_difference(expected: Arrays, actual: Arrays) -> float:
    """The largest difference of a score; infinite where one is NaN or infinite."""
    differences = [
        _shared_item_differences(expected, actual),
        np.abs(expected["candidate_scores"] - actual["candidate_scores"]),
        np.abs(expected["trend_weights"] - actual["trend_weights"]),
    ]
    finite = all(np.isfinite(difference).all() for difference in differences)
    return max(float(each.max(initial=0)) for each in differences) if finite else float("inf")


def _shared_item_differences(expected: Arrays, actual: Arrays) -> Array:
    """Differences of the scores of items that both have among the best 10."""
    same = expected["top_items"][:, :BEST, None] == actual["top_items"][:, None, :BEST]
    apart = expected["top_scores"][:, :BEST, None] - actual["top_scores"][:, None, :BEST]
    differences: Array = np.abs(apart[same])
    return differences
