"""Training batches: stretches of people's histories, with every event of a stretch to predict.

B stretches, W events to predict in each, H events of history before them, L = H + W - 1, M targets
(the events of the batch that are wanted), N items, T trends, F user features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.inputs import IntArray
from features.vocabulary import FIRST_ITEM, PADDING, UNKNOWN
from trainer.examples import BoolArray, Examples
from trainer.model import Requests
from trainer.trends import Trends

LENGTH_CLASS = 16


@dataclass(frozen=True)
class Batch:
    """One step.

    Attributes:
        asked: the histories, a request for each event of the stretches.
        places: int64[M], where in the flattened requests [B * W] the targets are.
        targets: int64[M], the item of each.
        forbidden: bool[M, N], items taken before, and what is no item.
        trends: float32[M, T, N], as of each request.
    """

    asked: Requests
    places: Tensor
    targets: Tensor
    forbidden: Tensor
    trends: Tensor


class Batches:
    """Batches of the targets in one range of time of one order of the log.

    Args:
        chosen: bool[E], which events may be targets.
        history: the largest H.
        window: the largest W.
    """

    def __init__(
        self, examples: Examples, trends: Trends, chosen: BoolArray, history: int, window: int
    ) -> None:
        self.examples = examples
        self.trends = trends
        self.history = history
        self.window = window
        known = examples.items >= FIRST_ITEM
        self.targets: BoolArray = examples.wanted & known & chosen
        self.at_last_ms = _times_of_last(examples)
        self.takes_before = np.concatenate([[0], np.cumsum(examples.takes)])
        self.take_items = examples.items[examples.takes]

    def epoch(
        self,
        size: int,
        generator: np.random.Generator,
        immediate_share: float = 0.0,
        unknown_share: float = 0.0,
    ) -> Iterator[Batch]:
        """Batches of `size` stretches in a random order.

        Args:
            immediate_share: of requests made right after the last event, not at the next.
            unknown_share: of history items read as unknown.
        """
        immediate = generator.random(len(self.examples)) < immediate_share
        unknown = generator.random(len(self.examples)) < unknown_share
        items = np.where(unknown, UNKNOWN, self.examples.items)
        for stretches in self._of_like_length(self._stretches(generator), size, generator):
            yield self._batch(stretches, items, immediate)

    def stretch_count(self) -> int:
        """How many stretches an epoch has at most."""
        return len(self._stretches(np.random.default_rng(0)))

    def _stretches(self, generator: np.random.Generator) -> IntArray:
        """Stretches with a target, [start, end) each, cut at a random place: int64[n, 2]."""
        starts = self.examples.starts
        place = np.arange(len(starts)) - starts
        offsets = generator.integers(0, self.window, len(starts))
        block = (place + offsets[starts]) // self.window
        first = np.flatnonzero(
            np.concatenate([[True], (np.diff(starts) != 0) | (np.diff(block) != 0)])
        )
        ends = np.append(first[1:], len(starts))
        return _with_a_target(first, ends, self.targets)

    def _of_like_length(
        self, stretches: IntArray, size: int, generator: np.random.Generator
    ) -> list[IntArray]:
        """Random batches that waste little on padding: int64[size, 2] each."""
        begin = np.maximum(stretches[:, 0] - self.history, self.examples.starts[stretches[:, 0]])
        classes = (stretches[:, 1] - begin) // LENGTH_CLASS
        ordered = stretches[np.lexsort((generator.random(len(stretches)), classes))]
        batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def _batch(self, stretches: IntArray, items: IntArray, immediate: BoolArray) -> Batch:
        window = int((stretches[:, 1] - stretches[:, 0]).max())
        wanted = stretches[:, :1] + np.arange(window)
        inside = wanted < stretches[:, 1:]
        wanted = np.where(inside, wanted, 0)
        flat = np.flatnonzero(inside & self.targets[wanted])
        events = wanted.reshape(-1)[flat]
        times = np.where(immediate[wanted], self.at_last_ms[wanted], self.examples.times_ms[wanted])
        asked = self._requests(stretches, wanted, times, items, immediate)
        snapshots = self.trends.at(times.reshape(-1)[flat])
        return Batch(
            asked=asked,
            places=torch.from_numpy(flat),
            targets=torch.from_numpy(self.examples.items[events]),
            forbidden=torch.from_numpy(self._forbidden(stretches, flat // window, events)),
            trends=torch.from_numpy(self.trends.values[snapshots]).float(),
        )

    def _requests(
        self,
        stretches: IntArray,
        wanted: IntArray,
        times_ms: IntArray,
        items: IntArray,
        immediate: BoolArray,
    ) -> Requests:
        starts = self.examples.starts[stretches[:, :1]]
        history = int(np.clip(stretches[:, :1] - starts, 1, self.history).max())
        columns = stretches[:, :1] + np.arange(-history, wanted.shape[1] - 1)
        mine = (columns >= starts) & (columns < stretches[:, 1:])
        columns = np.where(mine, columns, 0)
        features = np.where(
            immediate[wanted][:, :, None],
            self.examples.features_after_last[wanted],
            self.examples.features[wanted],
        )
        return Requests(
            items=torch.from_numpy(np.where(mine, items[columns], PADDING)),
            types=torch.from_numpy(np.where(mine, self.examples.types[columns], 0)),
            times_ms=torch.from_numpy(np.where(mine, self.examples.times_ms[columns], 0)),
            request_times_ms=torch.from_numpy(times_ms),
            user_features=torch.from_numpy(features),
        )

    def _forbidden(self, stretches: IntArray, rows: IntArray, events: IntArray) -> BoolArray:
        """What each target's person had taken before it, and what is no item: bool[M, N]."""
        begin = self.takes_before[self.examples.starts[stretches[:, 0]]]
        end = self.takes_before[stretches[:, 1]]
        size = end - begin
        row = np.repeat(np.arange(len(size)), size)
        take = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + begin[row]
        never = len(self.take_items)
        first_take = np.full((len(size), self.trends.values.shape[2]), never, np.int32)
        first_take[row, self.take_items[take]] = take
        taken_before = self.takes_before[events].astype(np.int32)
        forbidden: BoolArray = first_take[rows] < taken_before[:, None]
        forbidden[:, :FIRST_ITEM] = True
        return forbidden


def _times_of_last(examples: Examples) -> IntArray:
    """The time of a person's event before each, its own where there is none: int64[E]."""
    before = np.roll(examples.times_ms, 1)
    first = examples.starts == np.arange(len(examples))
    return np.where(first, examples.times_ms, before)


def _with_a_target(starts: IntArray, ends: IntArray, targets: BoolArray) -> IntArray:
    before = np.concatenate([[0], np.cumsum(targets)])
    some = before[ends] > before[starts]
    return np.stack([starts[some], ends[some]], 1)
