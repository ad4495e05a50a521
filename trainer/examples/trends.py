"""What trended when: item popularity at the start of every period of time with events.

S snapshots, N items of the vocabulary, T trends, E events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from features import rows
from features.arrays import Int64Array
from features.rows import ItemGroup, Observation
from features.schema import FeatureSchema
from features.vocabulary import Vocabulary

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class ItemTrends:
    """Trend values of every item at points in time.

    Attributes:
        times_ms: int64[S], ascending; a snapshot holds the events strictly before its time.
        values: float16[S, T, N], `inputs.trend_values`; 0 for padding and the unknown item.
    """

    times_ms: Int64Array
    values: npt.NDArray[np.float16]

    def snapshot_indices(self, times_ms: Int64Array) -> Int64Array:
        """The newest snapshot not after each time, int64, same shape."""
        return np.maximum(np.searchsorted(self.times_ms, times_ms, side="right") - 1, 0)


@dataclass(frozen=True)
class PopularityUpdates:
    """What each event made of its item's popularity.

    Attributes:
        items: int64[E], hashes.
        known_ms: int64[E], ascending, when it could be known: what comes late is known late.
        reference_ms: int64[E], the time of `values`: they fade alike from there.
        values: float64[E, T], right after the event.
    """

    items: Int64Array
    known_ms: Int64Array
    reference_ms: Int64Array
    values: npt.NDArray[np.float64]


class ItemPopularity:
    """Item rows as the stream keeps them, which absorb a log bit by bit."""

    def __init__(self, schema: FeatureSchema) -> None:
        self._schema = schema
        self._groups: dict[int, dict[int, ItemGroup]] = {}
        self._known_ms = 0

    def apply(self, log: Sequence[Observation]) -> PopularityUpdates:
        """What these events make of their items, in this order."""
        size = len(log)
        times_ms = np.fromiter((event.time_ms for event in log), np.int64, size)
        known_ms = np.maximum.accumulate(np.maximum(times_ms, self._known_ms))
        self._known_ms = int(known_ms[-1]) if size else self._known_ms
        reference_ms = np.empty(size, np.int64)
        values = np.empty((size, self._schema.trend_count), np.float64)
        for at, event in enumerate(log):
            reference_ms[at], values[at] = self._apply_event(event)
        items = np.fromiter((event.item for event in log), np.int64, size)
        return PopularityUpdates(items, known_ms, reference_ms, values)

    def _apply_event(self, event: Observation) -> tuple[int, list[float]]:
        groups = self._groups.setdefault(event.item, {})
        group = groups.setdefault(event.type, rows.empty_group(self._schema))
        rows.apply_item_event(group, event, self._schema)
        time_ms = max(group.reference_ms for group in groups.values())
        return time_ms, rows.popularity(groups.items(), time_ms, self._schema)[:-1]


def compute_trends(
    log: Sequence[Observation],
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    snapshot_ms: int,
    since_ms: int = 0,
) -> ItemTrends:
    """Trends at the starts of periods of `snapshot_ms` in which events happened.

    Args:
        log: the events that counted, in any order.
        since_ms: no snapshot is needed for what happened before.
    """
    ordered = sorted(log, key=attrgetter("time_ms"))
    # Numbered by time: an item's row skips what it takes for absorbed.
    ordered = [event._replace(offset=at) for at, event in enumerate(ordered)]
    found = ItemPopularity(schema).apply(ordered)
    asked_ms = found.known_ms[found.known_ms >= since_ms]
    return take_snapshots(found, asked_ms, vocabulary, schema, snapshot_ms)


def take_snapshots(
    found: PopularityUpdates,
    asked_ms: Int64Array,
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    snapshot_ms: int,
) -> ItemTrends:
    """Trends at the starts of the periods of `snapshot_ms` that these times are in.

    Where they would take more than `MAX_BYTES` the periods become longer.

    Args:
        asked_ms: int64[any], in any order.
    """
    half_lives = np.array(schema.item_half_lives[:-1])
    starts = _snapshot_times(asked_ms, snapshot_ms, len(vocabulary) * len(half_lives))
    ends = np.searchsorted(found.known_ms, starts, side="left")
    indices = vocabulary.indices(found.items)
    current = np.zeros((len(vocabulary), len(half_lives)), np.float64)
    reference_ms = np.zeros(len(vocabulary), np.int64)
    values = np.empty((len(starts), len(half_lives), len(vocabulary)), np.float16)
    done = 0
    for at, (time_ms, end) in enumerate(zip(starts, ends, strict=True)):
        # Of several events of an item the last one stays.
        current[indices[done:end]] = found.values[done:end]
        reference_ms[indices[done:end]] = found.reference_ms[done:end]
        current[vocabulary.unknown] = 0
        left = np.exp2((reference_ms - time_ms) / half_lives[:, None])
        values[at] = np.log1p(current.T * left)
        done = end
    return ItemTrends(starts, values)


def _snapshot_times(times_ms: Int64Array, snapshot_ms: int, size: int) -> Int64Array:
    starts = np.unique(times_ms // snapshot_ms) * snapshot_ms
    while len(starts) > 1 and len(starts) * size * 2 > MAX_BYTES:
        snapshot_ms *= 2
        starts = np.unique(times_ms // snapshot_ms) * snapshot_ms
    return starts.astype(np.int64)
