"""Held-out events as requests to a graph: what was known before each, and what was taken then.

E events, R requests, L history, X excluded items. Requests name no trending items: the worker adds
their scores to the graph's answer, whatever variant gave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.arrays import Int64Array
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM, PADDING, Vocabulary
from trainer.datasets import Log
from trainer.examples import BoolArray, Examples, build_examples, observe_log, replay_log
from trainer.export import Arrays

BATCH = 64


@dataclass(frozen=True)
class EvalRequests:
    """Requests, and the right item of each.

    Attributes:
        feeds: the graph's inputs by name, [R, ...].
        targets: int64[R].
    """

    feeds: Arrays
    targets: Int64Array

    def batches(self, size: int = BATCH) -> Iterator[tuple[Arrays, Int64Array]]:
        """Feeds and targets, `size` requests at a time."""
        parts = split_feeds(self.feeds, size)
        for start, feeds in zip(range(0, len(self.targets), size), parts, strict=True):
            yield feeds, self.targets[start : start + size]


def split_feeds(feeds: Arrays, size: int) -> Iterator[Arrays]:
    """Feeds, `size` requests at a time."""
    for start in range(0, len(next(iter(feeds.values()))), size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def sample_requests(
    earlier: Log, later: Log, vocabulary: Vocabulary, schema: FeatureSchema, limit: int
) -> EvalRequests:
    """Requests for events of a log that the vocabulary knows, evenly spread, one step ahead.

    Args:
        earlier: events before `later`, for the histories only.
        limit: on the number of requests.
    """
    events = observe_log([*earlier.events, *later.events], later.items)
    columns = build_examples(replay_log(events, schema), vocabulary, schema)
    chosen = np.flatnonzero(
        _is_recommendable(columns) & (columns.times_ms >= later.events[0].timestamp)
    )
    chosen = chosen[
        np.linspace(0, len(chosen) - 1, min(limit, len(chosen))).round().astype(np.int64)
    ]
    return _requests_for(columns, chosen, schema)


def newest_requests(columns: Examples, schema: FeatureSchema, limit: int) -> EvalRequests:
    """Requests for the newest events that the vocabulary of `columns` knows."""
    candidates = np.flatnonzero(_is_recommendable(columns))
    newest = np.argsort(columns.times_ms[candidates], kind="stable")[-limit:]
    return _requests_for(columns, candidates[newest], schema)


def _is_recommendable(columns: Examples) -> BoolArray:
    """Events that could have been recommended, bool[E]."""
    recommendable: BoolArray = columns.is_target & (columns.items >= FIRST_ITEM)
    return recommendable


def _requests_for(columns: Examples, chosen: Int64Array, schema: FeatureSchema) -> EvalRequests:
    return EvalRequests(_feeds(columns, chosen, schema), columns.items[chosen])


def _feeds(columns: Examples, chosen: Int64Array, schema: FeatureSchema) -> Arrays:
    """The graph's inputs for these events, each asked for at its own time."""
    firsts = _tie_starts(columns)[chosen]
    rows = firsts[:, None] + np.arange(-schema.settings.history_length, 0)
    exists = rows >= columns.starts[firsts][:, None]
    rows = np.where(exists, rows, 0)
    return {
        "item_indices": np.where(exists, columns.items[rows], PADDING),
        "event_types": np.where(exists, columns.types[rows], 0),
        "event_times_ms": np.where(exists, columns.times_ms[rows], 0),
        "request_time_ms": columns.times_ms[firsts][:, None],
        "user_features": columns.features[firsts],
        "candidate_items": np.zeros((len(chosen), 0), np.int64),
        "excluded_items": _seen_items(columns, firsts),
    }


def _tie_starts(columns: Examples) -> Int64Array:
    """The first event of each event's instant, int64[E]: requests see none of their own instant."""
    places = np.arange(len(columns))
    begins = np.ones(len(columns), np.bool_)
    begins[1:] = (np.diff(columns.times_ms) != 0) | (np.diff(columns.starts) != 0)
    starts: Int64Array = np.maximum.accumulate(np.where(begins, places, 0))
    return starts


def _seen_items(columns: Examples, firsts: Int64Array) -> Int64Array:
    """The items that each person had taken before, int64[R, X], padded."""
    lists = [
        columns.items[start:first][columns.marks_seen[start:first]]
        for start, first in zip(columns.starts[firsts].tolist(), firsts.tolist(), strict=True)
    ]
    taken = np.full((len(lists), max(map(len, lists), default=0)), PADDING, np.int64)
    for row, items in zip(taken, lists, strict=True):
        row[: len(items)] = items
    return taken
