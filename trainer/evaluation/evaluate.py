"""One step ahead on later events: what would have been recommended, and what people then took.

E events, M requests, R requests to a graph, L history, X excluded items, N items, S snapshots,
T trends. Requests to a graph name no trending items: the worker adds their scores to the graph's
answer, whatever variant gave it.

The baseline that a model has to beat is popularity that fades with a half-life: `popularity_scores`
reads it from the trending counters that a batch carries; `DecayedPopularity` counts it by itself,
for what has no batches.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.schema import (
    FIRST_ITEM,
    PADDING,
    UNKNOWN,
    FeatureSchema,
    Float64Array,
    Int64Array,
    Vocabulary,
)
from features.settings import HOUR_MS
from trainer import examples
from trainer.datasets import Log
from trainer.examples.batches import Augmentation, Batch, Batches
from trainer.export import Arrays
from trainer.metrics import CUTOFF, RankingMetrics, bootstrap_interval, ndcg, ranking_metrics
from trainer.network import LOWEST, TrainedModel, batch_scores
from trainer.network.scoring import rank_targets


def popularity_scores(batch: Batch, schema: FeatureSchema) -> Tensor:
    """Decayed popularity as of each request, forbidden items lowest: float[M, N]."""
    return batch.trends[:, schema.trending_index].masked_fill(batch.excluded, LOWEST)


class DecayedPopularity:
    """Counts of items that fade; what is added has to come in the order of time.

    Args:
        items: how many there are.
        half_life: in the unit of the times that are given.

    >>> popularity = DecayedPopularity(2, half_life=7.0)
    >>> popularity.add(np.array([0, 1, 1]), np.array([0.0, 0.0, 7.0]))
    >>> popularity.scores(time=14.0)
    array([0.25, 0.75])
    """

    def __init__(self, items: int, half_life: float) -> None:
        self._half_life = half_life
        # Each count as of a time of its own: an event then costs the same however many items.
        self._counts = np.zeros(items)
        self._times = np.zeros(items)

    def add(self, items: Any, times: Any, weights: Any = 1.0) -> None:
        """Count some events, int64[M] and float64[M], or one; all as of the newest of their times.

        Args:
            weights: of each, or of all.
        """
        items, times = np.atleast_1d(items), np.atleast_1d(times)
        if not len(items):
            return
        now = times[-1]
        changed = np.unique(items)
        self._counts[changed] *= self._decay(self._times[changed], now)
        self._times[changed] = now
        np.add.at(self._counts, items, weights * self._decay(times, now))

    def scores(self, time: float) -> Float64Array:
        """The counts as of a time, not before that of the newest event: float64[N]."""
        scores: Float64Array = self._counts * self._decay(self._times, time)
        return scores

    def _decay(self, since: Any, until: Any) -> Any:
        return np.exp2((since - until) / self._half_life)


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
    shown: examples.BoolArray

    @staticmethod
    def empty(events: int, items: int) -> "TargetRanks":
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
    ranks: Float64Array,
    people: Int64Array,
    groups: Mapping[str, examples.BoolArray],
    coverage: float,
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
    first: examples.BoolArray,
    since_last_ms: Int64Array,
    new_people: examples.BoolArray,
    item_counts: Int64Array,
) -> dict[str, examples.BoolArray]:
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

    columns: examples.Examples
    chosen: examples.BoolArray
    groups: Mapping[str, examples.BoolArray]
    trended: examples.ItemTrends
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
    events = examples.observe_log(
        [event for part in parts for event in part.events], parts[-1].items
    )
    replayed = examples.replay_log(events, schema)
    # A request right after an earlier event needs the trends of that time.
    trended = examples.compute_trends(
        examples.item_events(replayed),
        trained.vocabulary,
        schema,
        SNAPSHOT_MS,
        0 if right_after else since_ms,
    )
    # In the order of the columns, for what the columns do not say.
    replayed.sort(key=lambda one: (one.event.user_id, one.event.time_ms))
    columns = examples.build_examples(replayed, trained.vocabulary, schema)
    groups = _groups(replayed, columns, since_ms)
    chosen = columns.is_target & (columns.times_ms >= since_ms)
    if right_after:
        chosen &= ~groups["first_requests"]
    history = schema.settings.history_length
    return EvaluationTargets(columns, chosen, groups, trended, history, float(right_after))


def _groups(
    replayed: Sequence[examples.Example], columns: examples.Examples, since_ms: int
) -> dict[str, examples.BoolArray]:
    """Which events are of each group, bool[E]; learned is what happened before `since_ms`."""
    times_ms = columns.times_ms
    before = Counter(one.event.item for one in replayed if one.event.time_ms < since_ms)
    counts = np.fromiter((before[one.event.item] for one in replayed), np.int64, len(replayed))
    return group_events(
        times_ms == times_ms[columns.starts],
        times_ms - examples.previous_times_ms(columns),
        times_ms[columns.starts] >= since_ms,
        counts,
    )


BATCH = 64


@dataclass(frozen=True)
class EvalRequests:
    """Requests, and the right item of each.

    Attributes:
        feeds: the graph's inputs by name, [R, ...].
        targets: int64[R].
    """

    feeds: Arrays
    targets: Int64Array

    def batches(self, size: int = BATCH) -> Iterator[tuple[Arrays, Int64Array]]:
        """Feeds and targets, `size` requests at a time."""
        parts = split_feeds(self.feeds, size)
        for start, feeds in zip(range(0, len(self.targets), size), parts, strict=True):
            yield feeds, self.targets[start : start + size]


def split_feeds(feeds: Arrays, size: int) -> Iterator[Arrays]:
    """Feeds, `size` requests at a time."""
    for start in range(0, len(next(iter(feeds.values()))), size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def sample_requests(
    earlier: Log, later: Log, vocabulary: Vocabulary, schema: FeatureSchema, limit: int
) -> EvalRequests:
    """Requests for events of a log that the vocabulary knows, evenly spread, one step ahead.

    Args:
        earlier: events before `later`, for the histories only.
        limit: on the number of requests.
    """
    events = examples.observe_log([*earlier.events, *later.events], later.items)
    columns = examples.build_examples(examples.replay_log(events, schema), vocabulary, schema)
    chosen = np.flatnonzero(
        _is_recommendable(columns) & (columns.times_ms >= later.events[0].timestamp)
    )
    chosen = chosen[
        np.linspace(0, len(chosen) - 1, min(limit, len(chosen))).round().astype(np.int64)
    ]
    return _requests_for(columns, chosen, schema)


def newest_requests(columns: examples.Examples, schema: FeatureSchema, limit: int) -> EvalRequests:
    """Requests for the newest events that the vocabulary of `columns` knows."""
    candidates = np.flatnonzero(_is_recommendable(columns))
    newest = np.argsort(columns.times_ms[candidates], kind="stable")[-limit:]
    return _requests_for(columns, candidates[newest], schema)


def _is_recommendable(columns: examples.Examples) -> examples.BoolArray:
    """Events that could have been recommended, bool[E]."""
    recommendable: examples.BoolArray = columns.is_target & (columns.items >= FIRST_ITEM)
    return recommendable


def _requests_for(
    columns: examples.Examples, chosen: Int64Array, schema: FeatureSchema
) -> EvalRequests:
    return EvalRequests(_feeds(columns, chosen, schema), columns.items[chosen])


def _feeds(columns: examples.Examples, chosen: Int64Array, schema: FeatureSchema) -> Arrays:
    """The graph's inputs for these events, each asked for at its own time."""
    firsts = _tie_starts(columns)[chosen]
    rows = firsts[:, None] + np.arange(-schema.settings.history_length, 0)
    exists = rows >= columns.starts[firsts][:, None]
    rows = np.where(exists, rows, 0)
    return {
        "item_indices": np.where(exists, columns.items[rows], PADDING),
        "event_types": np.where(exists, columns.types[rows], 0),
        "event_times_ms": np.where(exists, columns.times_ms[rows], 0),
        "request_time_ms": columns.times_ms[firsts][:, None],
        "user_features": columns.features[firsts],
        "candidate_items": np.zeros((len(chosen), 0), np.int64),
        "excluded_items": _seen_items(columns, firsts),
    }


