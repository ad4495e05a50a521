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
from headwater_client.event_types import PURCHASE

from features.arrays import Int64Array
from features.vocabulary import FIRST_ITEM, PADDING, UNKNOWN
from trainer.examples.instants import Instants, instants_of, shuffled, things_of
from trainer.examples.replay import BoolArray, Examples
from trainer.examples.requests import Batch, Requests
from trainer.examples.trends import Trends

LENGTH_CLASS = 16


@dataclass(frozen=True)
class Drawing:
    """What of an epoch is drawn otherwise than it was.

    Attributes:
        immediate_share: of requests, made right after the last event, not at the next.
        unknown_share: of history items, read as unknown.
        cut_share: of instants of several events, of which a part is asked for after the rest.
    """

    immediate_share: float = 0.0
    unknown_share: float = 0.0
    cut_share: float = 0.0


AS_IT_WAS = Drawing()


@dataclass(frozen=True)
class _Epoch:
    """What an epoch draws: the events of each instant in another order, and where it is cut.

    Attributes:
        order: int64[E], the event at each place.
        items: int64[E], that of each place.
        read: int64[E], what is read of each; some items are read as unknown.
        types: int64[E].
        targets: bool[E], which places may be targets.
        take_items: int64[W], the items of what is taken, in order.
        takes_before: int64[E + 1], how many of those lie before each place.
        immediate: bool[E], requests made right after the event before.
        instants: those with a target.
    """

    order: Int64Array
    items: Int64Array
    read: Int64Array
    types: Int64Array
    targets: BoolArray
    take_items: Int64Array
    takes_before: Int64Array
    immediate: BoolArray
    instants: Instants


