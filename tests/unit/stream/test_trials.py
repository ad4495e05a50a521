"""Who gets the rules of a placement that are tried out."""

from __future__ import annotations

from collections import Counter

from headwater_client.contract import PlacementAnswer, PlacementRules

from features.rollout_messages import Rollout, RolloutPhase, RoutedVersion, placement_subject
from stream.trials import PlacementTrials
from tests.unit.stream.test_routing import PEOPLE, assignment
from tests.unit.stream.test_routing import rollout as model_rollout
from tests.unit.stream.test_routing import routes as model_routes

TRIED = PlacementRules(limit=3)
CART = PlacementAnswer(name="cart", revision=0, placement=PlacementRules())


def trial(name: str = "cart", rollout_id: str = "t1", **shares: float) -> Rollout:
    return Rollout(
        model=placement_subject(name),
        versions=[
            RoutedVersion(
                version=int(variant in ("canary", "shadow")),
                variant=variant,
                share=share,
                address=f"{name}#{variant}",
                rules=TRIED if variant in ("canary", "shadow") else None,
            )
            for variant, share in shares.items()
        ],
        phase=RolloutPhase.RUNNING,
        time=1_700_000_000_000,
        rollout_id=rollout_id,
    )


def variants(trials: PlacementTrials) -> dict[str, str]:
    parts = {user: trials.assign(CART, user) for user in PEOPLE}
    return {user: part.variant for user, part in parts.items() if part}


def test_only_the_canary_gets_the_rules_that_are_tried_out() -> None:
    trials = PlacementTrials()
    trials.follow(trial(stable=0.5, canary=0.25, baseline=0.25))
    parts = [trials.assign(CART, user) for user in PEOPLE]
    counted = Counter((part.variant, part.tried == TRIED, part.shadow) for part in parts if part)
    assert set(counted) == {
        ("stable", False, None),
        ("canary", True, None),
        ("baseline", False, None),
    }
    assert 0.22 < counted["canary", True, None] / len(PEOPLE) < 0.28
    other = PlacementAnswer(name="home", revision=0, placement=PlacementRules())
    assert trials.assign(other, "ann") is None


def test_unseen_rules_are_asked_for_their_share() -> None:
    trials = PlacementTrials()
    trials.follow(trial(stable=1.0, shadow=0.2))
    parts = [trials.assign(CART, user) for user in PEOPLE]
    assert {part.variant for part in parts if part} == {"stable"}
    assert not any(part.tried for part in parts if part)
    assert 0.17 < sum(part.shadow is TRIED for part in parts if part) / len(PEOPLE) < 0.23


def test_a_trial_and_a_rollout_deal_people_independently() -> None:
    trials, routes = PlacementTrials(), model_routes()
    trials.follow(trial(rollout_id="r1", stable=0.0, canary=0.5, baseline=0.5))
    routes.follow(model_rollout("r1", stable=0, canary=0.5, baseline=0.5))
    by_trial = variants(trials)
    dealt = Counter(
        (by_trial[user], assignment(routes, user).shown.version.variant) for user in PEOPLE
    )
    assert len(dealt) == 4
    assert all(0.22 < number / len(PEOPLE) < 0.28 for number in dealt.values())


def test_a_trial_of_rules_that_were_changed_since_is_over() -> None:
    trials = PlacementTrials()
    trials.follow(trial(stable=0.0, canary=0.5, baseline=0.5))
    assert trials.assign(CART, "ann") is not None
    changed = PlacementAnswer(name="cart", revision=7, placement=PlacementRules())
    assert trials.assign(changed, "ann") is None
    trials.follow(trial(stable=1.0))
    assert trials.assign(CART, "ann") is None


def test_a_trial_that_nobody_watches_is_not_shown() -> None:
    now_s = 100.0
    trials = PlacementTrials(lambda: now_s)
    trials.follow(trial(stable=0.0, canary=0.5, baseline=0.5), lease_s=60)
    trials.renew(placement_subject("cart"), "another", 600)
    now_s = 130.0
    trials.renew(placement_subject("cart"), "t1", 60)
    now_s = 189.0
    assert trials.assign(CART, "ann") is not None
    now_s = 191.0
    assert trials.assign(CART, "ann") is None
