"""Batches ask once an instant, from what lies strictly before, for every target exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from headwater_client.event_types import PURCHASE
from headwater_client.events import Click, Interaction

from features.schema import FIRST_ITEM, PADDING, UNKNOWN, FeatureSchema, Int64Array, Vocabulary
from features.settings import HOUR_MS, FeatureSettings
from tests.harness.columns import columns_of
from trainer.datasets import Log
from trainer.examples import Examples, ItemTrends, compute_trends, observe_log
from trainer.examples.batches import Augmentation, Batch, Batches

HISTORY = 8
WINDOW = 5


def batches(columns: Examples, trended: ItemTrends, window: int = WINDOW) -> Batches:
    return Batches(columns, trended, np.ones(len(columns), bool), HISTORY, window)


def epoch(
    columns: Examples, trended: ItemTrends, seed: int = 0, right_after: float = 0.0
) -> list[Batch]:
    return list(
        batches(columns, trended).epoch(3, np.random.default_rng(seed), Augmentation(right_after))
    )


class Asked(NamedTuple):
    """A request and its place in a batch."""

    batch: Batch
    at: int
    row: int
    column: int

    @property
    def events(self) -> list[int]:
        return self.batch.events[self.batch.rows == self.at].tolist()

    @property
    def targets(self) -> list[int]:
        return self.batch.targets[self.batch.rows == self.at].tolist()

    @property
    def newest(self) -> int:
        return int(self.batch.requests.newest[self.row, self.column])

    @property
    def history(self) -> slice:
        """The columns that a model of `HISTORY` events reads, padding left out."""
        items = self.batch.requests.items[self.row]
        there = int((items[: self.newest + 1] != PADDING).sum())
        return slice(self.newest + 1 - min(HISTORY, there), self.newest + 1)

    @property
    def time_ms(self) -> int:
        return int(self.batch.requests.request_times_ms[self.row, self.column])


def requests(found: list[Batch]) -> Iterator[Asked]:
    for batch in found:
        width = batch.requests.request_times_ms.shape[1]
        for at, place in enumerate(batch.positions.tolist()):
            yield Asked(batch, at, *divmod(place, width))


def instant(columns: Examples, event: int) -> Int64Array:
    """All events of the person at the time of one."""
    same = (columns.starts == columns.starts[event]) & (columns.times_ms == columns.times_ms[event])
    return np.flatnonzero(same)


def before(columns: Examples, event: int) -> Int64Array:
    """The person's events strictly before the time of one."""
    mine = columns.starts == columns.starts[event]
    return np.flatnonzero(mine & (columns.times_ms < columns.times_ms[event]))


def test_the_log_has_instants_of_several_events(columns: Examples) -> None:
    """What these tests are about."""
    sizes = [len(instant(columns, at)) for at in range(len(columns))]
    assert sum(size > 1 for size in sizes) > 50


def test_an_epoch_has_every_wanted_target_once(columns: Examples, trended: ItemTrends) -> None:
    for seed in range(5):
        found = epoch(columns, trended, seed)
        events = torch.cat([batch.events for batch in found]).tolist()
        assert sorted(events) == np.flatnonzero(columns.is_target).tolist()
        for batch in found:
            assert batch.targets.tolist() == columns.items[batch.events.numpy()].tolist()


def test_only_chosen_events_are_targets_but_all_are_read(
    columns: Examples, trended: ItemTrends
) -> None:
    chosen = np.arange(len(columns)) % 3 == 0
    some = Batches(columns, trended, chosen, HISTORY, WINDOW)
    found = list(some.epoch(3, np.random.default_rng(0)))
    events = [event for one in requests(found) for event in one.events]
    assert sorted(events) == np.flatnonzero(columns.is_target & chosen).tolist()
    for one in requests(found):
        newest = before(columns, one.events[0])[-HISTORY:]
        read = one.batch.requests.times_ms[one.row, one.history]
        assert read.tolist() == columns.times_ms[newest].tolist()


def test_an_instant_is_one_request_with_all_its_targets(
    columns: Examples, trended: ItemTrends
) -> None:
    """So no segment cuts an instant, wherever it was cut."""
    for seed in range(5):
        for one in requests(epoch(columns, trended, seed)):
            (first, *_) = one.events
            together = instant(columns, first)
            assert sorted(one.events) == together[columns.is_target[together]].tolist()


def test_an_instant_longer_than_a_stretch_stays_whole(vocabulary: Vocabulary) -> None:
    schema = FeatureSchema(FeatureSettings(history_length=HISTORY))
    times = [0, 1] + [2] * 7 + [3, 4]
    log = clicks([f"i{at}" for at in range(len(times))], times)
    columns = columns_of(log, vocabulary, schema)
    trended = compute_trends(observe_log(log.events, []), vocabulary, schema, HOUR_MS)
    for seed in range(5):
        found = list(batches(columns, trended, window=2).epoch(3, np.random.default_rng(seed)))
        sizes = sorted(len(one.events) for one in requests(found))
        assert sizes == [1, 1, 1, 1, 7]


