"""Training batches: stretches of people's histories, with every instant of a stretch to predict.

An instant is what one person did at the same time. Its order is not known, so all of it is
predicted from what lies strictly before, and none of it is a wrong answer for the rest.

B stretches, P requests of each, H events of history before the first, L columns of history,
M requests in all, K targets (events that are wanted), N items, T trends, F user features.
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
        asked: the histories, and a request for each instant of the stretches.
        people: int64[B], the first event of whose history each stretch belongs to.
        places: int64[M], where in the flattened requests [B * P] the requests are.
        rows: int64[K], which of the M requests each target belongs to.
        targets: int64[K], the item of each.
        events: int64[K], the event that each is.
        forbidden: bool[M, N], items taken before, and what is no item.
        together: bool[M, N], items of the request's instant.
        trends: float32[M, T, N], as of each request.
    """

    asked: Requests
    people: Tensor
    places: Tensor
    rows: Tensor
    targets: Tensor
    events: Tensor
    forbidden: Tensor
    together: Tensor
    trends: Tensor


@dataclass(frozen=True)
class Instants:
    """Instants with a target: int64[I] each.

    Their events are `firsts` up to before `ends`; their person's begin at `starts`.
    """

    starts: IntArray
    firsts: IntArray
    ends: IntArray


@dataclass(frozen=True)
class _Drawn:
    """What an epoch draws.

    Attributes:
        order: int64[E], the events, those of an instant in a random order.
        items: int64[E], what is read of each; some items are read as unknown.
        immediate: bool[E], requests made right after the event before.
    """

    order: IntArray
    items: IntArray
    immediate: BoolArray


