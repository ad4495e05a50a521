"""Who gets what at each state, how scores drift, and what a step remembers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from headwater_client.events import encode
from msgspec.structs import replace

from deploy.rollout import RolloutSettings
from deploy.rollout.decision import RolloutState, Trial, apply_action, decide, initial_state
from deploy.rollout.evidence import collect_inputs, score_drift
from deploy.rollout.feedback.counters import SCORE_BINS, VariantCounters, VariantList
from deploy.rollout.history import (
    RolloutProjection,
    Transition,
    build_step,
    inputs_as_json,
    is_reproducible,
    trial_of,
)
from features.rollout_messages import (
    Rollout,
    RolloutAction,
    RolloutPhase,
    RolloutStep,
    RoutedVersion,
    decode_rollout_message,
    history_key,
)
from features.topics import Hash

RULES = RolloutSettings()
NOW_MS = 1_700_000_000_000


def trial(state: RolloutState) -> Trial:
    return Trial("r", "m", (2, "memory://2"), (1, "memory://1"), state)


def shares(state: RolloutState) -> dict[str, tuple[int, float]]:
    rollout = trial(state).to_rollout(RULES, NOW_MS)
    return {each.variant: (each.version, each.share) for each in rollout.versions}


def test_who_gets_what() -> None:
    unseen, shown = initial_state(0.0, shadow=True), RolloutState(2, 0.0, 0.0)
    assert shares(unseen) == {"stable": (1, 1.0), "shadow": (2, RULES.shadow_fraction)}
    grown = {"stable": (1, 0.5), "canary": (2, 0.25), "baseline": (1, 0.25)}
    assert shares(shown) == grown
    assert shares(replace(shown, phase=RolloutPhase.HOLDING)) == grown
    assert shares(apply_action(shown, RolloutAction.PAUSE, 1.0)) == grown
    assert shares(apply_action(unseen, RolloutAction.PAUSE, 1.0)) == shares(unseen)
    assert shares(apply_action(shown, RolloutAction.PROMOTE, 1.0)) == {"stable": (2, 1.0)}
    assert shares(apply_action(shown, RolloutAction.ROLLBACK, 1.0)) == {"stable": (1, 1.0)}


def test_a_step_says_all_that_it_was_taken_on() -> None:
    counters = {"canary": VariantCounters(), "baseline": VariantCounters()}
    for at in range(3000):
        for name, one in counters.items():
            one.add_list(VariantList(at % 64, [Hash(1)], 1.0, 20, failed=name == "canary"))
    state = initial_state(0.0)
    seen = collect_inputs(counters, 99.0, shadow=False)
    decided = decide(state, seen, RULES)
    assert decided.state.phase is RolloutPhase.ROLLED_BACK
    after = trial(state).advance(decided.state)
    inputs = inputs_as_json(state, seen, RULES)
    taken = build_step(
        Transition(after, "controller", decided.reason, inputs), after.to_rollout(RULES, NOW_MS)
    )
    read = decode_rollout_message(history_key(taken.rollout), encode(taken), "m")
    assert isinstance(read, RolloutStep)
    assert trial_of(read) == after
    assert is_reproducible(read)
    assert not is_reproducible(replace(read, reason="another one"))


@pytest.mark.parametrize("moved", [0, 2, 20])
def test_scores_that_move_drift(moved: int) -> None:
    chance = np.random.default_rng(0)
    ours, theirs = (
        np.bincount(
            np.clip(chance.normal(40 + by, 5, 5000).astype(int), 0, SCORE_BINS - 1),
            minlength=SCORE_BINS,
        )
        for by in (moved, 0)
    )
    found = score_drift(ours, theirs)
    assert {0: found == 0, 2: 0.1 < found < 0.4, 20: found > 2}[moved]
    assert score_drift(ours, np.zeros(SCORE_BINS, np.int64)) == 0


def test_scores_of_a_few_people_lie_apart_by_chance() -> None:
    """None of a thousand pairs of like groups drifts, and a group of fifty from elsewhere does."""
    chance = np.random.default_rng(0)

    def group(mean: float, size: int) -> npt.NDArray[np.int64]:
        return np.bincount(chance.normal(mean, 4, size).astype(int), minlength=SCORE_BINS)

    assert max(score_drift(group(40, 25), group(40, 25)) for _ in range(1000)) < RULES.max_drift
    assert score_drift(group(55, 50), group(40, 50)) > RULES.max_drift


def test_the_topic_says_what_is_tried_out_and_what_was_overtaken() -> None:
    projection = RolloutProjection()
    running = trial(initial_state(0.0))
    routed = running.to_rollout(RULES, NOW_MS)
    for message in (build_step(Transition(running, "ann", "why"), routed), routed):
        projection.apply(message)
    assert (projection.trial, projection.overtaken_trial) == (running, None)
    version = RoutedVersion(version=3, variant="stable", share=1, address="memory://3")
    projection.apply(Rollout(model="m", versions=[version], time=NOW_MS + 1))
    assert (projection.trial, projection.overtaken_trial) == (None, running)
    ended = running.advance(replace(running.state, phase=RolloutPhase.ROLLED_BACK))
    step = build_step(Transition(ended, "controller", "overtaken"), ended.to_rollout(RULES, NOW_MS))
    projection.apply(step)
    assert (projection.trial, projection.overtaken_trial) == (None, None)
