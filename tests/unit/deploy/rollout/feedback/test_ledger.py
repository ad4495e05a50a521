"""A partition's counters: each message once, whatever was read again after a crash."""

from __future__ import annotations

import random

import msgspec
import pytest
from headwater_client import Hide, Impression
from headwater_client.events import (
    Click,
    PlacementTrial,
    Reason,
    Recommendation,
    RecommendedItem,
    Shadow,
)

from deploy.rollout.evidence import collect_inputs
from deploy.rollout.feedback.attribution import MAX_COUNTED
from deploy.rollout.feedback.consumer import decode_feedback, encode_feedback
from deploy.rollout.feedback.counters import FeedbackRow
from deploy.rollout.feedback.ledger import FeedbackMessage, FeedbackScope, Ledger
from deploy.rollout.guards import broken_guards
from deploy.rollout.settings import RolloutSettings
from features.topics import Hash

SHOWN, CLICKED, SEEN = Hash(1), Hash(2), Hash(3)
WINDOW_MS = 100_000


def answer(number: int, variant: str = "canary", **known: object) -> Recommendation:
    items = [RecommendedItem(f"i{number + n}", 2.0 - n, Reason("trending")) for n in range(3)]
    fields = {
        "rollout_id": "r",
        "fallback": False,
        "latency_ms": 12.0,
        "recommendation_id": f"id{number}",
        "user_id": f"u{number % 3}",
        "event_id": "e",
        **known,
    }
    return Recommendation(
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


def test_a_bot_weighs_no_more_than_the_busiest_person() -> None:
    """In each stretch of the window's length; and a crash forgets nothing of it."""
    reads = []
    for n in range(300):
        known = {"user_id": "bot", "recommendation_id": f"id{n}"}
        reads.append(FeedbackMessage(SHOWN, n, 10 * n, answer(7, **known)))
        event = Click(event_id=f"c{n}", user_id="bot", item_id="i7", timestamp=10**12)
        reads.append(FeedbackMessage(CLICKED, n, 10 * n + 5, event))
    found = ledger()
    for read in reads:
        found.apply(read)
    canary = found.row.variant("canary")
    assert (canary.counts["requests"], canary.shown.sum()) == (MAX_COUNTED, MAX_COUNTED)
    assert (canary.counts["earned"], canary.reward.sum()) == (MAX_COUNTED, MAX_COUNTED)
    before = ledger()
    for read in reads[:70]:
        before.apply(read)
    again = ledger(decode_feedback(encode_feedback(before.row)))
    for read in reads:
        again.apply(read)
    assert encode_feedback(again.row) == encode_feedback(found.row)
    later = Click(event_id="later", user_id="bot", item_id="i7", timestamp=10**12)
    found.apply(FeedbackMessage(SHOWN, 300, WINDOW_MS, answer(7, user_id="bot", event_id="f")))
    found.apply(FeedbackMessage(CLICKED, 300, WINDOW_MS + 1, later))
    assert canary.counts["earned"] == MAX_COUNTED + 1


def test_coverage_is_of_as_many_lists_and_one_a_person_and_visit() -> None:
    """A bot with 5,000 lists in the baseline, and ten times as many people, show no more items."""
    found, offset = ledger(), 0

    def show(variant: str, user_id: str, first_item: int) -> None:
        nonlocal offset
        known = {"user_id": user_id, "recommendation_id": f"id{offset}"}
        found.apply(FeedbackMessage(SHOWN, offset, offset, answer(first_item, variant, **known)))
        offset += 1

    for n in range(5000):
        show("baseline", "bot", 10 * n)
    for n in range(400):
        show("canary", f"c{n}", n)
        for m in range(10):
            show("baseline", f"b{n}-{m}", 400 * m + n)
    inputs = collect_inputs(found.row.counters, 1.0, shadow=False)
    ours, theirs = inputs.canary_health, inputs.baseline_health
    assert (ours.counts["covers"], theirs.counts["covers"]) == (400, 401)
    assert ours.coverage == pytest.approx(402, rel=0.05)
    assert theirs.coverage < 3 * 420
    assert (ours.people, theirs.people) == pytest.approx((400, 4001), rel=0.05)


def test_a_version_that_shows_few_items_is_seen_beside_its_baseline() -> None:
    found = ledger()
    for n in range(300):
        for at, variant in enumerate(("canary", "baseline")):
            known = {"user_id": f"{variant}{n}", "recommendation_id": f"id{n}{variant}"}
            shown = answer(n if variant == "baseline" else n % 5, variant, **known)
            found.apply(FeedbackMessage(SHOWN, 2 * n + at, n, shown))
    inputs = collect_inputs(found.row.counters, 1.0, shadow=False)
    assert broken_guards(inputs, RolloutSettings()).startswith("coverage: 7 items shown")


def log_with_impressions(share: int, people: int = 400) -> list[FeedbackMessage]:
    """Of one list in so many its person has seen the first two places, before the click."""
    reads = []
    for n in range(people):
        name, at_ms = f"u{n}", 10 * n
        shown = answer(n, "canary" if n % 2 else "baseline", user_id=name)
        reads.append(FeedbackMessage(SHOWN, n, at_ms, shown))
        if n % (2 * share) < 2:
            seen = Impression(
                event_id=f"s{n}",
                user_id=name,
                recommendation_id=f"id{n}",
                position=1,
                timestamp=10**12,
            )
            reads.append(FeedbackMessage(SEEN, n, at_ms + 1, seen))
        clicked = msgspec.structs.replace(click(n), user_id=name)
        reads.append(FeedbackMessage(CLICKED, n, at_ms + 5, clicked))
    return reads


def test_where_impressions_come_what_was_seen_counts() -> None:
    found = ledger()
    for read in log_with_impressions(share=2):
        found.apply(read)
    inputs = collect_inputs(found.row.counters, 1.0, shadow=False)
    assert inputs.of_seen
    assert inputs.canary.shown.sum() == inputs.baseline.shown.sum() == 100
    # Each of those who saw it has clicked what stood in the second place.
    assert inputs.canary.reward.sum() == pytest.approx(100 * 0.6309, rel=1e-3)
    # Failures and times are of all that was sent.
    assert inputs.canary_health.requests == 200
    assert inputs.canary_health.coverage < found.row.variant("canary").coverage()


@pytest.mark.parametrize("share", [1000, 400])
def test_a_few_impressions_do_not_decide(share: int) -> None:
    found = ledger()
    for read in log_with_impressions(share):
        found.apply(read)
    inputs = collect_inputs(found.row.counters, 1.0, shadow=False)
    assert not inputs.of_seen
    assert inputs.canary.shown.sum() == 200


def test_a_restart_at_any_moment_counts_what_was_seen_alike() -> None:
    whole, reads = ledger(), log_with_impressions(share=2, people=60)
    for read in reads:
        whole.apply(read)
    draw = random.Random(3)
    row = FeedbackRow({}, {})
    for crash in [*sorted(draw.sample(range(len(reads)), 5)), len(reads)]:
        anew = ledger(decode_feedback(encode_feedback(row)))
        for read in reads[:crash]:
            anew.apply(read)
        row = anew.row
    assert encode_feedback(row) == encode_feedback(whole.row)


def test_what_earns_nothing_is_no_event_that_earned() -> None:
    found = ledger()
    found.apply(FeedbackMessage(SHOWN, 0, 0, answer(0)))
    hide = Hide(event_id="h", user_id="u0", item_id="i1", timestamp=10**12)
    found.apply(FeedbackMessage(CLICKED, 0, 5, hide))
    assert found.row.variant("canary").counts["earned"] == 0


def of_cart(number: int, variant: str = "canary", **known: object) -> Recommendation:
    """A list of a placement on trial, by a version that is none."""
    trial = PlacementTrial(rollout_id="t", variant=variant, latency_ms=20.0)
    return answer(number, "stable", **{"rollout_id": "", "trial": trial, **known})


def cart_ledger() -> Ledger:
    return Ledger(FeedbackScope("t", 0, WINDOW_MS, of_placement=True), FeedbackRow({}, {}))


def test_a_list_of_a_placement_counts_for_its_trial_and_not_for_its_scores() -> None:
    found = cart_ledger()
    for n in range(80):
        variant = "canary" if n % 2 else "baseline"
        found.apply(FeedbackMessage(SHOWN, n, 10 * n, of_cart(n, variant, missing=int(n % 4 == 1))))
        found.apply(FeedbackMessage(CLICKED, n, 10 * n + 5, click(n)))
    found.apply(FeedbackMessage(SHOWN, 80, 1000, answer(80, "canary")))
    canary, baseline = found.row.variant("canary"), found.row.variant("baseline")
    counted = (canary.counts[name] for name in ("requests", "clicked", "short"))
    assert tuple(counted) == (40, 40, 20)
    assert (baseline.counts["requests"], baseline.counts["short"]) == (40, 0)
    assert canary.latencies.sum() == 40
    assert not canary.scores.any()
    assert not canary.items.any()
    # Half of the canary's lists are short; of the baseline's none.
    inputs = collect_inputs(found.row.counters, 1.0, shadow=False)
    problem = broken_guards(inputs, RolloutSettings(min_requests=20, max_short_rate=0.05))
    assert problem == "short lists: 50.00% of requests, of the baseline's 0.00%"


def test_a_list_may_count_for_a_rollout_and_for_a_trial() -> None:
    both = msgspec.structs.replace(of_cart(0), rollout_id="r", variant="baseline")
    of_model, of_placement = ledger(), cart_ledger()
    for each in (of_model, of_placement):
        each.apply(FeedbackMessage(SHOWN, 0, 1, both))
    assert set(of_model.row.counters) == {"baseline"}
    assert set(of_placement.row.counters) == {"canary"}


def test_what_was_clicked_in_another_place_earns_a_trial_nothing() -> None:
    found = cart_ledger()
    found.apply(FeedbackMessage(SHOWN, 0, 1, of_cart(0)))
    elsewhere = msgspec.structs.replace(click(0), recommendation_id="of another place")
    found.apply(FeedbackMessage(CLICKED, 0, 2, elsewhere))
    assert found.row.variant("canary").counts["clicked"] == 0
    here = msgspec.structs.replace(click(0), event_id="c2", recommendation_id="id0")
    found.apply(FeedbackMessage(CLICKED, 1, 3, here))
    assert found.row.variant("canary").counts["clicked"] == 1


def test_rules_in_shadow_mode_count_beside_what_was_shown() -> None:
    unseen = Shadow(model_version="2", items=[], failed="column 1: no budget")
    trial = PlacementTrial(rollout_id="t", variant="stable", latency_ms=5.0, shadow=unseen)
    found = cart_ledger()
    found.apply(FeedbackMessage(SHOWN, 0, 1, of_cart(0, trial=trial)))
    assert found.row.variant("stable").counts["requests"] == 1
    assert found.row.variant("shadow").counts["failed"] == 1
