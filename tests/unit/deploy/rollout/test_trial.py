"""Who gets what at each state, how scores drift, and what a step remembers."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from headwater_client.events import encode

from deploy.rollout.decision import State, begun, decide, steered
from deploy.rollout.record import agrees, inputs_of, step, trial_of
from deploy.rollout.settings import RolloutSettings
from deploy.rollout.standing import Standing
from deploy.rollout.trial import Trial, drift, figures
from features.feedback import SCORE_BINS, Counters
from features.rollout_messages import (
    Action,
    Rollout,
    RolloutState,
    RolloutStep,
    RoutedVersion,
    decode_rollout_message,
    history_key,
)

RULES = RolloutSettings()
NOW_MS = 1_700_000_000_000


def trial(state: State) -> Trial:
    return Trial("r", "m", (2, "memory://2"), (1, "memory://1"), state)


def shares(state: State) -> dict[str, tuple[int, float]]:
    rollout = trial(state).routed(RULES, NOW_MS)
    return {each.variant: (each.version, each.share) for each in rollout.versions}


def test_who_gets_what() -> None:
    unseen, shown = begun(0.0, shadow=True), State(2, 0.0, 0.0)
    assert shares(unseen) == {"stable": (1, 1.0), "shadow": (2, RULES.shadow_share)}
    grown = {"stable": (1, 0.5), "canary": (2, 0.25), "baseline": (1, 0.25)}
    assert shares(shown) == grown
    assert shares(replace(shown, status=RolloutState.HOLDING)) == grown
    assert shares(steered(shown, Action.PAUSE, 1.0)) == grown
    assert shares(steered(unseen, Action.PAUSE, 1.0)) == shares(unseen)
    assert shares(steered(shown, Action.PROMOTE, 1.0)) == {"stable": (2, 1.0)}
    assert shares(steered(shown, Action.ROLLBACK, 1.0)) == {"stable": (1, 1.0)}


def test_a_step_says_all_that_it_was_taken_on() -> None:
    counters = {"canary": Counters(), "baseline": Counters()}
    for at in range(3000):
        for name, one in counters.items():
            one.show(
                at % 64, ["a"], score=1.0, latency_ms=20, failed=name == "canary", fallback=False
            )
    state = begun(0.0)
    seen = figures(trial(state), counters, 99.0)
    decided = decide(state, seen, RULES)
    assert decided.state.status is RolloutState.ROLLED_BACK
    after = replace(trial(decided.state), sequence=1)
    taken = step(
        after,
        after.routed(RULES, NOW_MS),
        "controller",
        decided.reason,
        inputs_of(state, seen, RULES),
    )
    read = decode_rollout_message(history_key(taken.rollout), encode(taken), "m")
    assert isinstance(read, RolloutStep)
    assert trial_of(read) == after
    assert agrees(read)
    assert not agrees(msgspec.structs.replace(read, reason="another one"))


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
    found = drift(ours, theirs)
    assert {0: found == 0, 2: 0.1 < found < 0.4, 20: found > 2}[moved]
    assert drift(ours, np.zeros(SCORE_BINS, np.int64)) == 0


def test_scores_of_a_few_people_lie_apart_by_chance() -> None:
    """None of a thousand pairs of like groups drifts, and a group of fifty from elsewhere does."""
    chance = np.random.default_rng(0)

    def group(mean: float, size: int) -> npt.NDArray[np.int64]:
        return np.bincount(chance.normal(mean, 4, size).astype(int), minlength=SCORE_BINS)

    assert max(drift(group(40, 25), group(40, 25)) for _ in range(1000)) < RULES.max_drift
    assert drift(group(55, 50), group(40, 50)) > RULES.max_drift


def test_the_topic_says_what_is_tried_out_and_what_was_overtaken() -> None:
    standing = Standing()
    running = trial(begun(0.0))
    routed = running.routed(RULES, NOW_MS)
    for message in (step(running, routed, "ann", "why"), routed):
        standing.note(message)
    assert (standing.trial, standing.overtaken()) == (running, None)
    version = RoutedVersion(version=3, variant="stable", share=1, address="memory://3")
    standing.note(Rollout(model="m", versions=[version], time=NOW_MS + 1))
    assert (standing.trial, standing.overtaken()) == (None, running)
    ended = replace(running, state=replace(running.state, status=RolloutState.ROLLED_BACK))
    standing.note(step(ended, ended.routed(RULES, NOW_MS), "controller", "overtaken"))
    assert (standing.trial, standing.overtaken()) == (None, None)
