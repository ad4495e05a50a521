"""A partition's counters: each message once, whatever was read again after a crash."""

from __future__ import annotations

import random

import pytest
from headwater_client.events import Click, Reason, Recommendation, RecommendedItem, Shadow

from deploy.rollout.feedback.consumer import decode_feedback, encode_feedback
from deploy.rollout.feedback.counters import FeedbackRow
from deploy.rollout.feedback.ledger import FeedbackMessage, FeedbackScope, Ledger
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
    return Ledger(FeedbackScope("r", 0, WINDOW_MS), row or FeedbackRow({}, {}))


def log(people: int = 40) -> list[FeedbackMessage]:
    reads = []
    for n in range(people):
        variant = "canary" if n % 2 else "baseline"
        reads.append(FeedbackMessage(SHOWN, n, 10 * n, answer(n, variant)))
        reads.append(FeedbackMessage(CLICKED, n, 10 * n + 5, click(n)))
    return reads


def test_what_is_shown_and_clicked_is_counted_by_variant() -> None:
    found = ledger()
    for read in log():
        found.apply(read)
    canary, baseline = found.row.variant("canary"), found.row.variant("baseline")
    assert (canary.counts["requests"], canary.shown.sum(), canary.counts["clicked"]) == (20, 20, 20)
    assert baseline.reward.sum() == pytest.approx(20 * 0.6309, rel=1e-3)
    assert canary.latencies.sum() == 20


def test_a_persons_scores_count_once_a_visit_and_variant() -> None:
    found = ledger()
    for n, variant in enumerate(["canary", "canary", "baseline", "canary"]):
        found.apply(FeedbackMessage(SHOWN, n, 10 * n, answer(n, variant, user_id="ann")))
    assert (
        found.row.variant("canary").scores.sum() == found.row.variant("baseline").scores.sum() == 1
    )
    found.apply(FeedbackMessage(SHOWN, 4, WINDOW_MS + 31, answer(4, user_id="ann")))
    assert found.row.variant("canary").scores.sum() == 2
    assert found.row.variant("canary").counts["requests"] == 4


@pytest.mark.parametrize("seed", range(5))
def test_a_crash_at_any_moment_changes_no_counter(seed: int) -> None:
    """The row as of some moment, and then everything of the window again."""
    whole = ledger()
    for read in log():
        whole.apply(read)
    reads, chance = log(), random.Random(seed)
    died = chance.randrange(len(reads))
    before = ledger()
    for read in reads[:died]:
        before.apply(read)
    again = ledger(decode_feedback(encode_feedback(before.row)))
    for read in reads:
        again.apply(read)
    assert encode_feedback(again.row) == encode_feedback(whole.row)


def test_other_rollouts_people_without_a_trial_and_broken_messages_do_not_count() -> None:
    found = ledger()
    found.apply(FeedbackMessage(SHOWN, 0, 1, answer(0, rollout_id="another")))
    found.apply(FeedbackMessage(SHOWN, 1, 2, answer(1, "stable")))
    found.apply(FeedbackMessage(CLICKED, 0, 3, None))
    found.apply(FeedbackMessage(CLICKED, 1, 4, click(0)))
    assert not found.row.counters
    assert found.row.offsets == {SHOWN: 1, CLICKED: 1}


def test_a_shadow_is_counted_beside_what_was_shown() -> None:
    found = ledger()
    shadow = Shadow(model_version="3", items=["i9"], score=1.0, latency_ms=5.0)
    found.apply(FeedbackMessage(SHOWN, 0, 1, answer(0, "stable", shadow=shadow)))
    failed = Shadow(model_version="3", failed="not numbers", latency_ms=150.0)
    found.apply(FeedbackMessage(SHOWN, 1, 2, answer(1, "stable", shadow=failed)))
    shown, unseen = (found.row.variant(name).counts for name in ("stable", "shadow"))
    assert shown["requests"] == unseen["requests"] == 2
    assert (unseen["failed"], shown["failed"]) == (1, 0)
