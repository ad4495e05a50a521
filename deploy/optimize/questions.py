"""Held-out events as requests to a graph: what was known before each, and what was taken then.

E events, Q questions, L history, X excluded items. Live trends are not asked about: they are added
to what the graph answers, whatever form it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.arrays import Int64Array
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM, PADDING, Vocabulary
from trainer.datasets.log import Log
from trainer.examples.replay import BoolArray, Examples, examples, observed_log, replay
from trainer.export.parity import Arrays

BATCH = 64


@dataclass(frozen=True)
class Questions:
    """Requests, and the right item of each.

    Attributes:
        feeds: the graph's inputs, for all questions at once.
        targets: int64[Q].
    """

    feeds: Arrays
    targets: Int64Array

    def batches(self, size: int = BATCH) -> Iterator[tuple[Arrays, Int64Array]]:
        """The questions, some at a time."""
        parts = portions(self.feeds, size)
        for start, feeds in zip(range(0, len(self.targets), size), parts, strict=True):
            yield feeds, self.targets[start : start + size]


def portions(feeds: Arrays, size: int) -> Iterator[Arrays]:
    """Requests, some at a time."""
    for start in range(0, len(next(iter(feeds.values()))), size):
        yield {name: one[start : start + size] for name, one in feeds.items()}


def questions(
    earlier: Log, later: Log, vocabulary: Vocabulary, schema: FeatureSchema, most: int
) -> Questions:
    """Events of a log that the vocabulary knows, evenly spread, asked for one step ahead.

    Args:
        earlier: what happened before `later`; histories only.
        most: so many questions, at most.
    """
    events = observed_log([*earlier.events, *later.events], later.items)
    columns = examples(replay(events, schema), vocabulary, schema)
    chosen = np.flatnonzero(_askable(columns) & (columns.times_ms >= later.events[0].timestamp))
    chosen = chosen[
        np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(np.int64)
    ]
    return _asked(columns, chosen, schema)


def newest_questions(columns: Examples, schema: FeatureSchema, most: int) -> Questions:
    """The newest events that the vocabulary of `columns` knows, at most so many."""
    askable = np.flatnonzero(_askable(columns))
    newest = np.argsort(columns.times_ms[askable], kind="stable")[-most:]
    return _asked(columns, askable[newest], schema)


def _askable(columns: Examples) -> BoolArray:
    """Events that could have been recommended, bool[E]."""
    found: BoolArray = columns.wanted & (columns.items >= FIRST_ITEM)
    return found


def _asked(columns: Examples, chosen: Int64Array, schema: FeatureSchema) -> Questions:
    return Questions(_feeds(columns, chosen, schema), columns.items[chosen])


def _feeds(columns: Examples, chosen: Int64Array, schema: FeatureSchema) -> Arrays:
    """The graph's inputs for these events, each asked for at its own time."""
    firsts = _instants(columns)[chosen]
    at = firsts[:, None] + np.arange(-schema.settings.history_length, 0)
    there = at >= columns.starts[firsts][:, None]
    at = np.where(there, at, 0)
    return {
        "item_indices": np.where(there, columns.items[at], PADDING),
        "event_types": np.where(there, columns.types[at], 0),
        "event_times_ms": np.where(there, columns.times_ms[at], 0),
        "request_time_ms": columns.times_ms[firsts][:, None],
        "user_features": columns.features[firsts],
        "candidate_items": np.zeros((len(chosen), 0), np.int64),
        "excluded_items": _taken(columns, firsts),
    }


def _instants(columns: Examples) -> Int64Array:
    """The first event of each event's instant, int64[E]: none foretells the others."""
    places = np.arange(len(columns))
    begins = np.ones(len(columns), np.bool_)
    begins[1:] = (np.diff(columns.times_ms) != 0) | (np.diff(columns.starts) != 0)
    found: Int64Array = np.maximum.accumulate(np.where(begins, places, 0))
    return found


def _taken(columns: Examples, firsts: Int64Array) -> Int64Array:
    """What each person had taken before, int64[Q, X], filled up with padding."""
    lists = [
        columns.items[start:first][columns.takes[start:first]]
        for start, first in zip(columns.starts[firsts].tolist(), firsts.tolist(), strict=True)
    ]
    taken = np.full((len(lists), max(map(len, lists), default=0)), PADDING, np.int64)
    for row, items in zip(taken, lists, strict=True):
        row[: len(items)] = items
    return taken
