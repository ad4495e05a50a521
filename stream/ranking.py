"""The best items for each user: the model's top joined with what trends, filtered and cut.

Shapes: B users, P places, C candidates, T half-lives.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from headwater_client import Reason, RecommendedItem

from features import schema
from features.inputs import SCORE_PARTS
from features.rows import UserRow
from features.topics import hash64
from stream.trending import TrendingIndex, TrendingItems

# Below this a score stands for "never": padding, unknown and excluded items.
NEVER = -1e8
EVERY_PLACE = 1 << 30


@dataclass(frozen=True)
class Ranking:
    """The places of B users, best first; an item can stand twice, once as a candidate.

    `items`, `causes`: int64[B, P], indices of items and of the past items that explain them.
    `scores`: float[B, P]; below `NEVER` where a place is empty. `from_model`: bool[B, P], False for
    a trending candidate. `parts`: float[B, P, `PARTS`], what each score is the sum of; None where
    the version was not asked, or does not tell.
    """

    items: schema.Int64Array
    causes: schema.Int64Array
    scores: schema.Float64Array
    from_model: schema.BoolArray
    vocabulary: schema.Vocabulary
    parts: schema.Float64Array | None = None

    def item_ids(self) -> list[str]:
        """Every item that has a place."""
        names = self.vocabulary.item_ids
        return [names[item] for item in np.unique(self.items[self.scores > NEVER]).tolist()]

    def user_items(self, user: int) -> Iterator[RecommendedItem]:
        """The items of user number `user`, best first, each once; made only as far as consumed."""
        names = self.vocabulary.item_ids
        seen: set[int] = set()
        places = zip(
            self.items[user].tolist(),
            self.scores[user].tolist(),
            self.causes[user].tolist(),
            self.from_model[user].tolist(),
            strict=True,
        )
        for place, (item, score, cause, from_model) in enumerate(places):
            if score <= NEVER or item in seen:
                continue
            seen.add(item)
            reason = self._reason(cause, from_model)
            if self.parts is None:
                yield RecommendedItem(names[item], score, reason)
            else:
                parts = _name_parts(self.parts[user, place])
                yield RecommendedItem(names[item], score, reason, parts=parts)

    def _reason(self, cause: int, from_model: bool) -> Reason:
        if not from_model or cause == schema.PADDING:
            return _TRENDING
        return Reason(
            "history", self.vocabulary.item_ids[cause] if cause >= schema.FIRST_ITEM else None
        )


PARTS = (*SCORE_PARTS, "trends")
"""What a score is the sum of."""
# Less is nothing but float32's rounding.
LEAST_PART = 1e-6


def _name_parts(parts: schema.Float64Array) -> dict[str, float]:
    """What a score is the sum of, by name: float[`PARTS`]; what adds nothing is left out."""
    named = zip(PARTS, parts.tolist(), strict=True)
    return {name: value for name, value in named if abs(value) >= LEAST_PART}


def _find_parts(
    told: schema.Float32Array, scores: schema.Float32Array, total: schema.Float64Array
) -> schema.Float64Array:
    """What each place's score is the sum of, float[B, P, `PARTS`].

    Args:
        told: float32[B, P, `SCORE_PARTS`], by the model.
        scores: float32[B, P], of the model.
        total: float64[B, P], with trends.
    """
    return np.concatenate([told, (total - scores)[..., None]], axis=2, dtype=np.float64)


_TRENDING = Reason("trending")
POPULAR = Reason("popular")


def rank(
    outputs: schema.Tensors,
    tensors: schema.Tensors,
    trending: TrendingIndex,
    times_ms: Sequence[int],
    places: int,
) -> Ranking:
    """Join the model's top with the trending candidates and add weight times trend.

    Args:
        outputs: the model's outputs for B users.
        tensors: the model's inputs for them; `candidate_items` are the first of
            `trending.indices`.
        trending: by the indices of the version that answered.
        times_ms: int[B], when each user asks.
    """
    vocabulary = trending.vocabulary
    top = outputs["top_items"].shape[1]
    items = np.concatenate([outputs["top_items"], tensors["candidate_items"]], axis=1)
    scores = np.concatenate([outputs["top_scores"], outputs["candidate_scores"]], axis=1)
    explained_by = np.concatenate(
        [outputs["top_explained_by"], outputs["candidate_explained_by"]], axis=1
    )
    total = _add_trends(items, scores, outputs, trending, times_ms)
    parts = None
    if "top_parts" in outputs:
        told = np.concatenate([outputs["top_parts"], outputs["candidate_parts"]], axis=1)
        parts = _find_parts(told, scores, total)
    # Before the cut: active users have seen most of what trends, and it would fill all places.
    total[:, top:][_seen_candidates(tensors, trending)] = 10 * NEVER
    order = _best(total, places)
    past = np.take_along_axis(explained_by, order, axis=1)
    causes = np.take_along_axis(tensors["item_indices"], np.maximum(past, 0), axis=1)
    return Ranking(
        np.take_along_axis(items, order, axis=1),
        np.where(past < 0, schema.PADDING, causes),
        np.take_along_axis(total, order, axis=1),
        order < top,
        vocabulary,
        None if parts is None else np.take_along_axis(parts, order[..., None], axis=1),
    )


def rank_candidates(
    outputs: schema.Tensors,
    tensors: schema.Tensors,
    trending: TrendingIndex,
    times_ms: Sequence[int],
    places: int = EVERY_PLACE,
) -> Ranking:
    """The candidates alone, trends added, each user's own; seen ones too; as `rank`."""
    items = tensors["candidate_items"]
    scores = outputs["candidate_scores"]
    total = _add_trends(items, scores, outputs, trending, times_ms)
    parts = None
    if "candidate_parts" in outputs:
        parts = _find_parts(outputs["candidate_parts"], scores, total)
    total[items < schema.FIRST_ITEM] = 10 * NEVER
    order = _best(total, places)
    past = np.take_along_axis(outputs["candidate_explained_by"], order, axis=1)
    causes = np.take_along_axis(tensors["item_indices"], np.maximum(past, 0), axis=1)
    return Ranking(
        np.take_along_axis(items, order, axis=1),
        np.where(past < 0, schema.PADDING, causes),
        np.take_along_axis(total, order, axis=1),
        np.ones(order.shape, np.bool_),
        trending.vocabulary,
        None if parts is None else np.take_along_axis(parts, order[..., None], axis=1),
    )


