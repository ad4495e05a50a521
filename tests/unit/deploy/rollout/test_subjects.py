"""What can be tried out, and what a trial of a placement says of itself."""

from __future__ import annotations

import pytest
from headwater_client.contract import Fallback, PlacementRules
from headwater_client.events import encode
from msgspec.structs import replace

from deploy.rollout import CommandRejectedError, RolloutSettings
from deploy.rollout.decision import RolloutState, Trial, apply_action, initial_state
from deploy.rollout.history import Transition, build_step, trial_of
from deploy.rollout.subjects import PlacementSubject
from features.placements import PlacementTable
from features.rollout_messages import (
    RolloutAction,
    RolloutCommand,
    RolloutPhase,
    RolloutStep,
    Variant,
    decode_rollout_message,
    history_key,
    placement_subject,
)

RULES, NOW_MS = RolloutSettings(), 1_700_000_000_000
BEFORE = PlacementRules(limit=5)
AFTER = PlacementRules(filter="item.price < 5", fallback=Fallback.NOTHING)
CART = placement_subject("cart")


def table(revision: int = 4, rules: PlacementRules = BEFORE) -> PlacementTable:
    made = PlacementTable()
    made.take("cart", rules, revision)
    return made


def start(rules: PlacementRules | None = AFTER) -> RolloutCommand:
    return RolloutCommand(
        command_id="c",
        model=CART,
        action=RolloutAction.START,
        actor="ann",
        reason="cheaper",
        time=NOW_MS,
        rules=rules,
    )


def begin(subject: PlacementSubject) -> Trial:
    return subject.begin(start(), None, initial_state(1.0, shadow=True))


def routed(trial: Trial) -> dict[str, tuple[int, float, PlacementRules | None]]:
    rollout = trial.to_rollout(RULES, NOW_MS)
    return {each.variant: (each.version, each.share, each.rules) for each in rollout.versions}


def test_the_rules_that_are_tried_out_are_in_the_signed_message_and_nowhere_else() -> None:
    trial = begin(PlacementSubject("cart", table()))
    assert (trial.model, trial.rollout_id) == (CART, f"{CART}-{NOW_MS}")
    assert routed(trial) == {
        Variant.STABLE: (4, 1.0, None),
        Variant.SHADOW: (5, RULES.shadow_fraction, AFTER),
    }
    shown = trial.advance(RolloutState(1, 1.0, 1.0))
    assert routed(shown) == {
        Variant.STABLE: (4, 0.9, None),
        Variant.CANARY: (5, 0.05, AFTER),
        Variant.BASELINE: (4, 0.05, None),
    }
    for action in (RolloutAction.PROMOTE, RolloutAction.ROLLBACK):
        ended = trial.advance(apply_action(trial.state, action, 2.0))
        assert [rules for *_, rules in routed(ended).values()] == [None]


def test_a_step_keeps_both_rules_and_is_read_again() -> None:
    trial = begin(PlacementSubject("cart", table())).advance(initial_state(1.0))
    rollout = trial.to_rollout(RULES, NOW_MS)
    step = build_step(Transition(trial, "ann", "cheaper"), rollout)
    read = decode_rollout_message(history_key(rollout), encode(step), CART)
    assert isinstance(read, RolloutStep)
    assert trial_of(read) == trial
    assert trial.change is not None
    assert (trial.change.candidate, trial.change.stable) == (AFTER, BEFORE)
    assert decode_rollout_message(history_key(rollout), encode(step), "temporal_llm") is None


@pytest.mark.parametrize(
    ("name", "rules", "reason"),
    [
        ("home", AFTER, "no placement is named home: there are cart"),
        ("cart", None, "rules: are missing"),
        ("cart", BEFORE, "has these rules already, by revision 4"),
        ("cart", PlacementRules(filter="item.cost < 5"), "column 1: there is no item.cost"),
    ],
)
def test_what_cannot_be_tried_out_is_refused(
    name: str, rules: PlacementRules | None, reason: str
) -> None:
    subject = PlacementSubject(name, table())
    with pytest.raises(CommandRejectedError, match=reason):
        subject.begin(start(rules), None, initial_state(1.0))


def test_asked_again_it_is_the_same_trial() -> None:
    subject = PlacementSubject("cart", table())
    trial = begin(subject)
    assert subject.is_same(trial, start())
    assert not subject.is_same(trial, start(replace(AFTER, limit=2)))


def test_who_changes_the_placement_ends_its_trial() -> None:
    placements = table()
    subject = PlacementSubject("cart", placements)
    trial = begin(subject)
    assert trial.state.phase is RolloutPhase.SHADOW
    assert subject.find_overtaking(trial) == ""
    placements.take("cart", AFTER, 9)
    assert subject.find_overtaking(trial) == "overtaken: the placement was changed, by revision 9"
    placements.take("cart", None, 10)
    assert subject.find_overtaking(trial) == "overtaken: the placement was removed"
