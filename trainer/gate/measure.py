"""Measures a candidate beside the live version, on events that neither has learned from.

B people of a batch, N items, T trends, M requests.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features.schema import FIRST_ITEM, FeatureSchema, Float64Array
from trainer.evaluation import HoldoutSet, popularity_scores
from trainer.evaluation.evaluate import Scorer, rank_batches
from trainer.examples.batches import Batch
from trainer.export import ExportError, ScoringGraph, answers, open_session, sample_inputs
from trainer.export.onnx import check_graph, not_finite
from trainer.gate.checks import Foresight, GateMeasurements, MethodRanking, WeightGrowth
from trainer.metrics import ndcg
from trainer.network import LOWEST, PARTS, Model, TrainedModel, batch_scores, score_parts

# The batch whose latency is measured, and how often.
LATENCY_BATCH = 32
_TURNS, _WARM_UP = 9, 2
# A matrix that began at 0 has no size to grow from: below this, growth is no matter.
_SMALL = 0.01


@dataclass(frozen=True)
class JudgedVersion:
    """A version to judge.

    Attributes:
        graph: its ONNX graph; None where it could not be exported.
    """

    version: int
    trained: TrainedModel
    graph: Path | None


def measure(
    candidate: JudgedVersion,
    live: JudgedVersion | None,
    held: HoldoutSet,
    schema: FeatureSchema,
    window: HoldoutSet | None = None,
) -> GateMeasurements:
    """All that the verdict hangs on.

    Args:
        held: what neither has learned from.
        window: all that is new to the live version, also what the candidate has learned.

    Raises:
        ExportError: the live version's graph does not run.
    """
    model = candidate.trained.model
    own = held.translate_to(candidate.trained.vocabulary)
    scorer, parts = _Counting(model), _PartScores(model)
    shown, *without = _rank_holdout(own, [scorer, *parts.scorers()], schema)
    broken_weights = not_finite(model)
    mismatch = _mismatch(candidate, broken_weights, schema)
    graphs = [one for one in (candidate, live) if one and not mismatch]
    medians = medians_ms([_batch_of(one, schema) for one in graphs]) if graphs else []
    return GateMeasurements(
        version=candidate.version,
        live=live.version if live else None,
        time_ms=int(time.time() * 1000),
        people=held.columns.starts[held.targets],
        candidate=shown,
        without=parts.name_figures([each.ranks for each in without]),
        reference=_reference(live, held, own, schema),
        catalogue=len(held.vocabulary) - FIRST_ITEM,
        foresight=_foresight(live, window, schema) if live and window else None,
        broken_weights=broken_weights,
        broken_scores=scorer.broken,
        growth=growth(model, live.trained.model) if live else None,
        mismatch=mismatch,
        latency_ms=medians[0] if medians else None,
        live_latency_ms=medians[1] if live and medians else None,
    )


class _Counting:
    """Scores of a model; `broken` of those so far are no finite numbers."""

    def __init__(self, model: Model) -> None:
        self._model = model.eval()
        self.broken = 0

    def __call__(self, batch: Batch) -> Tensor:
        scores = batch_scores(self._model, batch)
        self.broken += int((~torch.isfinite(scores)).sum())
        return scores


class _PartScores:
    """Scores of a model without one of the parts that each is the sum of, for each part."""

    def __init__(self, model: Model) -> None:
        self._model = model.eval()
        self._batch: Batch | None = None
        self._parts: dict[str, Tensor] = {}

    def scorers(self) -> list[Scorer]:
        """One a part, in the order of `PARTS`: to be asked batch by batch."""
        return [partial(self._score_without, name) for name in PARTS]

    def name_figures(self, ranks: Sequence[Float64Array]) -> dict[str, float]:
        """NDCG@10 by the part that was left out; a part that the model does not have is none.

        Args:
            ranks: of each scorer.
        """
        named = zip(PARTS, ranks, strict=True)
        return {
            name: float(ndcg(found).mean()) if len(found) else 0.0
            for name, found in named
            if name in self._parts
        }

    def _score_without(self, name: str, batch: Batch) -> Tensor:
        if batch is not self._batch:
            self._batch, self._parts = batch, self._add_members(batch)
        others = [scores for part, scores in self._parts.items() if part != name]
        # The prior is also what keeps out items that nobody may be recommended.
        closed = batch.excluded | ~self._model.members[0].recommendable
        return reduce(torch.add, others).masked_fill(closed, LOWEST)

    def _add_members(self, batch: Batch) -> dict[str, Tensor]:
        """Each part, of all members together: an average has the same order."""
        total: dict[str, Tensor] = {}
        for member in self._model.members:
            for name, scores in score_parts(member, batch.scored_requests).items():
                total[name] = total[name] + scores if name in total else scores
        return total


def _reference(
    live: JudgedVersion | None, held: HoldoutSet, own: HoldoutSet, schema: FeatureSchema
) -> MethodRanking:
    if live is None:
        return _rank_holdout(own, [partial(popularity_scores, schema=schema)], schema)[0]
    theirs = held.translate_to(live.trained.vocabulary)
    return _rank_holdout(theirs, [partial(batch_scores, live.trained.model.eval())], schema)[0]


def _foresight(live: JudgedVersion, window: HoldoutSet, schema: FeatureSchema) -> Foresight:
    own = window.translate_to(live.trained.vocabulary)
    scorers = [
        partial(batch_scores, live.trained.model.eval()),
        partial(popularity_scores, schema=schema),
    ]
    ranked = rank_batches(own.batches(schema.settings.history_length), scorers)
    ours, theirs = (method.ranks[own.targets] for method in ranked)
    return Foresight(own.columns.starts[own.targets], ours, theirs)


def _rank_holdout(
    held: HoldoutSet, scorers: Sequence[Scorer], schema: FeatureSchema
) -> list[MethodRanking]:
    ranked = rank_batches(held.batches(schema.settings.history_length), scorers)
    return [
        MethodRanking(found.ranks[held.targets], int(found.shown[FIRST_ITEM:].sum()))
        for found in ranked
    ]


def growth(candidate: Model, live: Model) -> WeightGrowth | None:
    """The weight matrix that grew most, by root mean square: new rows do not count as growth.

    None beside a version of another shape, which has no matrix of the same name.
    """
    before = dict(live.named_parameters())
    found = [
        WeightGrowth(name, (_size(weight) + _SMALL) / (_size(before[name]) + _SMALL))
        for name, weight in candidate.named_parameters()
        if weight.dim() > 1 and name in before
    ]
    return max(found, key=lambda one: one.factor, default=None)


def _size(weight: Tensor) -> float:
    """Root mean square, infinite where something in it is no number."""
    size = weight.detach().double().square().mean().sqrt()
    return float(size.nan_to_num(nan=torch.inf))


def _mismatch(candidate: JudgedVersion, broken_weights: int, schema: FeatureSchema) -> str | None:
    """How the graph differs from the model, in a line."""
    if candidate.graph is None:
        return "there is no graph: it could not be exported"
    if broken_weights:
        return "not compared: weights are no finite numbers"
    try:
        check_graph(ScoringGraph(candidate.trained.model), schema, candidate.graph)
    except ExportError as error:
        return str(error)
    return None


def medians_ms(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The median wall time of each, run in turns, so that a busy moment meets all alike."""
    turns = [[_ms(run) for run in runs] for _ in range(_WARM_UP + _TURNS)]
    return [float(median) for median in np.median(turns[_WARM_UP:], axis=0)]


def _ms(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def _batch_of(version: JudgedVersion, schema: FeatureSchema) -> Callable[[], object]:
    """Runs a version's graph on one thread, for a batch of people."""
    assert version.graph
    items = version.trained.model.architecture.items
    session, feeds = open_session(version.graph), sample_inputs(items, schema, LATENCY_BATCH)
    return lambda: answers(session, feeds)