def hide_items(
    outputs: schema.Tensors, tensors: schema.Tensors, allowed: Sequence[schema.BoolArray | None]
) -> schema.Tensors:
    """The outputs with items that a person's filter does not allow far below `NEVER`.

    Args:
        allowed: for each person bool[N], by the version's indices; None: all are.
    """
    shown = {name: outputs[name].copy() for name in ("top_scores", "candidate_scores")}
    for user, mask in enumerate(allowed):
        if mask is not None:
            shown["top_scores"][user][~mask[outputs["top_items"][user]]] = 10 * NEVER
            shown["candidate_scores"][user][~mask[tensors["candidate_items"][user]]] = 10 * NEVER
    return {**outputs, **shown}


def hide_seen(outputs: schema.Tensors, tensors: schema.Tensors) -> schema.Tensors:
    """The outputs with candidates that are excluded far below `NEVER`."""
    candidates, excluded = tensors["candidate_items"], tensors["excluded_items"]
    scores = outputs["candidate_scores"].copy()
    # One table for all: looking an item up is thirty times as fast as sorting two lists of them.
    is_excluded = np.zeros(1 + max(candidates.max(initial=0), excluded.max(initial=0)), np.bool_)
    for user, (items, left_out) in enumerate(zip(candidates, excluded, strict=True)):
        is_excluded[left_out] = True
        scores[user][is_excluded[items]] = 10 * NEVER
        is_excluded[left_out] = False
    return {**outputs, "candidate_scores": scores}


def _add_trends(
    items: schema.Int64Array,
    scores: schema.Float32Array,
    outputs: schema.Tensors,
    trending: TrendingIndex,
    times_ms: Sequence[int],
) -> schema.Float64Array:
    """Scores with what trends add: float64[B, P]; far below `NEVER` for what may not be shown."""
    values = trending.values(items, times_ms)
    learned = trending.vocabulary.learned[items]
    trend = weigh_trends(outputs["trend_weights"], values, learned)
    return np.where(scores > NEVER, scores + trend, 10 * NEVER)


def _seen_candidates(tensors: schema.Tensors, trending: TrendingIndex) -> schema.BoolArray:
    """Candidates that are excluded, bool[B, C]; the model itself leaves them out of its top."""
    batch, candidates = tensors["candidate_items"].shape
    seen = np.zeros((batch, candidates), np.bool_)
    places = trending.places[tensors["excluded_items"]]
    rows, columns = np.nonzero((places >= 0) & (places < candidates))
    seen[rows, places[rows, columns]] = True
    return seen


def weigh_trends(
    weights: schema.Float32Array, values: schema.Float64Array, learned: schema.BoolArray
) -> schema.Float64Array:
    """What live trends add to each place, float64[B, P].

    Args:
        weights: float32[B, 2 * T], for items that the version has learned, then for others.
        values: float64[B, P, T].
        learned: bool[B, P], which of the two each place's item is.
    """
    both = weights.reshape(len(weights), 2, -1) @ values.transpose(0, 2, 1)
    return np.where(learned, both[:, 0], both[:, 1])


def _best(scores: schema.Float64Array, places: int) -> schema.Int64Array:
    """int64[B, places], the columns of the highest scores, best first."""
    columns = scores.shape[1]
    if places >= columns:
        return np.argsort(-scores, axis=1, kind="stable")
    best = np.argpartition(scores, columns - places, axis=1)[:, columns - places :]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def popular_items(
    trending: TrendingItems, time_ms: int, places: int, skip: int = 0
) -> list[RecommendedItem]:
    """The items that trend most at a time, after so many: the answer when the model has none."""
    factor = trending.decay_factors([time_ms])[0, trending.ranked_by]
    wanted = slice(skip, skip + places)
    counts = (trending.counts[wanted, trending.ranked_by] * factor).tolist()
    return [
        RecommendedItem(name, count, POPULAR)
        for name, count in zip(trending.item_ids[wanted], counts, strict=True)
    ]


def popular_at(
    trending: TrendingItems, time_ms: int, places: Sequence[int]
) -> list[RecommendedItem]:
    """The items at some places of what trends, with their popularity at a time."""
    factor = trending.decay_factors([time_ms])[0, trending.ranked_by]
    counts = (trending.counts[places, trending.ranked_by] * factor).tolist()
    return [
        RecommendedItem(trending.item_ids[place], count, POPULAR)
        for place, count in zip(places, counts, strict=True)
    ]


def available_items(
    items: Iterable[RecommendedItem], available: Mapping[str, bool], places: int
) -> list[RecommendedItem]:
    """The first `places` items that are available."""
    return list(islice((item for item in items if available[item.item_id]), places))


def is_seen(row: UserRow, item_id: str) -> bool:
    """Whether the user has seen the item, as far as the row remembers."""
    item = hash64(item_id)
    place = bisect_left(row.seen, item)
    return place < len(row.seen) and row.seen[place] == item
