"""Feedback rows as columns of the Feast view `rollout_feedback`, and back.

V variants, one after another in every column, ordered by name.
"""

from __future__ import annotations

from features.columns import VERSION, Columns, Stored  # before anything of Feast

# isort: split

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from feast.protos.feast.types.Value_pb2 import DoubleList, Int64List, StringList, Value

from deploy.rollout.feedback.counters import (
    COUNTERS,
    FeedbackRow,
    VariantCounters,
    empty_counts,
)
from features.topics import Hash

__all__ = ["VERSION", "decode_feedback", "encode_feedback"]


def encode_feedback(row: FeedbackRow) -> Columns:
    """The columns of a row."""
    names = sorted(row.counters)
    variants = [row.counters[name] for name in names]
    bitmaps = b"".join(np.packbits(variant.items).tobytes() for variant in variants)
    values = {
        "variants": Value(string_list_val=StringList(val=names)),
        "shown": _doubles(variant.shown for variant in variants),
        "reward": _doubles(variant.reward for variant in variants),
        "counts": _int64s([variant.counts[name] for name in COUNTERS] for variant in variants),
        "latencies": _int64s(variant.latencies.tolist() for variant in variants),
        "scores": _int64s(variant.scores.tolist() for variant in variants),
        "items": Value(bytes_val=bitmaps),
        "until_ms": Value(int64_val=row.until_ms),
        "offsets": _int64s(sorted(row.offsets.items())),
    }
    return {name: value.SerializeToString() for name, value in values.items()}


def decode_feedback(stored: Stored) -> FeedbackRow:
    """The row of what `encode_feedback` wrote; an empty one where nothing is stored.

    Counters that an older release did not have are 0; those of a newer one are left out.
    """
    if stored["offsets"] is None:
        return FeedbackRow({}, {})
    values = {name: Value.FromString(column or b"") for name, column in stored.items()}
    names = list(values["variants"].string_list_val.val)
    shown, reward = (
        _split(values[name].double_list_val.val, names) for name in ("shown", "reward")
    )
    counts, latencies, scores = (
        _split(values[name].int64_list_val.val, names) for name in ("counts", "latencies", "scores")
    )
    items = _split(np.unpackbits(np.frombuffer(values["items"].bytes_val, np.uint8)), names)
    counters = {
        name: VariantCounters(
            shown=shown[index],
            reward=reward[index],
            counts=empty_counts() | dict(zip(COUNTERS, counts[index].tolist(), strict=False)),
            latencies=latencies[index],
            scores=scores[index],
            items=items[index].astype(np.bool_),
        )
        for index, name in enumerate(names)
    }
    pairs = values["offsets"].int64_list_val.val
    sources = (Hash(source) for source in pairs[::2])
    offsets = dict(zip(sources, pairs[1::2], strict=True))
    return FeedbackRow(counters, offsets, values["until_ms"].int64_val)


def _split(flat: Iterable[float], names: Sequence[str]) -> npt.NDArray[Any]:
    """A flat column as a row for each variant, [V, ...]."""
    values = np.asarray(flat)
    return values.reshape(len(names), -1) if names else values.reshape(0, 0)


def _doubles(rows: Iterable[Iterable[float]]) -> Value:
    return Value(double_list_val=DoubleList(val=chain.from_iterable(rows)))


def _int64s(rows: Iterable[Iterable[int]]) -> Value:
    return Value(int64_list_val=Int64List(val=chain.from_iterable(rows)))
