"""Steps of another release are read, and what cannot be read says which step it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from headwater_client.errors import DataError

from deploy.rollout import RolloutSettings, is_reproducible
from deploy.rollout.history import inputs_of, replay_decision, trial_of
from deploy.rollout.tables import history_table
from features.rollout_messages import Rollout, RolloutPhase, RolloutStep, RoutedVersion

BUCKETS = 64
# As revision 13a9bcc wrote it: `status`, `resumes` and `errors` are names of the JSON.
STATE = {
    "step": 0,
    "started_s": 0.0,
    "step_since_s": 0.0,
    "status": "running",
    "resumes": "running",
}
HEALTH = {
    "requests": 5000,
    "errors": 0,
    "fallbacks": 3,
    "p99_ms": 40.0,
    "p99_at_least_ms": 35.0,
    "coverage": 800,
}
TALLY = {"shown": [100.0] * BUCKETS, "reward": [10.0] * BUCKETS}
REASON = "errors: 4.00% of requests, of the baseline's 0.00%"


def step(**changed: Any) -> RolloutStep:
    figures = {
        "now_s": 5.0,
        "canary": TALLY,
        "baseline": TALLY,
        "canary_health": HEALTH | {"errors": 200},
        "baseline_health": HEALTH,
        "drift": 0.0,
    }
    rules = RolloutSettings().model_dump(mode="json", exclude={"admin_token"})
    versions = {"candidate": [2, "memory://2"], "stable": [1, "memory://1"]}
    stable = RoutedVersion(version=1, variant="stable", share=1.0, address="memory://1")
    written = {
        "rollout": Rollout(
            model="m",
            versions=[stable],
            phase=RolloutPhase.ROLLED_BACK,
            time=1_700_000_000_000,
            rollout_id="2-17",
            sequence=3,
        ),
        "actor": "controller",
        "reason": REASON,
        "state": STATE | versions | {"status": "rolled_back"},
        "inputs": {"state": STATE, "figures": figures | changed, "rules": rules},
    }
    return msgspec.json.decode(msgspec.json.encode(written), type=RolloutStep)


def test_a_step_of_the_release_before_is_read_and_replayed() -> None:
    health = inputs_of(step()).canary_health
    assert (health.counts["failed"], health.counts["bought"], health.requests) == (200, 0, 5000)
    assert trial_of(step()).candidate == (2, "memory://2")
    assert is_reproducible(step())


def test_what_the_release_before_did_not_measure_is_nothing() -> None:
    missing = {name: value for name, value in HEALTH.items() if name != "coverage"}
    assert inputs_of(step(baseline_health=missing)).baseline_health.coverage == 0


@pytest.mark.parametrize(
    "changed",
    [{"canary": 5}, {"canary_health": HEALTH | {"errors": "many"}}, {"baseline": {"shown": []}}],
)
def test_a_step_that_cannot_be_read_is_named(changed: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="rollout 2-17, step 3: cannot be read") as raised:
        replay_decision(step(**changed))
    assert "\n" not in str(raised.value)
    assert history_table([step(**changed), step()]).row_count == 2


def test_rules_and_states_that_cannot_be_read_are_named() -> None:
    taken = step()
    with pytest.raises(DataError, match="step 3"):
        trial_of(msgspec.structs.replace(taken, snapshot={"step": 0}))
    taken.inputs["rules"]["steps"] = "none"
    with pytest.raises(DataError, match="step 3"):
        replay_decision(taken)
