"""Training batches: segments of people's histories, with every instant of a segment to predict.

An instant is what one person did at the same time. Its order is not known, so all of it is
predicted from what lies strictly before, and none of it is a wrong answer for the rest.

B segments, P requests of each, H events of history before the first, L columns of history,
M requests in all, K targets (events that are wanted), N items, T trends, F user features,
E events, I instants.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from headwater_client.event_types import PURCHASE
from torch import Tensor

from features.schema import FIRST_ITEM, PADDING, UNKNOWN, Int64Array
from trainer.examples.replay import BoolArray, Examples, ItemTrends


@dataclass(frozen=True)
class TieGroups:
    """Instants, or parts of them, of all people: int64[I] each.

    Attributes:
        starts: where the events of their person begin.
        firsts: where their own events begin.
        ends: up to before which those go.
        whole_firsts: where the whole instant begins.
        whole_ends: up to before which that goes.
    """

    starts: Int64Array
    firsts: Int64Array
    ends: Int64Array
    whole_firsts: Int64Array
    whole_ends: Int64Array

    def __len__(self) -> int:
        return len(self.firsts)

    def split(self, share: float, generator: np.random.Generator) -> "TieGroups":
        """A share of those with several events in two parts, cut at a random place."""
        sizes = self.ends - self.firsts
        chosen = (sizes > 1) & (generator.random(len(self)) < share)
        places = self.firsts + generator.integers(1, np.maximum(sizes, 2))
        parts = np.repeat(np.arange(len(self)), 1 + chosen)
        second = np.concatenate([[False], parts[1:] == parts[:-1]])
        first = np.concatenate([second[1:], [False]])
        twice = self._select(parts)
        return replace(
            twice,
            firsts=np.where(second, places[parts], twice.firsts),
            ends=np.where(first, places[parts], twice.ends),
        )

    def with_any(self, wanted: BoolArray) -> "TieGroups":
        """Those with an event of bool[E]."""
        before = np.concatenate([[0], np.cumsum(wanted)])
        return self._select(np.flatnonzero(before[self.ends] > before[self.firsts]))

    def _select(self, places: Int64Array) -> "TieGroups":
        return TieGroups(
            self.starts[places],
            self.firsts[places],
            self.ends[places],
            self.whole_firsts[places],
            self.whole_ends[places],
        )


def find_tie_groups(examples: Examples) -> TieGroups:
    """All instants, none cut."""
    change = (np.diff(examples.starts) != 0) | (np.diff(examples.times_ms) != 0)
    firsts = np.flatnonzero(np.concatenate([[True], change])[: len(examples)])
    ends = np.append(firsts[1:], len(examples))[: len(firsts)]
    return TieGroups(examples.starts[firsts], firsts, ends, firsts, ends)


def number_tied_items(examples: Examples) -> Int64Array:
    """Numbers of what was done: events of a person, an instant and an item share one, int64[E]."""
    keys = (examples.items, examples.times_ms, examples.starts)
    order = np.lexsort(keys)
    other = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    found = np.zeros(len(examples), np.int64)
    found[order[1:]] = np.cumsum(other)
    return found


def shuffle_ties(
    examples: Examples, things: Int64Array, generator: np.random.Generator
) -> Int64Array:
    """The events, those of an instant in a random order: int64[E].

    A click and a purchase of the same item must not come apart: one would tell of the other.

    Args:
        things: of `number_tied_items`.
    """
    drawn = generator.random(len(examples))[things]
    return np.lexsort((drawn, examples.times_ms, examples.starts))


LENGTH_CLASS = 16


@dataclass(frozen=True)
class Requests:
    """Histories, and the requests made of each. Padding stands where nothing happened.

    Attributes:
        items, types, times_ms: int64[B, L].
        newest: int64[B, P], the column of the newest event before each request; -1 for none.
        request_times_ms: int64[B, P].
        user_features: float32[B, P, F].
    """

    items: Tensor
    types: Tensor
    times_ms: Tensor
    newest: Tensor
    request_times_ms: Tensor
    user_features: Tensor

    @classmethod
    def from_histories(
        cls,
        items: Tensor,
        types: Tensor,
        times_ms: Tensor,
        request_time_ms: Tensor,
        user_features: Tensor,
    ) -> "Requests":
        """One request after the last column of each history, as the exported graph is asked.

        Args:
            items, types, times_ms: int64[B, L].
            request_time_ms: int64[B, 1].
            user_features: float32[B, F].
        """
        newest = torch.full_like(request_time_ms, items.shape[1] - 1)
        return cls(items, types, times_ms, newest, request_time_ms, user_features[:, None, :])


@dataclass(frozen=True)
class ScoredRequests:
    """The requests that every item is scored for.

    Attributes:
        requests: histories, and all requests made of each.
        positions: int64[M], the scored ones among the flattened requests [B * P].
        trends: float32[M, T, N], as of each scored request.
    """

    requests: Requests
    positions: Tensor
    trends: Tensor


@dataclass(frozen=True)
class Batch:
    """What a model is trained or judged on in one step.

    Attributes:
        requests: the histories, and a request for each tie group of the segments.
        users: int64[B], the first event of whose history each segment belongs to.
        positions: int64[M], where in the flattened requests [B * P] the requests are.
        rows: int64[K], which of the M requests each target belongs to.
        targets: int64[K], the item of each.
        events: int64[K], the event that each is.
        purchased: bool[K], whether the item was bought at that time.
        excluded: bool[M, N], items taken before, and what is no item.
        tied: bool[M, N], items of the request's tie group.
        trends: float32[M, T, N], as of each request.
    """

    requests: Requests
    users: Tensor
    positions: Tensor
    rows: Tensor
    targets: Tensor
    events: Tensor
    purchased: Tensor
    excluded: Tensor
    tied: Tensor
    trends: Tensor

    @property
    def scored_requests(self) -> ScoredRequests:
        """The requests with a target."""
        return ScoredRequests(self.requests, self.positions, self.trends)


@dataclass(frozen=True)
class Augmentation:
    """What of an epoch is draw otherwise than it was.

    Attributes:
        immediate_share: of requests, made right after the last event, not at the next.
        unknown_share: of history items, read as unknown.
        cut_share: of instants of several events, of which a part is asked for after the rest.
    """

    immediate_share: float = 0.0
    unknown_share: float = 0.0
    cut_share: float = 0.0


NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class _EpochDraw:
    """What an epoch draws: the events of each instant in another order, and where it is cut.

    Attributes:
        order: int64[E], the event at each place.
        items: int64[E], that of each place.
        read: int64[E], what is read of each; some items are read as unknown.
        types: int64[E].
        targets: bool[E], which places may be targets.
        seen_items: int64[W], the items of what is taken, in order.
        seen_before: int64[E + 1], how many of those lie before each place.
        immediate: bool[E], requests made right after the event before.
        groups: those with a target.
    """

    order: Int64Array
    items: Int64Array
    read: Int64Array
    types: Int64Array
    targets: BoolArray
    seen_items: Int64Array
    seen_before: Int64Array
    immediate: BoolArray
    groups: TieGroups


class Batches:
    """Batches of the chosen targets of a log.

    Args:
        chosen: bool[E], which events may be targets.
        history: the largest H.
        window: events of a segment, at most; no segment ends within an instant, or a part of one.
    """

    def __init__(
        self, examples: Examples, trends: ItemTrends, chosen: BoolArray, history: int, window: int
    ) -> None:
        self.examples = examples
        self.trends = trends
        self.history = history
        self.window = window
        self.targets: BoolArray = examples.is_target & (examples.items >= FIRST_ITEM) & chosen
        self.groups = find_tie_groups(examples)
        self.item_groups = number_tied_items(examples)
        self.purchased = _purchased_mask(examples, self.item_groups)
        self.at_last_ms = _last_event_times_ms(examples)

    def epoch(
        self,
        size: int,
        generator: np.random.Generator,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> Iterator[Batch]:
        """Batches of `size` segments in a random order."""
        draw = self._draw_epoch(generator, augmentation)
        segments = self._cut_segments(draw.groups, generator)
        for some in self._group_by_length(segments, draw, size, generator):
            yield self._build_batch(some, draw)

    def segment_count(self) -> int:
        """How many segments an epoch has, about."""
        groups = self.groups.with_any(self.targets)
        return len(self._cut_segments(groups, np.random.default_rng(0)))

    def _draw_epoch(self, generator: np.random.Generator, augmentation: Augmentation) -> _EpochDraw:
        known, size = self.examples, len(self.examples)
        order = shuffle_ties(known, self.item_groups, generator)
        items, marks_seen, targets = (
            known.items[order],
            known.marks_seen[order],
            self.targets[order],
        )
        unknown = generator.random(size) < augmentation.unknown_share
        return _EpochDraw(
            order=order,
            items=items,
            read=np.where(unknown, UNKNOWN, items),
            types=known.types[order],
            targets=targets,
            seen_items=items[marks_seen],
            seen_before=np.concatenate([[0], np.cumsum(marks_seen)]),
            immediate=generator.random(size) < augmentation.immediate_share,
            groups=self.groups.split(augmentation.cut_share, generator).with_any(targets),
        )

    def _cut_segments(self, groups: TieGroups, generator: np.random.Generator) -> Int64Array:
        """Instants of one person, cut at a random place: [first, end) of each, int64[n, 2]."""
        starts = groups.starts
        if not len(starts):
            return np.zeros((0, 2), np.int64)
        offsets = generator.integers(0, self.window, len(self.examples))
        block = (groups.firsts - starts + offsets[starts]) // self.window
        change = (np.diff(starts) != 0) | (np.diff(block) != 0)
        first = np.flatnonzero(np.concatenate([[True], change]))
        return np.stack([first, np.append(first[1:], len(starts))], 1)

    def _group_by_length(
        self, segments: Int64Array, draw: _EpochDraw, size: int, generator: np.random.Generator
    ) -> list[Int64Array]:
        """Random batches that waste little on padding: int64[size, 2] each."""
        begin, end = self._read_ranges(segments, draw.groups)
        classes = (end - begin) // LENGTH_CLASS
        ordered = segments[np.lexsort((generator.random(len(segments)), classes))]
        batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def _read_ranges(
        self, segments: Int64Array, groups: TieGroups
    ) -> tuple[Int64Array, Int64Array]:
        """The events that each segment reads, from and up to before: int64[B] each."""
        firsts, starts = groups.firsts, groups.starts
        begin = np.maximum(firsts[segments[:, 0]] - self.history, starts[segments[:, 0]])
        return begin, firsts[segments[:, 1] - 1]

    def _build_batch(self, segments: Int64Array, draw: _EpochDraw) -> Batch:
        wide = segments[:, :1] + np.arange((segments[:, 1] - segments[:, 0]).max())
        inside = wide < segments[:, 1:]
        wide = np.where(inside, wide, segments[:, :1])
        places = np.flatnonzero(inside)
        chosen = wide.reshape(-1)[places]
        requests, times_ms = self._build_requests(segments, wide, draw)
        groups = draw.groups
        rows, events = _ranges(groups.firsts[chosen], (groups.ends - groups.firsts)[chosen])
        is_target = draw.targets[events]
        targets = draw.order[events[is_target]]
        return Batch(
            requests=requests,
            users=torch.from_numpy(groups.starts[segments[:, 0]]),
            positions=torch.from_numpy(places),
            rows=torch.from_numpy(rows[is_target]),
            targets=torch.from_numpy(self.examples.items[targets]),
            events=torch.from_numpy(targets),
            purchased=torch.from_numpy(self.purchased[targets]),
            excluded=torch.from_numpy(
                self._excluded_items(segments, places // wide.shape[1], chosen, draw)
            ),
            tied=torch.from_numpy(self._tied_items(chosen, draw)),
            trends=torch.from_numpy(
                self.trends.values[self.trends.snapshot_indices(times_ms.reshape(-1)[places])]
            ).float(),
        )

    def _build_requests(
        self, segments: Int64Array, wide: Int64Array, draw: _EpochDraw
    ) -> tuple[Requests, Int64Array]:
        """Args: wide: int64[B, P], the instants asked for. Returns also int64[B, P], when."""
        known, firsts = self.examples, draw.groups.firsts[wide]
        begin, end = self._read_ranges(segments, draw.groups)
        length = max(1, int((end - begin).max()))
        columns = end[:, None] - length + np.arange(length)
        mine = columns >= begin[:, None]
        read = np.where(mine, columns, 0)
        immediate = draw.immediate[firsts]
        times_ms = np.where(immediate, self.at_last_ms[firsts], known.times_ms[firsts])
        features = np.where(
            immediate[:, :, None], known.features_after_last[firsts], known.features[firsts]
        )
        has_history = firsts > draw.groups.starts[wide]
        newest = np.where(has_history, firsts - 1 - (end[:, None] - length), -1)
        requests = Requests(
            items=torch.from_numpy(np.where(mine, draw.read[read], PADDING)),
            types=torch.from_numpy(np.where(mine, draw.types[read], 0)),
            times_ms=torch.from_numpy(np.where(mine, known.times_ms[read], 0)),
            newest=torch.from_numpy(newest),
            request_times_ms=torch.from_numpy(times_ms),
            user_features=torch.from_numpy(features),
        )
        return requests, times_ms

    def _tied_items(self, chosen: Int64Array, draw: _EpochDraw) -> BoolArray:
        """What belongs to the whole instant of each request: bool[M, N]."""
        firsts, ends = draw.groups.whole_firsts[chosen], draw.groups.whole_ends[chosen]
        rows, events = _ranges(firsts, ends - firsts)
        found = np.zeros((len(chosen), self.trends.values.shape[2]), np.bool_)
        found[rows, draw.items[events]] = True
        return found

    def _excluded_items(
        self, segments: Int64Array, rows: Int64Array, chosen: Int64Array, draw: _EpochDraw
    ) -> BoolArray:
        """What each request's person had taken before it, and what is no item: bool[M, N].

        Args:
            rows: int64[M], the segment of each request.
            chosen: int64[M], its instant.
        """
        groups, before = draw.groups, draw.seen_before
        begin = before[groups.starts[segments[:, 0]]]
        end = before[groups.ends[segments[:, 1] - 1]]
        row, take = _ranges(begin, end - begin)
        never = len(draw.seen_items)
        first_seen = np.full((len(begin), self.trends.values.shape[2]), never, np.int32)
        first_seen[row, draw.seen_items[take]] = take
        seen_by_then = before[groups.firsts[chosen]].astype(np.int32)
        excluded: BoolArray = first_seen[rows] < seen_by_then[:, None]
        excluded[:, :FIRST_ITEM] = True
        return excluded


def _ranges(firsts: Int64Array, sizes: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The numbers of several ranges in a row, and which range each belongs to.

    >>> _ranges(np.array([5, 9]), np.array([2, 1]))
    (array([0, 0, 1]), array([5, 6, 9]))
    """
    rows = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rows, within + firsts[rows]


def _last_event_times_ms(examples: Examples) -> Int64Array:
    """The time of a person's event before each, its own where there is none: int64[E]."""
    before = np.roll(examples.times_ms, 1)
    first = examples.starts == np.arange(len(examples))
    return np.where(first, examples.times_ms, before)


def _purchased_mask(examples: Examples, item_groups: Int64Array) -> BoolArray:
    """Whether the event, or another of its instant and item, is a purchase: bool[E]."""
    bought = np.zeros(len(examples), np.bool_)
    bought[item_groups[examples.types == PURCHASE.code]] = True
    return bought[item_groups]
