"""Instants: what one person did at the same time, whole or cut in two. E events, I instants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from features.arrays import Int64Array
from trainer.examples.replay import BoolArray, Examples


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

    def split(self, share: float, generator: np.random.Generator) -> TieGroups:
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

    def with_any(self, wanted: BoolArray) -> TieGroups:
        """Those with an event of bool[E]."""
        before = np.concatenate([[0], np.cumsum(wanted)])
        return self._select(np.flatnonzero(before[self.ends] > before[self.firsts]))

    def _select(self, places: Int64Array) -> TieGroups:
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


def previous_times_ms(columns: Examples) -> Int64Array:
    """When the person did something last before each event's instant, int64[E].

    Of a person's first instant it says nothing.
    """
    change = (np.diff(columns.starts) != 0) | (np.diff(columns.times_ms) != 0)
    begins = np.concatenate([[True], change])
    first = np.maximum.accumulate(np.where(begins, np.arange(len(columns)), 0))
    before: Int64Array = columns.times_ms[np.maximum(first - 1, 0)]
    return before
