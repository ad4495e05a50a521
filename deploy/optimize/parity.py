"""Parity: how alike a variant and the graph that it stands for answer. B requests, K top items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.optimize.settings import OptimizeSettings
from features.arrays import Float64Array, Int64Array
from trainer.evaluation import EvalRequests
from trainer.export import Arrays, answers, open_session
from trainer.export.onnx import Array
from trainer.metrics import CUTOFF, ndcg, ranks_in_lists

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
    overlaps, furthest, gains, graph_gains = [], 0.0, [], []
    for feeds, targets in requests.batches():
        expected, actual = graph(feeds), variant(feeds)
        overlaps.append(overlap(expected["top_items"], actual["top_items"]))
        furthest = max(furthest, _max_difference(expected, actual))
        gains.append(ndcg(ranks_in_lists(actual["top_items"], targets)))
        graph_gains.append(ndcg(ranks_in_lists(expected["top_items"], targets)))
    return ParityReport(
        requests=len(requests.targets),
        overlap=float(np.concatenate(overlaps).mean()),
        furthest=furthest,
        ndcg=float(np.concatenate(gains).mean()),
        graph_ndcg=float(np.concatenate(graph_gains).mean()),
    )


def overlap(expected: Int64Array, actual: Int64Array) -> Float64Array:
    """The fraction of the best 10 that two lists have in common, float64[B].

    >>> overlap(np.arange(20)[None], np.arange(2, 22)[None])
    array([0.8])
    """
    same = expected[:, :CUTOFF, None] == actual[:, None, :CUTOFF]
    shared: Float64Array = same.any(2).mean(1)
    return shared


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
    same = expected["top_items"][:, :CUTOFF, None] == actual["top_items"][:, None, :CUTOFF]
    apart = expected["top_scores"][:, :CUTOFF, None] - actual["top_scores"][:, None, :CUTOFF]
    differences: Array = np.abs(apart[same])
    return differences
