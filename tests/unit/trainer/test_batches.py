"""Batches hold each target once, with its own history, and forbid what its person had taken."""

from __future__ import annotations

import numpy as np
import pytest

from features.inputs import FloatArray
from features.rows import Layout
from features.settings import HOUR_MS
from features.vocabulary import FIRST_ITEM, UNKNOWN, Vocabulary
from trainer.batches import Batch, Batches
from trainer.data import Log
from trainer.examples import Examples, examples, observed_log, replay
from trainer.trends import Trends, trends

HISTORY = 8
WINDOW = 5


@pytest.fixture
def columns(small_log: Log, vocabulary: Vocabulary, layout: Layout) -> Examples:
    log = observed_log(small_log.events, small_log.items)
    return examples(list(replay(log, layout)), vocabulary, layout)


@pytest.fixture
def trended(small_log: Log, vocabulary: Vocabulary, layout: Layout) -> Trends:
    log = observed_log(small_log.events, small_log.items)
    return trends(log, vocabulary, layout, HOUR_MS)


def batches(columns: Examples, trended: Trends) -> Batches:
    return Batches(columns, trended, np.ones(len(columns), bool), HISTORY, WINDOW)


def histories(batch: Batch) -> list[tuple[int, list[int], int, FloatArray]]:
    """Target, items before it, request time and features, of each target."""
    asked = batch.asked
    length, requests = asked.items.shape[1], asked.request_times_ms.shape[1]
    found = []
    for target, place in zip(batch.targets, batch.places, strict=True):
        row, request = divmod(int(place), requests)
        newest = length - requests + request
        before = asked.items[row, max(0, newest + 1 - HISTORY) : newest + 1]
        found.append(
            (
                int(target),
                [int(item) for item in before if item],
                int(asked.request_times_ms[row, request]),
                asked.user_features[row, request].numpy(),
            )
        )
    return found


def expected_histories(columns: Examples) -> list[tuple[int, list[int], int]]:
    return [
        (
            int(columns.items[at]),
            columns.items[max(columns.starts[at], at - HISTORY) : at].tolist(),
            int(columns.times_ms[at]),
        )
        for at in np.flatnonzero(columns.wanted)
    ]


def test_an_epoch_has_every_target_once_with_the_history_before_it(
    columns: Examples, trended: Trends
) -> None:
    epoch = list(batches(columns, trended).epoch(3, np.random.default_rng(0)))
    found = [one[:3] for batch in epoch for one in histories(batch)]
    assert sorted(found) == sorted(expected_histories(columns))


def test_a_request_has_the_features_of_its_own_time(columns: Examples, trended: Trends) -> None:
    for right_after in (0.0, 1.0):
        known = columns.features_after_last if right_after else columns.features
        rows = {tuple(row) for row in known[columns.wanted]}
        (epoch,) = [list(batches(columns, trended).epoch(3, np.random.default_rng(0), right_after))]
        assert {tuple(one[3]) for batch in epoch for one in histories(batch)} == rows


def test_a_request_right_after_an_event_has_that_event_s_time(
    columns: Examples, trended: Trends
) -> None:
    for batch in batches(columns, trended).epoch(3, np.random.default_rng(0), 1.0):
        asked = batch.asked
        first = asked.items.shape[1] - asked.request_times_ms.shape[1]
        times = asked.times_ms[:, first:].reshape(-1)[batch.places]
        requests = asked.request_times_ms.reshape(-1)[batch.places]
        assert (requests[times > 0] == times[times > 0]).all()


def test_what_was_taken_before_is_forbidden_and_nothing_else(
    columns: Examples, trended: Trends
) -> None:
    expected = [
        (int(columns.items[at]), sorted({0, 1, *columns.items[columns.starts[at] : at].tolist()}))
        for at in np.flatnonzero(columns.wanted)
    ]
    found = [
        (int(target), np.flatnonzero(row).tolist())
        for batch in batches(columns, trended).epoch(3, np.random.default_rng(0))
        for target, row in zip(batch.targets, batch.forbidden, strict=True)
    ]
    assert sorted(found) == sorted(expected)
    assert len(found) > 100


def test_trends_are_those_of_the_request(columns: Examples, trended: Trends) -> None:
    for batch in batches(columns, trended).epoch(3, np.random.default_rng(0)):
        times = batch.asked.request_times_ms.reshape(-1)[batch.places].numpy()
        expected = trended.values[trended.at(times)]
        np.testing.assert_array_equal(batch.trends.numpy(), expected.astype(np.float32))


def test_unknown_items_are_read_but_never_targets(columns: Examples, trended: Trends) -> None:
    epoch = batches(columns, trended).epoch(3, np.random.default_rng(0), unknown_share=0.5)
    read, targets = zip(*[(batch.asked.items, batch.targets) for batch in epoch], strict=True)
    shares = [float((items == UNKNOWN).sum() / (items > 0).sum()) for items in read]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert all((target >= FIRST_ITEM).all() for target in targets)
