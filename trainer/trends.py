"""What trended when: item popularity at the start of every stretch of time with events.

S snapshots, N items of the vocabulary, T trends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features import inputs, rows
from features.events import EventType
from features.inputs import FloatArray, IntArray
from features.rows import ItemGroup, Layout, Observed
from features.vocabulary import Vocabulary

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Trends:
    """Trend values of every item at points in time.

    Attributes:
        times_ms: int64[S], ascending; a snapshot holds the events strictly before its time.
        values: float16[S, T, N], `inputs.trend_values`; 0 for padding and the unknown item.
    """

    times_ms: IntArray
    values: npt.NDArray[np.float16]

    def at(self, times_ms: IntArray) -> IntArray:
        """The newest snapshot not after each time, int64, same shape."""
        return np.maximum(np.searchsorted(self.times_ms, times_ms, side="right") - 1, 0)


def trends(
    log: Sequence[Observed],
    vocabulary: Vocabulary,
    layout: Layout,
    snapshot_ms: int,
    since_ms: int = 0,
) -> Trends:
    """Snapshots at the starts of the stretches of `snapshot_ms` in which events happened.

    Where they would take more than `MAX_BYTES` the stretches become longer.

    Args:
        log: the events that counted, in any order.
        since_ms: no snapshot is needed for what happened before.
    """
    times = np.fromiter((event.time_ms for event in log), np.int64, len(log))
    size = len(vocabulary) * inputs.trend_count(layout)
    starts = _snapshot_times(times[times >= since_ms], snapshot_ms, size)
    # Numbered by time: an item's row skips what it takes for absorbed.
    order = np.argsort(times, kind="stable")
    ordered = [log[index]._replace(offset=at) for at, index in enumerate(order)]
    ends = np.searchsorted(np.sort(times), starts, side="left")
    popularity = _Popularity(vocabulary, layout)
    values = np.empty((len(starts), inputs.trend_count(layout), len(vocabulary)), np.float16)
    done = 0
    for at, (time_ms, end) in enumerate(zip(starts, ends, strict=True)):
        popularity.absorb(ordered[done:end])
        values[at] = popularity.at(int(time_ms))
        done = end
    return Trends(starts, values)


def _snapshot_times(times_ms: IntArray, snapshot_ms: int, size: int) -> IntArray:
    starts = np.unique(times_ms // snapshot_ms) * snapshot_ms
    while len(starts) > 1 and len(starts) * size * 2 > MAX_BYTES:
        snapshot_ms *= 2
        starts = np.unique(times_ms // snapshot_ms) * snapshot_ms
    return starts.astype(np.int64)


class _Popularity:
    """Item rows as the stream keeps them, and all of them read at one time."""

    def __init__(self, vocabulary: Vocabulary, layout: Layout) -> None:
        self._vocabulary = vocabulary
        self._layout = layout
        self._groups: dict[int, dict[EventType, ItemGroup]] = {}
        self._half_lives = layout.item_half_lives[:-1]
        # The popularity of each item as of `_reference_ms`: it fades alike for all from there.
        self._values = np.zeros((len(vocabulary), len(self._half_lives)), np.float64)
        self._reference_ms = np.zeros(len(vocabulary), np.int64)

    def absorb(self, events: Sequence[Observed]) -> None:
        for event in events:
            groups = self._groups.setdefault(event.item, {})
            group = groups.setdefault(event.type, rows.empty_group(self._layout))
            rows.absorb_item(group, event, self._layout)
        changed = np.unique(np.fromiter((event.item for event in events), np.int64, len(events)))
        for item, index in zip(changed, self._vocabulary.indices(changed), strict=True):
            self._read(int(index), self._groups[int(item)])

    def _read(self, index: int, groups: dict[EventType, ItemGroup]) -> None:
        if index == self._vocabulary.unknown:
            return
        time_ms = max(group.reference_ms for group in groups.values())
        self._values[index] = rows.popularity(groups.items(), time_ms, self._layout)[:-1]
        self._reference_ms[index] = time_ms

    def at(self, time_ms: int) -> FloatArray:
        """Trend values at a time that no absorbed event is after, float[T, N]."""
        elapsed = time_ms - self._reference_ms
        left = np.stack([np.exp2(-elapsed / half_life) for half_life in self._half_lives])
        values: FloatArray = np.log1p(self._values.T * left).astype(np.float32)
        return values
