"""Rows to model tensors: names, shapes and types, written once for exporter, config and client.

Shapes: B requests, L history, F user features, C candidates, X excluded items, K top items,
T trends. Item indices are those of the called version's vocabulary: 0 is padding, 1 unknown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features import decay
from features.rows import UserRow
from features.schema import CATEGORY_BUCKETS, PADDING, FeatureSchema, Int64Array, Vocabulary

TOP_ITEMS = 100
MODEL_NAME = "temporal_llm"
SCORE_PARTS = ("taste", "prior", "content", "cooccurrence", "collaborative")
"""What a graph's scores are the sum of; live trends are added by whoever asks."""


@dataclass(frozen=True)
class Tensor:
    """A model's input or output. `shape` is without the batch; -1 is any length."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]

    @property
    def triton_type(self) -> str:
        """The type as Triton's protocol calls it."""
        return {np.int64: "INT64", np.int32: "INT32", np.float32: "FP32"}[self.dtype]


def model_inputs(schema: FeatureSchema) -> tuple[Tensor, ...]:
    """What the model reads, in the graph's order."""
    return (
        Tensor("item_indices", np.int64, (-1,)),
        Tensor("event_types", np.int64, (-1,)),
        Tensor("event_times_ms", np.int64, (-1,)),
        Tensor("request_time_ms", np.int64, (1,)),
        Tensor("user_features", np.float32, (schema.user_feature_count,)),
        Tensor("candidate_items", np.int64, (-1,)),
        Tensor("excluded_items", np.int64, (-1,)),
    )


def model_outputs(schema: FeatureSchema) -> tuple[Tensor, ...]:
    """What the model answers, in the graph's order.

    `*_explained_by` is the position in `item_indices` of the past event that explains an item
    best, -1 without history. `trend_weights` weigh `trend_values`: the first half those of items
    that the version has learned from events, the second half those of others.
    """
    return (
        Tensor("top_items", np.int64, (TOP_ITEMS,)),
        Tensor("top_scores", np.float32, (TOP_ITEMS,)),
        Tensor("top_explained_by", np.int64, (TOP_ITEMS,)),
        Tensor("candidate_scores", np.float32, (-1,)),
        Tensor("candidate_explained_by", np.int64, (-1,)),
        Tensor("trend_weights", np.float32, (2 * schema.trend_count,)),
    )


def part_outputs() -> tuple[Tensor, ...]:
    """What the model answers who asks why: of each score the parts that it is the sum of.

    Graphs of before release 0.3 do not have them, nor does the `config.pbtxt` that such a release
    has written: a server then does not know them.
    """
    return (
        Tensor("top_parts", np.float32, (TOP_ITEMS, len(SCORE_PARTS))),
        Tensor("candidate_parts", np.float32, (-1, len(SCORE_PARTS))),
    )


def graph_outputs(schema: FeatureSchema) -> tuple[Tensor, ...]:
    """All that a graph answers, in its order."""
    return (*model_outputs(schema), *part_outputs())


def user_features(row: UserRow, time_ms: int, schema: FeatureSchema) -> list[float]:
    """The time-decay features of one person at a time, float[F].

    log(1 + counter) of each decayed counter, then of the categories' slowest counter, hashed into
    buckets (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009).
    What is below 0, as more was taken back than counted, reads as 0.
    """
    reference = row.reference_ms
    counters = decay.read(row.counters, reference, time_ms, schema.user_half_lives)
    buckets = [0.0] * CATEGORY_BUCKETS
    left = decay.factor(max(0, time_ms - reference), schema.category_half_lives[-1])
    for category, values in row.categories.items():
        buckets[category % CATEGORY_BUCKETS] += values[-1] * left
    return [math.log1p(value) if value > 0 else 0.0 for value in counters + buckets]


def trend_values(popularity: Sequence[float]) -> list[float]:
    """What the trend weights of the model weigh, float[T], of an item's decayed popularity."""
    return [math.log1p(max(0.0, value)) for value in popularity[:-1]]


def model_tensors(
    rows: Sequence[UserRow],
    times_ms: Sequence[int],
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    candidates: Int64Array | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    """The model's inputs for a batch of people, by tensor name.

    Args:
        rows: B user rows; only their history, counters and seen items are read.
        times_ms: int[B], when each person asks.
        candidates: int64[C], indices of items to score for everyone besides the top K.
    """
    length = max(1, max((len(row.events) // 3 for row in rows), default=1))
    flat = np.zeros((len(rows), 3 * length), np.int64)
    for person, row in enumerate(rows):
        if row.events:
            # Right-aligned: the newest event stands at the same place whatever the length.
            flat[person, -len(row.events) :] = row.events
    events = flat.reshape(len(rows), length, 3)
    items = vocabulary.indices(events[:, :, 2])
    items[events[:, :, 1] == 0] = PADDING
    features = [user_features(row, time, schema) for row, time in zip(rows, times_ms, strict=True)]
    wanted = np.zeros(0, np.int64) if candidates is None else candidates
    return {
        "item_indices": items,
        "event_types": np.ascontiguousarray(events[:, :, 1]),
        "event_times_ms": np.ascontiguousarray(events[:, :, 0]),
        "request_time_ms": np.asarray(times_ms, np.int64)[:, None],
        "user_features": np.asarray(features, np.float32),
        "candidate_items": np.tile(wanted, (len(rows), 1)),
        "excluded_items": _excluded_items(rows, vocabulary),
    }


def _excluded_items(rows: Sequence[UserRow], vocabulary: Vocabulary) -> Int64Array:
    lengths = [len(row.seen) for row in rows]
    excluded = np.zeros((len(rows), max(lengths, default=0)), np.int64)
    if not excluded.size:
        return excluded
    known = vocabulary.indices(np.concatenate([np.asarray(row.seen, np.int64) for row in rows]))
    # What this version does not know it cannot recommend either: padding, not "unknown".
    known[known == vocabulary.unknown] = PADDING
    excluded[np.arange(excluded.shape[1]) < np.asarray(lengths)[:, None]] = known
    return excluded