def _tie_starts(columns: examples.Examples) -> Int64Array:
    """The first event of each event's instant, int64[E]: requests see none of their own instant."""
    places = np.arange(len(columns))
    begins = np.ones(len(columns), np.bool_)
    begins[1:] = (np.diff(columns.times_ms) != 0) | (np.diff(columns.starts) != 0)
    starts: Int64Array = np.maximum.accumulate(np.where(begins, places, 0))
    return starts


def _seen_items(columns: examples.Examples, firsts: Int64Array) -> Int64Array:
    """The items that each person had taken before, int64[R, X], padded."""
    lists = [
        columns.items[start:first][columns.marks_seen[start:first]]
        for start, first in zip(columns.starts[firsts].tolist(), firsts.tolist(), strict=True)
    ]
    taken = np.full((len(lists), max(map(len, lists), default=0)), PADDING, np.int64)
    for row, items in zip(taken, lists, strict=True):
        row[: len(items)] = items
    return taken


@dataclass(frozen=True)
class HoldoutSet:
    """Held-out events, and all that happened before them.

    Attributes:
        columns: also of the events before, which are the histories; items by `vocabulary`.
        chosen: bool[E], which events are held out.
        trended: by `vocabulary`.
        vocabulary: an item that it does not have counts as missed, so give it those of both
            versions (`merge_vocabularies`).
    """

    columns: examples.Examples
    chosen: examples.BoolArray
    trended: examples.ItemTrends
    vocabulary: Vocabulary

    @property
    def targets(self) -> examples.BoolArray:
        """The events to predict, bool[E]: what was taken before is not recommended again."""
        return self.columns.is_target & self.chosen

    def translate_to(self, vocabulary: Vocabulary) -> "HoldoutSet":
        """The same events as a version with this vocabulary sees them."""
        if vocabulary is self.vocabulary:
            return self
        places = _places(self.vocabulary, vocabulary)
        known = places >= FIRST_ITEM
        values = np.zeros((*self.trended.values.shape[:2], len(vocabulary)), np.float16)
        values[:, :, places[known]] = self.trended.values[:, :, known]
        return HoldoutSet(
            replace(self.columns, items=places[self.columns.items]),
            self.chosen,
            replace(self.trended, values=values),
            vocabulary,
        )

    def batches(self, history: int) -> Batches:
        """The held-out events as requests of histories up to this length."""
        return Batches(self.columns, self.trended, self.chosen, history, TARGETS_PER_SEQUENCE)