class Batches:
    """Batches of the chosen targets of a log.

    Args:
        chosen: bool[E], which events may be targets.
        history: the largest H.
        window: events of a stretch, at most; no stretch ends within an instant, or a part of one.
    """

    def __init__(
        self, examples: Examples, trends: Trends, chosen: BoolArray, history: int, window: int
    ) -> None:
        self.examples = examples
        self.trends = trends
        self.history = history
        self.window = window
        self.targets: BoolArray = examples.wanted & (examples.items >= FIRST_ITEM) & chosen
        self.instants = instants_of(examples)
        self.things = things_of(examples)
        self.bought = _bought(examples, self.things)
        self.at_last_ms = _times_of_last(examples)

    def epoch(
        self, size: int, generator: np.random.Generator, drawing: Drawing = AS_IT_WAS
    ) -> Iterator[Batch]:
        """Batches of `size` stretches in a random order."""
        drawn = self._drawn(generator, drawing)
        stretches = self._stretches(drawn.instants, generator)
        for some in self._of_like_length(stretches, drawn, size, generator):
            yield self._batch(some, drawn)

    def stretch_count(self) -> int:
        """How many stretches an epoch has, about."""
        asked = self.instants.with_any(self.targets)
        return len(self._stretches(asked, np.random.default_rng(0)))

    def _drawn(self, generator: np.random.Generator, drawing: Drawing) -> _Epoch:
        known, size = self.examples, len(self.examples)
        order = shuffled(known, self.things, generator)
        items, takes, targets = known.items[order], known.takes[order], self.targets[order]
        unknown = generator.random(size) < drawing.unknown_share
        return _Epoch(
            order=order,
            items=items,
            read=np.where(unknown, UNKNOWN, items),
            types=known.types[order],
            targets=targets,
            take_items=items[takes],
            takes_before=np.concatenate([[0], np.cumsum(takes)]),
            immediate=generator.random(size) < drawing.immediate_share,
            instants=self.instants.cut(drawing.cut_share, generator).with_any(targets),
        )

    def _stretches(self, instants: Instants, generator: np.random.Generator) -> Int64Array:
        """Instants of one person, cut at a random place: [first, end) of each, int64[n, 2]."""
        starts = instants.starts
        if not len(starts):
            return np.zeros((0, 2), np.int64)
        offsets = generator.integers(0, self.window, len(self.examples))
        block = (instants.firsts - starts + offsets[starts]) // self.window
        change = (np.diff(starts) != 0) | (np.diff(block) != 0)
        first = np.flatnonzero(np.concatenate([[True], change]))
        return np.stack([first, np.append(first[1:], len(starts))], 1)

    def _of_like_length(
        self, stretches: Int64Array, drawn: _Epoch, size: int, generator: np.random.Generator
    ) -> list[Int64Array]:
        """Random batches that waste little on padding: int64[size, 2] each."""
        begin, end = self._read(stretches, drawn.instants)
        classes = (end - begin) // LENGTH_CLASS
        ordered = stretches[np.lexsort((generator.random(len(stretches)), classes))]
        batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def _read(self, stretches: Int64Array, instants: Instants) -> tuple[Int64Array, Int64Array]:
        """The events that each stretch reads, from and up to before: int64[B] each."""
        firsts, starts = instants.firsts, instants.starts
        begin = np.maximum(firsts[stretches[:, 0]] - self.history, starts[stretches[:, 0]])
        return begin, firsts[stretches[:, 1] - 1]

    def _batch(self, stretches: Int64Array, drawn: _Epoch) -> Batch:
        wide = stretches[:, :1] + np.arange((stretches[:, 1] - stretches[:, 0]).max())
        inside = wide < stretches[:, 1:]
        wide = np.where(inside, wide, stretches[:, :1])
        places = np.flatnonzero(inside)
        chosen = wide.reshape(-1)[places]
        asked, times_ms = self._requests(stretches, wide, drawn)
        instants = drawn.instants
        rows, events = _ranges(instants.firsts[chosen], (instants.ends - instants.firsts)[chosen])
        wanted = drawn.targets[events]
        targets = drawn.order[events[wanted]]
        return Batch(
            asked=asked,
            people=torch.from_numpy(instants.starts[stretches[:, 0]]),
            places=torch.from_numpy(places),
            rows=torch.from_numpy(rows[wanted]),
            targets=torch.from_numpy(self.examples.items[targets]),
            events=torch.from_numpy(targets),
            bought=torch.from_numpy(self.bought[targets]),
            forbidden=torch.from_numpy(
                self._forbidden(stretches, places // wide.shape[1], chosen, drawn)
            ),
            together=torch.from_numpy(self._together(chosen, drawn)),
            trends=torch.from_numpy(
                self.trends.values[self.trends.at(times_ms.reshape(-1)[places])]
            ).float(),
        )

    def _requests(
        self, stretches: Int64Array, wide: Int64Array, drawn: _Epoch
    ) -> tuple[Requests, Int64Array]:
        """Args: wide: int64[B, P], the instants asked for. Returns also int64[B, P], when."""
        known, firsts = self.examples, drawn.instants.firsts[wide]
        begin, end = self._read(stretches, drawn.instants)
        length = max(1, int((end - begin).max()))
        columns = end[:, None] - length + np.arange(length)
        mine = columns >= begin[:, None]
        read = np.where(mine, columns, 0)
        immediate = drawn.immediate[firsts]
        times_ms = np.where(immediate, self.at_last_ms[firsts], known.times_ms[firsts])
        features = np.where(
            immediate[:, :, None], known.features_after_last[firsts], known.features[firsts]
        )
        has_history = firsts > drawn.instants.starts[wide]
        newest = np.where(has_history, firsts - 1 - (end[:, None] - length), -1)
        asked = Requests(
            items=torch.from_numpy(np.where(mine, drawn.read[read], PADDING)),
            types=torch.from_numpy(np.where(mine, drawn.types[read], 0)),
            times_ms=torch.from_numpy(np.where(mine, known.times_ms[read], 0)),
            newest=torch.from_numpy(newest),
            request_times_ms=torch.from_numpy(times_ms),
            user_features=torch.from_numpy(features),
        )
        return asked, times_ms

    def _together(self, chosen: Int64Array, drawn: _Epoch) -> BoolArray:
        """What belongs to the whole instant of each request: bool[M, N]."""
        firsts, ends = drawn.instants.whole_firsts[chosen], drawn.instants.whole_ends[chosen]
        rows, events = _ranges(firsts, ends - firsts)
        found = np.zeros((len(chosen), self.trends.values.shape[2]), np.bool_)
        found[rows, drawn.items[events]] = True
        return found

    def _forbidden(
        self, stretches: Int64Array, rows: Int64Array, chosen: Int64Array, drawn: _Epoch
    ) -> BoolArray:
        """What each request's person had taken before it, and what is no item: bool[M, N].

        Args:
            rows: int64[M], the stretch of each request.
            chosen: int64[M], its instant.
        """
        instants, before = drawn.instants, drawn.takes_before
        begin = before[instants.starts[stretches[:, 0]]]
        end = before[instants.ends[stretches[:, 1] - 1]]
        row, take = _ranges(begin, end - begin)
        never = len(drawn.take_items)
        first_take = np.full((len(begin), self.trends.values.shape[2]), never, np.int32)
        first_take[row, drawn.take_items[take]] = take
        taken_before = before[instants.firsts[chosen]].astype(np.int32)
        forbidden: BoolArray = first_take[rows] < taken_before[:, None]
        forbidden[:, :FIRST_ITEM] = True
        return forbidden


def _ranges(firsts: Int64Array, sizes: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The numbers of several ranges in a row, and which range each belongs to.

    >>> _ranges(np.array([5, 9]), np.array([2, 1]))
    (array([0, 0, 1]), array([5, 6, 9]))
    """
    rows = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rows, within + firsts[rows]


def _times_of_last(examples: Examples) -> Int64Array:
    """The time of a person's event before each, its own where there is none: int64[E]."""
    before = np.roll(examples.times_ms, 1)
    first = examples.starts == np.arange(len(examples))
    return np.where(first, examples.times_ms, before)


def _bought(examples: Examples, things: Int64Array) -> BoolArray:
    """Whether the event, or another of its instant and item, is a purchase: bool[E]."""
    bought = np.zeros(len(examples), np.bool_)
    bought[things[examples.types == PURCHASE.code]] = True
    return bought[things]
