"""Feedback rows as columns of the Feast view `rollout_feedback`, and back.

V variants, one after another in every column, ordered by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.rollout.feedback.counters import (
    COUNTERS,
    FeedbackRow,
    VariantCounters,
    empty_counts,
)
from features.columns import Columns, Stored, decode_columns, encode_columns
from features.store import FEEDBACK, VERSION
from features.topics import Hash

__all__ = ["VERSION", "decode_feedback", "encode_feedback"]


def encode_feedback(row: FeedbackRow) -> Columns:
    """The columns of a row."""
    names = sorted(row.counters)
    variants = [row.counters[name] for name in names]
    return encode_columns(
        FEEDBACK,
        {
            "variants": names,
            "shown": _join(variant.shown for variant in variants),
            "reward": _join(variant.reward for variant in variants),
            "counts": _join([variant.counts[name] for name in COUNTERS] for variant in variants),
            "latencies": _join(variant.latencies.tolist() for variant in variants),
            "scores": _join(variant.scores.tolist() for variant in variants),
            "items": b"".join(np.packbits(variant.items).tobytes() for variant in variants),
            "until_ms": row.until_ms,
            "offsets": _join(sorted(row.offsets.items())),
        },
    )


def decode_feedback(stored: Stored) -> FeedbackRow:
    """The row of what `encode_feedback` wrote; an empty one where nothing is stored.

    Counters that an older release did not have are 0; those of a newer one are left out.
    """
    if stored["offsets"] is None:
        return FeedbackRow({}, {})
    values = decode_columns(FEEDBACK, stored)
    names = values["variants"] or []
    shown, reward, counts, latencies, scores = (
        _split(values[name] or (), names)
        for name in ("shown", "reward", "counts", "latencies", "scores")
    )
    items = _split(np.unpackbits(np.frombuffer(values["items"] or b"", np.uint8)), names)
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
    pairs = values["offsets"]
    sources = (Hash(source) for source in pairs[::2])
    offsets = dict(zip(sources, pairs[1::2], strict=True))
    return FeedbackRow(counters, offsets, values["until_ms"] or 0)


def _split(flat: Iterable[float], names: Sequence[str]) -> npt.NDArray[Any]:
    """A flat column as a row for each variant, [V, ...]."""
    values = np.asarray(flat)
    return values.reshape(len(names), -1) if names else values.reshape(0, 0)


def _join(rows: Iterable[Iterable[float]]) -> list[float]:
    return list(chain.from_iterable(rows))