def clicks(items: list[str], times: list[int]) -> Log:
    """Of one person."""
    events: list[Interaction] = [
        Click(event_id=f"e{at}", user_id="u", item_id=item, timestamp=10**12 + time)
        for at, (item, time) in enumerate(zip(items, times, strict=True))
    ]
    return Log(events, [])


def test_a_request_reads_exactly_the_newest_events_strictly_before_its_instant(
    columns: Examples, trended: ItemTrends
) -> None:
    lengths = set()
    for one in requests(epoch(columns, trended)):
        asked, mine = one.batch.requests, before(columns, one.events[0])
        newest = mine[-HISTORY:]
        assert (one.newest < 0) == (len(mine) == 0)
        lengths.add(len(newest))
        times = asked.times_ms[one.row, one.history]
        assert times.tolist() == columns.times_ms[newest].tolist()
        # Events of one instant stand in any order: the oldest instant may be cut within it.
        whole = newest[columns.times_ms[newest] > columns.times_ms[newest[:1]].sum()]
        read = slice(one.newest + 1 - len(whole), one.newest + 1)
        for found, known in ((asked.items, columns.items), (asked.types, columns.types)):
            assert sorted(found[one.row, read].tolist()) == sorted(known[whole].tolist())
        oldest = instant(columns, newest[0]) if len(newest) else newest
        assert set(asked.items[one.row, one.history].tolist()) <= set(
            columns.items[[*oldest, *whole]].tolist()
        )
    assert lengths == set(range(HISTORY + 1))


def test_the_order_within_an_instant_is_drawn_anew_and_nothing_else_moves(
    vocabulary: Vocabulary, schema: FeatureSchema
) -> None:
    times = [0, 1, 1, 1, 2]
    log = clicks([f"i{at}" for at in range(5)], times)
    columns = columns_of(log, vocabulary, schema)
    trended = compute_trends(observe_log(log.events, []), vocabulary, schema, HOUR_MS)
    once = batches(columns, trended, window=1000)
    orders = set()
    generator = np.random.default_rng(0)
    for _ in range(50):
        for batch in once.epoch(3, generator):
            if batch.requests.items.shape[1] == 4:
                (row,) = batch.requests.items.tolist()
                orders.add(tuple(row))
    first, *instant_items = vocabulary.indices_of([f"i{at}" for at in range(4)]).tolist()
    assert {order[0] for order in orders} == {first}
    assert {tuple(sorted(order[1:])) for order in orders} == {tuple(instant_items)}
    assert len(orders) == 6


def test_an_item_s_type_moves_with_it(columns: Examples, trended: ItemTrends) -> None:
    pairs = set(zip(columns.items.tolist(), columns.types.tolist(), strict=True))
    assert len(pairs) > len({item for item, _ in pairs})
    for batch in epoch(columns, trended):
        found = torch.stack([batch.requests.items, batch.requests.types], 2).flatten(0, 1).tolist()
        assert {(item, kind) for item, kind in found if item} <= pairs


def test_together_are_the_items_of_the_instant_and_no_others(
    columns: Examples, trended: ItemTrends
) -> None:
    several = 0
    for one in requests(epoch(columns, trended)):
        expected = set(columns.items[instant(columns, one.events[0])].tolist())
        assert set(np.flatnonzero(one.batch.tied[one.at]).tolist()) == expected
        assert set(one.targets) <= expected
        several += len(expected) > 1
    assert several > 20


def test_what_was_taken_before_the_instant_is_forbidden_and_nothing_else(
    columns: Examples, trended: ItemTrends
) -> None:
    for one in requests(epoch(columns, trended)):
        mine = before(columns, one.events[0])
        taken = columns.items[mine[columns.marks_seen[mine]]].tolist()
        expected = {*range(FIRST_ITEM), *taken}
        assert set(np.flatnonzero(one.batch.excluded[one.at]).tolist()) == expected
        assert not set(one.targets) & expected


def test_what_was_looked_at_is_not_forbidden_where_only_purchases_take(
    small_log: Log, vocabulary: Vocabulary, trended: ItemTrends
) -> None:
    bought = FeatureSchema(FeatureSettings(history_length=HISTORY, seen_by=frozenset({"purchase"})))
    columns = columns_of(small_log, vocabulary, bought)
    found = 0
    for one in requests(epoch(columns, trended)):
        mine = before(columns, one.events[0])
        taken = set(columns.items[mine[columns.types[mine] == 2]].tolist())
        assert set(np.flatnonzero(one.batch.excluded[one.at]).tolist()) == {0, 1, *taken}
        found += len(taken) < len(set(columns.items[mine].tolist()))
    assert found > 100


def test_a_request_has_the_time_and_features_of_its_own_instant(
    columns: Examples, trended: ItemTrends
) -> None:
    """Those before the first event of the instant: nothing of the instant is in them."""
    for one in requests(epoch(columns, trended)):
        first = instant(columns, one.events[0])[0]
        assert one.time_ms == columns.times_ms[first]
        features = one.batch.requests.user_features[one.row, one.column].numpy()
        np.testing.assert_array_equal(features, columns.features[first])


