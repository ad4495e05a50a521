"""VariantCounters of a rollout's variants: binned, summed, and stored as Feast columns."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.event_types import PURCHASE

from deploy.rollout.feedback.consumer import decode_feedback, encode_feedback
from deploy.rollout.feedback.counters import (
    BUCKETS,
    FeedbackRow,
    VariantCounters,
    VariantList,
    bucket_of,
    quantile_ms,
    sum_counters,
)
from features.store import FEEDBACK
from features.topics import Hash, hash64


def counters_of(*latencies_ms: float, items: tuple[str, ...] = ("a", "b")) -> VariantCounters:
    counters = VariantCounters()
    for at, latency_ms in enumerate(latencies_ms):
        hashes = list(map(hash64, items))
        counters.add_list(VariantList(at % BUCKETS, hashes, 1.5, latency_ms))
    return counters


def test_a_row_comes_back_as_it_was_written() -> None:
    row = FeedbackRow(
        {"canary": counters_of(3, 40), "baseline": counters_of(5)}, {Hash(7): 12, Hash(3): 0}, 5
    )
    row.variant("canary").add_reward(4, 0.63, PURCHASE.code)
    columns = encode_feedback(row)
    assert set(columns) == set(FEEDBACK.columns)
    again = decode_feedback(columns)
    assert (again.offsets, again.until_ms) == (row.offsets, 5)
    for name, counters in row.counters.items():
        for field in ("shown", "reward", "latencies", "scores", "items"):
            assert np.array_equal(getattr(again.variant(name), field), getattr(counters, field))
        assert again.variant(name).counts == counters.counts
    assert encode_feedback(again) == columns


def test_nothing_stored_is_an_empty_row() -> None:
    assert decode_feedback(dict.fromkeys(FEEDBACK.columns)) == FeedbackRow({}, {})
    empty = FeedbackRow({}, {Hash(1): 5})
    assert decode_feedback(encode_feedback(empty)) == empty


def test_partitions_add_up() -> None:
    total = sum_counters([counters_of(2, 2), counters_of(900, items=("b", "c"))])
    assert (total.counts["requests"], total.shown.sum(), total.coverage()) == (3, 3, 3)
    assert 900 <= quantile_ms(total.latencies, 0.99) <= 900 * 1.15


@pytest.mark.parametrize("items", [10, 500, 3000])
def test_coverage_is_about_right(items: int) -> None:
    counters = counters_of(1.0, items=tuple(f"i{n}" for n in range(items)))
    assert counters.coverage() == pytest.approx(items, rel=0.05)


def test_what_failed_has_no_score() -> None:
    counters = VariantCounters()
    counters.add_list(VariantList(0, [], None, 150.0, failed=True, fallback=True))
    counts = counters.counts
    assert (counts["failed"], counts["fallbacks"], counters.scores.sum()) == (1, 1, 0)


def test_people_are_spread_over_buckets_apart_from_their_variant() -> None:
    buckets = np.bincount([bucket_of("r", f"u{n}") for n in range(6400)], minlength=BUCKETS)
    assert buckets.min() > 60
    assert bucket_of("r", "ann") != bucket_of("another", "ann")