class Batches:
    """Batches of the chosen targets of a log.

    Args:
        chosen: bool[E], which events may be targets.
        history: the largest H.
        window: events of a stretch, at most; an instant is never cut.
    """

    def __init__(
        self, examples: Examples, trends: Trends, chosen: BoolArray, history: int, window: int
    ) -> None:
        self.examples = examples
        self.trends = trends
        self.history = history
        self.window = window
        self.targets: BoolArray = examples.wanted & (examples.items >= FIRST_ITEM) & chosen
        self.instants = _instants(examples, self.targets)
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
        drawn = self._drawn(generator, immediate_share, unknown_share)
        for stretches in self._of_like_length(self._stretches(generator), size, generator):
            yield self._batch(stretches, drawn)

    def stretch_count(self) -> int:
        """How many stretches an epoch has, about."""
        return len(self._stretches(np.random.default_rng(0)))

    def _drawn(
        self, generator: np.random.Generator, immediate_share: float, unknown_share: float
    ) -> _Drawn:
        known, size = self.examples, len(self.examples)
        order = np.lexsort((generator.random(size), known.times_ms, known.starts))
        unknown = generator.random(size) < unknown_share
        return _Drawn(
            order=order,
            items=np.where(unknown, UNKNOWN, known.items),
            immediate=generator.random(size) < immediate_share,
        )

    def _stretches(self, generator: np.random.Generator) -> IntArray:
        """Instants of one person, cut at a random place: [first, end) of each, int64[n, 2]."""
        starts = self.instants.starts
        if not len(starts):
            return np.zeros((0, 2), np.int64)
        offsets = generator.integers(0, self.window, len(self.examples))
        block = (self.instants.firsts - starts + offsets[starts]) // self.window
        change = (np.diff(starts) != 0) | (np.diff(block) != 0)
        first = np.flatnonzero(np.concatenate([[True], change]))
        return np.stack([first, np.append(first[1:], len(starts))], 1)

    def _of_like_length(
        self, stretches: IntArray, size: int, generator: np.random.Generator
    ) -> list[IntArray]:
        """Random batches that waste little on padding: int64[size, 2] each."""
        begin, end = self._read(stretches)
        classes = (end - begin) // LENGTH_CLASS
        ordered = stretches[np.lexsort((generator.random(len(stretches)), classes))]
        batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def _read(self, stretches: IntArray) -> tuple[IntArray, IntArray]:
        """The events that each stretch reads, from and up to before: int64[B] each."""
        firsts, starts = self.instants.firsts, self.instants.starts
        begin = np.maximum(firsts[stretches[:, 0]] - self.history, starts[stretches[:, 0]])
        return begin, firsts[stretches[:, 1] - 1]

    def _batch(self, stretches: IntArray, drawn: _Drawn) -> Batch:
        wide = stretches[:, :1] + np.arange((stretches[:, 1] - stretches[:, 0]).max())
        inside = wide < stretches[:, 1:]
        wide = np.where(inside, wide, stretches[:, :1])
        places = np.flatnonzero(inside)
        instants = wide.reshape(-1)[places]
        asked, times_ms = self._requests(stretches, wide, drawn)
        rows, events = self._events_of(instants)
        wanted = self.targets[events]
        return Batch(
            asked=asked,
            people=torch.from_numpy(self.instants.starts[stretches[:, 0]]),
            places=torch.from_numpy(places),
            rows=torch.from_numpy(rows[wanted]),
            targets=torch.from_numpy(self.examples.items[events[wanted]]),
            events=torch.from_numpy(events[wanted]),
            forbidden=torch.from_numpy(
                self._forbidden(stretches, places // wide.shape[1], instants)
            ),
            together=torch.from_numpy(self._together(rows, events, len(instants))),
            trends=torch.from_numpy(
                self.trends.values[self.trends.at(times_ms.reshape(-1)[places])]
            ).float(),
        )

    def _requests(
        self, stretches: IntArray, wide: IntArray, drawn: _Drawn
    ) -> tuple[Requests, IntArray]:
        """Args: wide: int64[B, P], the instants asked for. Returns also int64[B, P], when."""
        known, firsts = self.examples, self.instants.firsts[wide]
        begin, end = self._read(stretches)
        length = max(1, int((end - begin).max()))
        columns = end[:, None] - length + np.arange(length)
        mine = columns >= begin[:, None]
        read = drawn.order[np.where(mine, columns, 0)]
        immediate = drawn.immediate[firsts]
        times_ms = np.where(immediate, self.at_last_ms[firsts], known.times_ms[firsts])
        features = np.where(
            immediate[:, :, None], known.features_after_last[firsts], known.features[firsts]
        )
        has_history = firsts > self.instants.starts[wide]
        newest = np.where(has_history, firsts - 1 - (end[:, None] - length), -1)
        asked = Requests(
            items=torch.from_numpy(np.where(mine, drawn.items[read], PADDING)),
            types=torch.from_numpy(np.where(mine, known.types[read], 0)),
            times_ms=torch.from_numpy(np.where(mine, known.times_ms[read], 0)),
            newest=torch.from_numpy(newest),
            request_times_ms=torch.from_numpy(times_ms),
            user_features=torch.from_numpy(features),
        )
        return asked, times_ms

    def _events_of(self, instants: IntArray) -> tuple[IntArray, IntArray]:
        """All events of M instants, and which of them each belongs to."""
        firsts, ends = self.instants.firsts[instants], self.instants.ends[instants]
        return _ranges(firsts, ends - firsts)

    def _together(self, rows: IntArray, events: IntArray, requests: int) -> BoolArray:
        found = np.zeros((requests, self.trends.values.shape[2]), np.bool_)
        found[rows, self.examples.items[events]] = True
        return found

    def _forbidden(self, stretches: IntArray, rows: IntArray, instants: IntArray) -> BoolArray:
        """What each request's person had taken before it, and what is no item: bool[M, N].

        Args:
            rows: int64[M], the stretch of each request.
        """
        begin = self.takes_before[self.instants.starts[stretches[:, 0]]]
        end = self.takes_before[self.instants.ends[stretches[:, 1] - 1]]
        row, take = _ranges(begin, end - begin)
        never = len(self.take_items)
        first_take = np.full((len(begin), self.trends.values.shape[2]), never, np.int32)
        first_take[row, self.take_items[take]] = take
        taken_before = self.takes_before[self.instants.firsts[instants]].astype(np.int32)
        forbidden: BoolArray = first_take[rows] < taken_before[:, None]
        forbidden[:, :FIRST_ITEM] = True
        return forbidden


def _instants(examples: Examples, targets: BoolArray) -> Instants:
    change = (np.diff(examples.starts) != 0) | (np.diff(examples.times_ms) != 0)
    firsts = np.flatnonzero(np.concatenate([[len(examples) > 0], change]))
    ends = np.append(firsts[1:], len(examples))
    before = np.concatenate([[0], np.cumsum(targets)])
    asked = before[ends] > before[firsts] if len(firsts) else np.zeros(0, np.bool_)
    firsts, ends = firsts[asked], ends[: len(asked)][asked]
    return Instants(examples.starts[firsts], firsts, ends)


def _ranges(firsts: IntArray, sizes: IntArray) -> tuple[IntArray, IntArray]:
    """The numbers of several ranges in a row, and which range each belongs to.

    >>> _ranges(np.array([5, 9]), np.array([2, 1]))
    (array([0, 0, 1]), array([5, 6, 9]))
    """
    rows = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rows, within + firsts[rows]


def _times_of_last(examples: Examples) -> IntArray:
    """The time of a person's event before each, its own where there is none: int64[E]."""
    before = np.roll(examples.times_ms, 1)
    first = examples.starts == np.arange(len(examples))
    return np.where(first, examples.times_ms, before)
