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

from features.schema import FeatureSchema
from features.settings import HOUR_MS
from features.vocabulary import FIRST_ITEM
from trainer.datasets import Log
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
from trainer.examples.batches import Augmentation, Batches
from trainer.examples.requests import Batch
from trainer.metrics import TOP, Floats, RankingMetrics, figures, gains, interval, target_ranks
from trainer.network import LOWEST, TrainedModel, batch_scores
from trainer.settings import TrainerSettings

SNAPSHOT_MS = 60_000
RETURN_MS = HOUR_MS
RARE = 5
_BATCH = 16

Scorer = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Judged:
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

    model: Judged
    popularity: Judged


def evaluate(
    trained: TrainedModel,
    earlier: Log,
    later: Log,
    schema: FeatureSchema,
    settings: TrainerSettings,
    right_after: bool = False,
) -> Evaluation:
    """Predict each later event from the true history before it.

    An item that the model does not know counts as missed, for both.

    Args:
        earlier: what happened before `later`.
        right_after: ask right after the person's event before, as the stream does, and so not
            before a first event; else at the time of the event itself.
    """
    asked = _asked(trained, [earlier, later], schema, settings, right_after)
    scorers: tuple[Scorer, Scorer] = (
        lambda batch: batch_scores(trained.model, batch),
        lambda batch: popularity_scores(batch, schema),
    )
    return Evaluation(*asked.judged(scorers))


@dataclass(frozen=True)
class Tally:
    """What one method made of the events so far.

    Attributes:
        ranks: float64[E], of the right item; infinite where it was missed or not asked for.
        shown: bool[N], items that were among the best 10 of a request.
    """

    ranks: Floats
    shown: BoolArray

    @staticmethod
    def empty(events: int, items: int) -> Tally:
        """Nothing yet, of so many events and items."""
        return Tally(np.full(events, np.inf), np.zeros(items, np.bool_))

    def add(self, scores: Tensor, batch: Batch) -> None:
        """What a batch's scores, float[M, N], say of its targets."""
        self.ranks[batch.events.numpy()] = target_ranks(scores, batch).numpy()
        best = scores.topk(min(TOP, scores.shape[1]), dim=1)
        self.shown[best.indices[best.values > LOWEST / 2].numpy()] = True


@torch.no_grad()
def tallies(
    batches: Batches, scorers: Sequence[Scorer], immediate_share: float = 0.0
) -> list[Tally]:
    """What each method makes of the targets; it gives every item a score for each request.

    Args:
        immediate_share: of the requests made right after the event before.
    """
    columns, items = batches.examples, batches.trends.values.shape[2]
    found = [Tally.empty(len(columns), items) for _ in scorers]
    drawing = Augmentation(immediate_share)
    for batch in batches.epoch(_BATCH, np.random.default_rng(0), drawing):
        for tally, scorer in zip(found, scorers, strict=True):
            tally.add(scorer(batch), batch)
    return found


@dataclass(frozen=True)
class _Asked:
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
    window: int
    immediate_share: float

    def judged(self, scorers: Sequence[Scorer]) -> list[Judged]:
        """How each method did, which gives every item a score for each request: float[M, N]."""
        found = tallies(self._batches(), scorers, self.immediate_share)
        return [self._judged(tally) for tally in found]

    def _judged(self, tally: Tally) -> Judged:
        ranks, people = tally.ranks[self.chosen], self.columns.starts[self.chosen]
        return Judged(
            figures(ranks),
            interval(gains(ranks), people) if len(ranks) else [0.0, 0.0],
            float(tally.shown[FIRST_ITEM:].mean()),
            {name: figures(ranks[group[self.chosen]]) for name, group in self.groups.items()},
        )

    def _batches(self) -> Batches:
        return Batches(self.columns, self.trended, self.chosen, self.history, self.window)


def _asked(
    trained: TrainedModel,
    parts: Sequence[Log],
    schema: FeatureSchema,
    settings: TrainerSettings,
    right_after: bool,
) -> _Asked:
    """Args: parts: of one log; the events of the last one are asked for."""
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
    return _Asked(
        columns,
        chosen,
        groups,
        trended,
        history,
        settings.max_targets_per_sequence,
        float(right_after),
    )


def _groups(replayed: Sequence[Example], columns: Examples, since_ms: int) -> dict[str, BoolArray]:
    """Which events are of each group, bool[E]; "before" is before `since_ms`."""
    times_ms = columns.times_ms
    first = times_ms == times_ms[columns.starts]
    before = Counter(one.event.item for one in replayed if one.event.time_ms < since_ms)
    counts = np.fromiter((before[one.event.item] for one in replayed), np.int64, len(replayed))
    return {
        "return_visits": ~first & (times_ms - previous_times_ms(columns) > RETURN_MS),
        "first_requests": first,
        "new_people": times_ms[columns.starts] >= since_ms,
        "new_items": counts == 0,
        "rare_items": counts < RARE,
    }


def popularity_scores(batch: Batch, schema: FeatureSchema) -> Tensor:
    """Decayed popularity, forbidden items lowest: float[M, N]."""
    return batch.trends[:, schema.trending_index].masked_fill(batch.excluded, LOWEST)
