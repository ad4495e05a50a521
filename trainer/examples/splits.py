"""A window's new events cut in three by time, and a sample of what was before.

E events in the order of `Examples`.
"""

from dataclasses import dataclass

import numpy as np
from headwater_client.errors import DataError

from features.schema import Int64Array
from trainer.examples.replay import BoolArray, Examples
from trainer.settings import FineTuneSettings

# Events of one person in a row that are drawn together: a history is read once for all of them.
RUN_LENGTH = 32


@dataclass(frozen=True)
class DataSplits:
    """What a fine-tune does with which events, by their times.

    Learned: later than `since_ms` and before `stop_ms`. They tell when to stop: from there, before
    `judge_ms`. Kept for the gate: from there. All of an instant is in one of them.

    Attributes:
        since_ms: the newest event that the live version learned.
    """

    since_ms: int
    stop_ms: int
    judge_ms: int

    def learned_mask(self, times_ms: Int64Array) -> BoolArray:
        """Which are new and learned, bool[E]."""
        found: BoolArray = (times_ms > self.since_ms) & (times_ms < self.stop_ms)
        return found

    def stopping_mask(self, times_ms: Int64Array) -> BoolArray:
        """Which tell when to stop, bool[E]."""
        found: BoolArray = (times_ms >= self.stop_ms) & (times_ms < self.judge_ms)
        return found

    def holdout_mask(self, times_ms: Int64Array) -> BoolArray:
        """Which are kept for the gate, bool[E]."""
        found: BoolArray = times_ms >= self.judge_ms
        return found


def split_by_time(
    times_ms: Int64Array, since_ms: int | None, settings: FineTuneSettings
) -> DataSplits:
    """Cut what happened after a time; a window too small to be cut is learned whole.

    Args:
        times_ms: int64[E], in any order.
        since_ms: the newest event that the live version learned.

    Raises:
        DataError: nothing happened since, or nobody knows since when.
    """
    if since_ms is None:
        raise DataError(
            "the live version does not say what it was trained on: train from nothing: "
            "headwater train"
        )
    new = np.sort(times_ms[times_ms > since_ms])
    if not len(new):
        raise DataError(
            f"nothing to learn: none of the {len(times_ms)} events is later than {since_ms} ms, "
            "the newest that the live version has learned"
        )
    end_ms = int(new[-1]) + 1
    judge_ms = _cut(new, settings.gate_fraction, end_ms)
    stop_ms = _cut(new, settings.gate_fraction + settings.early_stopping_fraction, judge_ms)
    if stop_ms <= new[0]:
        return DataSplits(since_ms, end_ms, end_ms)
    return DataSplits(since_ms, stop_ms, judge_ms)


def _cut(ordered_ms: Int64Array, share: float, otherwise_ms: int) -> int:
    """The time from which the newest share of the events happened."""
    count = round(len(ordered_ms) * share)
    return int(ordered_ms[-count]) if count else otherwise_ms


def sample_runs(
    earlier: BoolArray, examples: Examples, count: int, generator: np.random.Generator
) -> BoolArray:
    """About so many of the earlier events, each as likely as any other: bool[E].

    They come in runs of a person's events: every run is as likely, so every event is.

    Args:
        earlier: bool[E].
    """
    within = np.arange(len(examples)) - examples.starts
    offsets = generator.integers(0, RUN_LENGTH, len(examples))[examples.starts]
    runs = np.stack([examples.starts, (within + offsets) // RUN_LENGTH])
    change = np.concatenate([[True], (np.diff(runs) != 0).any(0)])
    number = np.cumsum(change) - 1
    sizes = np.bincount(number[earlier], minlength=number[-1] + 1)
    order = generator.permutation(np.flatnonzero(sizes))
    chosen = order[: int(np.searchsorted(np.cumsum(sizes[order]), count))]
    found: BoolArray = np.isin(number, chosen) & earlier
    return found