def test_a_request_right_after_an_event_has_that_event_s_time_and_features(
    columns: Examples, trended: ItemTrends
) -> None:
    for one in requests(epoch(columns, trended, right_after=1.0)):
        first, mine = instant(columns, one.events[0])[0], before(columns, one.events[0])
        expected = columns.times_ms[mine[-1] if len(mine) else first]
        assert one.time_ms == expected
        if len(mine):
            assert one.time_ms == int(one.batch.requests.times_ms[one.row, one.newest])
        features = one.batch.requests.user_features[one.row, one.column].numpy()
        np.testing.assert_array_equal(features, columns.features_after_last[first])


def test_a_stretch_names_its_person(columns: Examples, trended: ItemTrends) -> None:
    for one in requests(epoch(columns, trended)):
        assert int(one.batch.users[one.row]) == int(columns.starts[one.events[0]])


def test_trends_are_those_of_the_request(columns: Examples, trended: ItemTrends) -> None:
    for right_after in (0.0, 1.0):
        for batch in epoch(columns, trended, right_after=right_after):
            times = batch.requests.request_times_ms.reshape(-1)[batch.positions].numpy()
            expected = trended.values[trended.snapshot_indices(times)]
            np.testing.assert_array_equal(batch.trends.numpy(), expected.astype(np.float32))


def test_unknown_items_are_read_but_never_targets(columns: Examples, trended: ItemTrends) -> None:
    found = batches(columns, trended).epoch(
        3, np.random.default_rng(0), Augmentation(unknown_share=0.5)
    )
    read, targets = zip(*[(batch.requests.items, batch.targets) for batch in found], strict=True)
    shares = [float((items == UNKNOWN).sum() / (items > 0).sum()) for items in read]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert all((target >= FIRST_ITEM).all() for target in targets)


def test_what_nobody_wants_makes_no_batch(columns: Examples, trended: ItemTrends) -> None:
    none = Batches(columns, trended, np.zeros(len(columns), bool), HISTORY, WINDOW)
    assert list(none.epoch(3, np.random.default_rng(0))) == []
    assert none.segment_count() == 0


def cut_epoch(columns: Examples, trended: ItemTrends, seed: int) -> list[Batch]:
    generator = np.random.default_rng(seed)
    return list(batches(columns, trended).epoch(3, generator, Augmentation(cut_share=1.0)))


def test_a_cut_instant_still_has_every_target_once(columns: Examples, trended: ItemTrends) -> None:
    for seed in range(5):
        events = torch.cat([batch.events for batch in cut_epoch(columns, trended, seed)]).tolist()
        assert sorted(events) == np.flatnonzero(columns.is_target).tolist()


def test_the_second_part_of_an_instant_has_read_the_first(
    columns: Examples, trended: ItemTrends
) -> None:
    seconds = 0
    for one in requests(
        [batch for seed in range(3) for batch in cut_epoch(columns, trended, seed)]
    ):
        together = instant(columns, one.events[0])
        read = one.batch.requests.times_ms[one.row, one.history].numpy()
        items = one.batch.requests.items[one.row, one.history].numpy()
        same = read == columns.times_ms[together[0]]
        strictly = before(columns, one.events[0])
        assert (~same).sum() == min(len(strictly), HISTORY - same.sum())
        first = items[same].tolist()
        assert set(first) <= set(columns.items[together].tolist())
        assert not set(first) & set(one.targets)
        seconds += bool(first)
    assert seconds > 20


def test_what_the_first_part_took_is_forbidden_and_no_wrong_answer(
    columns: Examples, trended: ItemTrends
) -> None:
    for one in requests(cut_epoch(columns, trended, 0)):
        mine, together = before(columns, one.events[0]), instant(columns, one.events[0])
        taken = set(columns.items[mine[columns.marks_seen[mine]]].tolist())
        excluded = set(np.flatnonzero(one.batch.excluded[one.at]).tolist())
        assert {*range(FIRST_ITEM), *taken} <= excluded
        assert excluded - {*range(FIRST_ITEM), *taken} <= set(columns.items[together].tolist())
        assert not set(one.targets) & excluded
        expected = set(columns.items[together].tolist())
        assert set(np.flatnonzero(one.batch.tied[one.at]).tolist()) == expected


def test_a_target_is_bought_where_a_purchase_of_it_is_at_its_instant(
    columns: Examples, trended: ItemTrends
) -> None:
    found = 0
    for batch in epoch(columns, trended):
        for event, bought in zip(batch.events.tolist(), batch.purchased.tolist(), strict=True):
            same = instant(columns, event)
            same = same[columns.items[same] == columns.items[event]]
            assert bought == (columns.types[same] == PURCHASE.code).any()
            found += bought
    assert 20 < found < columns.is_target.sum()