def merge_vocabularies(vocabularies: Sequence[Vocabulary]) -> Vocabulary:
    """One vocabulary with the items of all; those of the first keep their indices.

    >>> merge_vocabularies([Vocabulary(["a", "b"]), Vocabulary(["c", "b"])]).item_ids[FIRST_ITEM:]
    ['a', 'b', 'c']
    """
    names = (name for one in vocabularies for name in one.item_ids[FIRST_ITEM:])
    return Vocabulary(list(dict.fromkeys(names)))


def _places(of: Vocabulary, within: Vocabulary) -> Int64Array:
    """Where the items of one vocabulary are in another, int64[N]."""
    own = within.indices_of(of.item_ids[FIRST_ITEM:])
    return np.concatenate([np.array([PADDING, UNKNOWN], np.int64), own])


def hold_out(
    history: examples.EventHistory, since_ms: int, vocabularies: Sequence[Vocabulary]
) -> HoldoutSet:
    """Events from a time on for the gate to ask versions with these vocabularies about."""
    vocabulary = merge_vocabularies(vocabularies)
    columns = history.examples(vocabulary)
    chosen = columns.times_ms >= since_ms
    trended = history.trends(vocabulary, columns.times_ms[chosen], SNAPSHOT_MS)
    return HoldoutSet(columns, chosen, trended, vocabulary)
