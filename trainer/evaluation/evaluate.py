"""One step ahead on later events: what would have been recommended, and what people then took.

E events, M requests, N items, T trends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.arrays import Float64Array, Int64Array
from features.schema import FeatureSchema
from features.settings import HOUR_MS
from features.vocabulary import FIRST_ITEM
from trainer.datasets import Log
from trainer.evaluation.popularity import popularity_scores
from trainer.examples import (
    BoolArray,
    Example,
    Examples,
    ItemTrends,
    build_examples,
    compute_trends,
    observe_log,
    previous_times_ms,
    replay_log,
)
from trainer.examples.batches import Augmentation, Batch, Batches
from trainer.metrics import (
    CUTOFF,
    RankingMetrics,
    bootstrap_interval,
    ndcg,
    ranking_metrics,
)
from trainer.network import LOWEST, TrainedModel, batch_scores
from trainer.network.scoring import rank_targets

SNAPSHOT_MS = 60_000
# Who comes back after more than that has begun something new.
RETURN_MS = HOUR_MS
# An item with fewer events before is rare.
RARE = 5
_BATCH = 16
# Most events that one sequence of a batch predicts: it changes no rank.
TARGETS_PER_SEQUENCE = 64

Scorer = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class MethodEvaluation:
    """How one method did.

    Attributes:
        ndcg_at_10_interval: 95 %, of `overall`, by bootstrap over people.
        coverage: the share of the model's items that stood among the best 10 of a request.
        groups: of the events that matter apart; an event may be in several.
    """

    overall: RankingMetrics
    ndcg_at_10_interval: list[float]
    coverage: float
    groups: Mapping[str, RankingMetrics]


@dataclass(frozen=True)
class Evaluation:
    """The model and popularity, decayed as what trends is, on the same events and new items."""

    model: MethodEvaluation
    popularity: MethodEvaluation


def evaluate(
    trained: TrainedModel,
    earlier: Log,
    later: Log,
    schema: FeatureSchema,
    right_after: bool = False,
) -> Evaluation:
    """Predict each later event from the true history before it.

    An item that the model does not know counts as missed, for both.

    Args:
        earlier: what happened before `later`.
        right_after: ask right after the person's event before, as the stream does, and so not
            before a first event; else at the time of the event itself.
    """
    targets = select_targets(trained, [earlier, later], schema, right_after)
    scorers: tuple[Scorer, Scorer] = (
        lambda batch: batch_scores(trained.model, batch),
        lambda batch: popularity_scores(batch, schema),
    )
    return Evaluation(*targets.evaluate(scorers))


@dataclass(frozen=True)
class TargetRanks:
    """Where one method ranked the events so far.

    Attributes:
        ranks: float64[E], of the right item; infinite where it was missed or not asked for.
        shown: bool[N], items that were among the best 10 of a request.
    """

    ranks: Float64Array
    shown: BoolArray

    @staticmethod
    def empty(events: int, items: int) -> TargetRanks:
        """Nothing yet, of so many events and items."""
        return TargetRanks(np.full(events, np.inf), np.zeros(items, np.bool_))

    def add(self, scores: Tensor, batch: Batch) -> None:
        """What a batch's scores, float[M, N], say of its targets."""
        ranks = rank_targets(scores, batch.rows, batch.targets, batch.tied)
        self.ranks[batch.events.numpy()] = ranks.numpy()
        best = scores.topk(min(CUTOFF, scores.shape[1]), dim=1)
        self.shown[best.indices[best.values > LOWEST / 2].numpy()] = True


@torch.no_grad()
def rank_batches(
    batches: Batches, scorers: Sequence[Scorer], immediate_share: float = 0.0
) -> list[TargetRanks]:
    """What each method makes of the targets; it gives every item a score for each request.

    Args:
        immediate_share: of the requests made right after the event before.
    """
    columns, items = batches.examples, batches.trends.values.shape[2]
    found = [TargetRanks.empty(len(columns), items) for _ in scorers]
    drawing = Augmentation(immediate_share)
    for batch in batches.epoch(_BATCH, np.random.default_rng(0), drawing):
        for tally, scorer in zip(found, scorers, strict=True):
            tally.add(scorer(batch), batch)
    return found


