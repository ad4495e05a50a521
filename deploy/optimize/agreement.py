"""How like the graph another form answers. B requests, K top items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.optimize.questions import Questions
from deploy.optimize.settings import OptimizeSettings
from features.arrays import Int64Array
from trainer.export.onnx import answers, open_session
from trainer.export.parity import Array, Arrays
from trainer.metrics import Floats

BEST = 10
Answering = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Agreement:
    """A form beside the graph on the same requests.

    Attributes:
        overlap: of the best 10, on average; 1: the same items.
        furthest: the greatest difference of the score of an item that both have on top.
        ndcg, graph_ndcg: NDCG@10 on held-out events, without live trends.
    """

    requests: int
    overlap: float
    furthest: float
    ndcg: float
    graph_ndcg: float

    @property
    def kept(self) -> float:
        """The share of the graph's NDCG@10 that the form keeps."""
        return self.ndcg / self.graph_ndcg if self.graph_ndcg else 1.0

    def refusals(self, settings: OptimizeSettings) -> Iterator[str]:
        """Why it may not answer anyone, a line each."""
        if not np.isfinite(self.furthest):
            yield "scores: some are no finite numbers"
        if not self.overlap >= settings.min_overlap:
            yield f"best 10: {self.overlap:.4f} shared with the graph, below {settings.min_overlap}"
        if not self.kept >= 1 - settings.max_loss:
            yield (
                f"NDCG@10: {self.ndcg:.4f} instead of {self.graph_ndcg:.4f}, a loss above "
                f"{settings.max_loss:.1%}"
            )


def of_graph(graph: Path, threads: int = 1) -> Answering:
    """A graph in ONNX Runtime, on the CPU.

    Raises:
        ExportError: it cannot be read.
    """
    session = open_session(graph, threads)
    return lambda feeds: answers(session, feeds)


def agreement(graph: Answering, form: Answering, asked: Questions) -> Agreement:
    """Ask both the same, batch by batch."""
    overlaps, furthest, ndcg, graph_ndcg = [], 0.0, [], []
    for feeds, targets in asked.batches():
        expected, found = graph(feeds), form(feeds)
        overlaps.append(overlap(expected["top_items"], found["top_items"]))
        furthest = max(furthest, _furthest(expected, found))
        ndcg.append(gains(found["top_items"], targets))
        graph_ndcg.append(gains(expected["top_items"], targets))
    return Agreement(
        requests=len(asked.targets),
        overlap=float(np.concatenate(overlaps).mean()),
        furthest=furthest,
        ndcg=float(np.concatenate(ndcg).mean()),
        graph_ndcg=float(np.concatenate(graph_ndcg).mean()),
    )


def overlap(expected: Int64Array, found: Int64Array) -> Floats:
    """The share of the best 10 that two lists have in common, float64[B].

    >>> overlap(np.arange(20)[None], np.arange(2, 22)[None])
    array([0.8])
    """
    same = expected[:, :BEST, None] == found[:, None, :BEST]
    shared: Floats = same.any(2).mean(1)
    return shared


def gains(top_items: Int64Array, targets: Int64Array) -> Floats:
    """NDCG@10 of the one right item of each request, float64[B].

    >>> gains(np.array([[5, 6, 7], [5, 6, 7]]), np.array([6, 9])).round(3)
    array([0.631, 0.   ])
    """
    places = top_items[:, :BEST] == targets[:, None]
    discounts = 1 / np.log2(np.arange(places.shape[1]) + 2)
    found: Floats = (places * discounts).sum(1)
    return found


def _furthest(expected: Arrays, found: Arrays) -> float:
    """The greatest difference of a score; infinite where one is no number."""
    differences = [
        _of_common(expected, found),
        np.abs(expected["candidate_scores"] - found["candidate_scores"]),
        np.abs(expected["trend_weights"] - found["trend_weights"]),
    ]
    worst = max(float(each.max(initial=0)) for each in differences)
    return worst if all(np.isfinite(each).all() for each in differences) else float("inf")


def _of_common(expected: Arrays, found: Arrays) -> Array:
    """Differences of the scores of items that both have among the best 10."""
    same = expected["top_items"][:, :BEST, None] == found["top_items"][:, None, :BEST]
    apart = expected["top_scores"][:, :BEST, None] - found["top_scores"][:, None, :BEST]
    differences: Array = np.abs(apart[same])
    return differences
