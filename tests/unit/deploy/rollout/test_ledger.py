"""A partition's counters: each message once, whatever was read again after a crash."""

from __future__ import annotations

import random

import pytest
from headwater_client.events import Click, Reason, Recommendation, RecommendedItem, Shadow

from deploy.rollout.ledger import Ledger, Read
from features.columns import decode_feedback, encode_feedback
from features.feedback import FeedbackRow
from features.topics import Hash

SHOWN, CLICKED = Hash(1), Hash(2)
WINDOW_MS = 100_000


def answer(number: int, variant: str = "canary", **known: object) -> Recommendation:
    items = [RecommendedItem(f"i{number + n}", 2.0 - n, Reason("trending")) for n in range(3)]
    fields = {
        "rollout_id": "r",
        "fallback": False,
        "latency_ms": 12.0,
        "recommendation_id": f"id{number}",
        "user_id": f"u{number % 3}",
        **known,
    }
    return Recommendation(
        event_id="e",
        items=items,
        model_version="2",
        variant=variant,
        event_time=1,
        produced_time=1,
        **fields,  # type: ignore[arg-type]
    )


def click(number: int) -> Click:
    return Click(
        event_id=f"c{number}",
        user_id=f"u{number % 3}",
        item_id=f"i{number + 1}",
        timestamp=10**12,
    )


def ledger(row: FeedbackRow | None = None) -> Ledger:
    return Ledger("r", row or FeedbackRow({}, {}), WINDOW_MS, purchase_weight=1.0)


def log(people: int = 40) -> list[Read]:
    reads = []
    for n in range(people):
        variant = "canary" if n % 2 else "baseline"
        reads.append(Read(SHOWN, n, 10 * n, answer(n, variant)))
        reads.append(Read(CLICKED, n, 10 * n + 5, click(n)))
    return reads


def test_what_is_shown_and_clicked_is_counted_by_variant() -> None:
    found = ledger()
    for read in log():
        found.take(read)
    canary, baseline = found.row.of("canary"), found.row.of("baseline")
    assert (canary.requests, canary.shown.sum(), canary.clicked) == (20, 20, 20)
    assert baseline.reward.sum() == pytest.approx(20 * 0.6309, rel=1e-3)
    assert canary.latencies.sum() == 20


def test_a_persons_scores_count_once_a_visit_and_variant() -> None:
    found = ledger()
    for n, variant in enumerate(["canary", "canary", "baseline", "canary"]):
        found.take(Read(SHOWN, n, 10 * n, answer(n, variant, user_id="ann")))
    assert found.row.of("canary").scores.sum() == found.row.of("baseline").scores.sum() == 1
    found.take(Read(SHOWN, 4, WINDOW_MS + 31, answer(4, user_id="ann")))
    assert found.row.of("canary").scores.sum() == 2
    assert found.row.of("canary").requests == 4


@pytest.mark.parametrize("seed", range(5))
def test_a_crash_at_any_moment_changes_no_counter(seed: int) -> None:
    """The row as of some moment, and then everything of the window again."""
    whole = ledger()
    for read in log():
        whole.take(read)
    reads, chance = log(), random.Random(seed)
    died = chance.randrange(len(reads))
    before = ledger()
    for read in reads[:died]:
        before.take(read)
    again = ledger(decode_feedback(encode_feedback(before.row)))
    for read in reads:
        again.take(read)
    assert encode_feedback(again.row) == encode_feedback(whole.row)


def test_other_rollouts_people_without_a_trial_and_broken_messages_do_not_count() -> None:
    found = ledger()
    found.take(Read(SHOWN, 0, 1, answer(0, rollout_id="another")))
    found.take(Read(SHOWN, 1, 2, answer(1, "stable")))
    found.take(Read(CLICKED, 0, 3, None))
    found.take(Read(CLICKED, 1, 4, click(0)))
    assert not found.row.counters
    assert found.row.offsets == {SHOWN: 1, CLICKED: 1}


def test_a_shadow_is_counted_beside_what_was_shown() -> None:
    found = ledger()
    shadow = Shadow(model_version="3", items=["i9"], score=1.0, latency_ms=5.0)
    found.take(Read(SHOWN, 0, 1, answer(0, "stable", shadow=shadow)))
    failed = Shadow(model_version="3", failed="not numbers", latency_ms=150.0)
    found.take(Read(SHOWN, 1, 2, answer(1, "stable", shadow=failed)))
    assert found.row.of("stable").requests == found.row.of("shadow").requests == 2
    assert (found.row.of("shadow").failed, found.row.of("stable").failed) == (1, 0)