def evaluate_ranks(
    ranks: Float64Array, people: Int64Array, groups: Mapping[str, BoolArray], coverage: float
) -> MethodEvaluation:
    """What the ranks of one method say, of all M events and of groups.

    Args:
        ranks: float64[M].
        people: int64[M], whose each event is, in any numbering.
        groups: bool[M] each.
    """
    return MethodEvaluation(
        ranking_metrics(ranks),
        bootstrap_interval(ndcg(ranks), people) if len(ranks) else [0.0, 0.0],
        coverage,
        {name: ranking_metrics(ranks[group]) for name, group in groups.items()},
    )


def group_events(
    first: BoolArray, since_last_ms: Int64Array, new_people: BoolArray, item_counts: Int64Array
) -> dict[str, BoolArray]:
    """The events that matter apart, bool[M] each; an event may be in several groups.

    Args:
        first: bool[M], the person's first ones.
        since_last_ms: int64[M], since the person did something before; of no first one.
        new_people: bool[M], of people of whom nothing was learned.
        item_counts: int64[M], learned events of the item.
    """
    return {
        "return_visits": ~first & (since_last_ms > RETURN_MS),
        "first_requests": first,
        "new_people": new_people,
        "new_items": item_counts == 0,
        "rare_items": item_counts < RARE,
    }


@dataclass(frozen=True)
class EvaluationTargets:
    """Events to predict: those of `columns` that are `chosen`.

    Attributes:
        groups: bool[E] each.
        immediate_share: of the requests made right after the event before.
    """

    columns: Examples
    chosen: BoolArray
    groups: Mapping[str, BoolArray]
    trended: ItemTrends
    history: int
    immediate_share: float

    def evaluate(self, scorers: Sequence[Scorer]) -> list[MethodEvaluation]:
        """How each method did, which gives every item a score for each request: float[M, N]."""
        return [
            evaluate_ranks(
                method.ranks[self.chosen],
                self.columns.starts[self.chosen],
                {name: group[self.chosen] for name, group in self.groups.items()},
                float(method.shown[FIRST_ITEM:].mean()),
            )
            for method in rank_batches(self.batches(), scorers, self.immediate_share)
        ]

    def batches(self) -> Batches:
        """The events as requests."""
        return Batches(self.columns, self.trended, self.chosen, self.history, TARGETS_PER_SEQUENCE)


def select_targets(
    trained: TrainedModel, parts: Sequence[Log], schema: FeatureSchema, right_after: bool
) -> EvaluationTargets:
    """The events of a part of a log, to be predicted each from what lies before it.

    Args:
        parts: of one log, one after another; the events of the last one are asked for.
        right_after: see `evaluate`.
    """
    since_ms = parts[-1].events[0].timestamp
    events = observe_log([event for part in parts for event in part.events], parts[-1].items)
    replayed = replay_log(events, schema)
    # A request right after an earlier event needs the trends of that time.
    trended = compute_trends(
        [one.event for one in replayed],
        trained.vocabulary,
        schema,
        SNAPSHOT_MS,
        0 if right_after else since_ms,
    )
    # In the order of the columns, for what the columns do not say.
    replayed.sort(key=lambda one: (one.event.user_id, one.event.time_ms))
    columns = build_examples(replayed, trained.vocabulary, schema)
    groups = _groups(replayed, columns, since_ms)
    chosen = columns.is_target & (columns.times_ms >= since_ms)
    if right_after:
        chosen &= ~groups["first_requests"]
    history = schema.settings.history_length
    return EvaluationTargets(columns, chosen, groups, trended, history, float(right_after))


def _groups(replayed: Sequence[Example], columns: Examples, since_ms: int) -> dict[str, BoolArray]:
    """Which events are of each group, bool[E]; learned is what happened before `since_ms`."""
    times_ms = columns.times_ms
    before = Counter(one.event.item for one in replayed if one.event.time_ms < since_ms)
    counts = np.fromiter((before[one.event.item] for one in replayed), np.int64, len(replayed))
    return group_events(
        times_ms == times_ms[columns.starts],
        times_ms - previous_times_ms(columns),
        times_ms[columns.starts] >= since_ms,
        counts,
    )
