"""Steps of another release are read, and what cannot be read says which step it is."""

from __future__ import annotations

from hashlib import sha256
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pytest
from headwater_client.errors import DataError
from headwater_client.events import encode
from rich.console import Console

from deploy.rollout import RolloutSettings, decide, is_reproducible
from deploy.rollout.commands import ReceivedCommand
from deploy.rollout.evidence import DecisionInputs, Health, VariantTally
from deploy.rollout.history import (
    RolloutProjection,
    find_breaks,
    inputs_as_json,
    inputs_of,
    replay_decision,
    rules_as_json,
    rules_of,
    trial_of,
)
from deploy.rollout.tables import history_table
from features.rollout_messages import (
    Rollout,
    RolloutAction,
    RolloutAnswer,
    RolloutCommand,
    RolloutPhase,
    RolloutRecord,
    RolloutStep,
    RoutedVersion,
)

BUCKETS = 64
# Rules of later releases, as they were before.
LATER = {"min_people": 0, "min_buckets": 0, "min_slow_ms": 0.0}
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


def chain(length: int) -> list[RolloutRecord]:
    """Steps that name each other, as the topic has them."""
    found: list[RolloutRecord] = []
    for at in range(length):
        taken = step()
        rollout = msgspec.structs.replace(taken.rollout, sequence=at, revision=at + 1)
        before = found[-1].digest if found else ""
        found.append(record(msgspec.structs.replace(taken, rollout=rollout, previous=before)))
    return found


def record(taken: RolloutStep, is_trusted: bool = True) -> RolloutRecord:
    return RolloutRecord(taken, is_trusted, sha256(encode(taken)).hexdigest())


def changed_record(found: RolloutRecord, **fields: Any) -> RolloutRecord:
    return record(msgspec.structs.replace(found.message, **fields))


def test_a_history_that_is_whole_has_no_breaks() -> None:
    assert list(find_breaks([])) == []
    assert list(find_breaks(chain(5))) == []
    old = [record(step()), record(step())]
    first = msgspec.structs.replace(step(), previous=old[-1].digest)
    assert list(find_breaks([*old, record(first)])) == []


def test_a_change_of_the_history_is_seen() -> None:
    whole = chain(5)
    edited = [*whole[:2], changed_record(whole[2], reason="nothing to see here"), *whole[3:]]
    assert list(find_breaks(edited)) == [
        "rollout 2-17, step 3: chain broken: the step before it was changed, moved or removed"
    ]
    for removed in range(4):
        breaks = list(find_breaks([*whole[:removed], *whole[removed + 1 :]]))
        assert [f"step {removed + 1}: chain broken" in each for each in breaks] == [True]
    moved = [*whole[:1], *whole[2:], whole[1]]
    assert len(list(find_breaks(moved))) == 2
    # Also right behind the first step, which names none.
    for at in (1, 2):
        inserted = [*whole[:at], record(step()), *whole[at:]]
        assert len(list(find_breaks(inserted))) == 2


def test_a_step_that_is_not_signed_is_named() -> None:
    whole = chain(3)
    before = record(step(), is_trusted=False)
    assert list(find_breaks([before, *whole])) == []
    assert list(find_breaks([*whole, before])) == [
        "rollout 2-17, step 3: is not signed: somebody without kafka.signing_key wrote it"
    ]


RUNNING = STATE | {"candidate": [2, "memory://2"], "stable": [1, "memory://1"]}


@pytest.mark.parametrize(
    "snapshot",
    [
        {},
        {name: value for name, value in RUNNING.items() if name != "step"},
        *({key: value for key, value in RUNNING.items() if key != gone} for gone in RUNNING),
        RUNNING | {"status": "warped"},
        RUNNING | {"status": "stable"},
        RUNNING | {"step": -1},
        RUNNING | {"started_s": 1e300},
        RUNNING | {"candidate": ["x", 5, 7]},
        RUNNING | {"candidate": [0, ""]},
        RUNNING | {"stable": None},
    ],
)
def test_no_step_of_any_release_stops_the_controller(snapshot: dict[str, Any]) -> None:
    projection = RolloutProjection()
    for each in (RUNNING, snapshot):
        projection.apply(msgspec.structs.replace(step(), snapshot=each))
    projection.apply(step().rollout)
    trial = projection.trial
    assert trial is not None
    assert trial.state.step == 0
    assert trial.to_rollout(RolloutSettings(), 1_700_000_000_000).needs_lease


def test_a_trial_keeps_the_rules_that_it_began_with() -> None:
    first = RolloutSettings.model_validate({"steps": (0.1, 0.2, 0.5), "margin": 0.2})
    later = RolloutSettings.model_validate({"steps": (0.1,)})
    projection = RolloutProjection()
    assert projection.rules_of("2-17") is None
    for rules in (first, later):
        taken = msgspec.structs.replace(step(), snapshot=RUNNING, inputs=rules_as_json(rules))
        projection.apply(taken)
        assert projection.rules_of("2-17") == first
    assert projection.rules_of("3-18") is None
    other = msgspec.structs.replace(taken.rollout, rollout_id="3-18")
    projection.apply(msgspec.structs.replace(taken, rollout=other))
    assert projection.rules_of("3-18") == later


def test_fewer_steps_in_the_settings_than_a_trial_has_taken_stop_nothing() -> None:
    """Only a trial of release 0.1.0 has no rules of its own."""
    taken = msgspec.structs.replace(step(), snapshot=RUNNING | {"step": 3}, inputs={})
    trial = trial_of(taken)
    rules = RolloutSettings.model_validate({"steps": (0.1, 0.5)})
    shares = [each.share for each in trial.to_rollout(rules, 1_700_000_000_000).versions]
    assert shares == [0.0, 0.5, 0.5]
    assert decide(trial.state, inputs_of(step()), rules).state.is_terminal


def test_a_command_is_carried_out_once() -> None:
    projection = RolloutProjection()
    command = RolloutCommand(
        command_id="c1",
        model="m",
        action=RolloutAction.ROLLBACK,
        actor="ann",
        reason="why",
        time=1_700_000_000_000,
    )
    received = ReceivedCommand(command, command.time)
    answer = RolloutAnswer(command_id="c1", accepted=True, reason="done", time=command.time)
    projection.apply(received)
    projection.apply(received)
    assert projection.open_commands == [received]
    projection.apply(answer)
    projection.apply(received)
    projection.apply(command)
    assert projection.open_commands == []
    now_ms = command.time + 86_400_000
    assert projection.forget_answers(now_ms) == []
    assert projection.forget_answers(now_ms + 1) == ["c1"]
    projection.apply(msgspec.structs.replace(step(), command_id="c1"))
    projection.apply(received)
    assert projection.open_commands == []


def test_rules_that_a_release_did_not_have_forbid_it_nothing() -> None:
    rules = {name: value for name, value in step().inputs["rules"].items() if name not in LATER}
    old = msgspec.structs.replace(step(), inputs=step().inputs | {"rules": rules})
    assert {name: getattr(rules_of(old), name) for name in LATER} == LATER
    assert is_reproducible(old)


def test_what_people_and_events_were_counted_is_kept() -> None:
    tally = VariantTally(np.ones(BUCKETS), np.ones(BUCKETS), 70.0)
    health = Health(people=120.5)
    inputs = DecisionInputs(1.0, tally, tally, health, health, 0.0)
    written = inputs_as_json(trial_of(step()).state, inputs, RolloutSettings())
    again = msgspec.json.decode(msgspec.json.encode(written))
    read = inputs_of(msgspec.structs.replace(step(), inputs=again))
    assert (read.canary.events, read.baseline_health.people) == (70.0, 120.5)
    assert (inputs_of(step()).canary.events, inputs_of(step()).canary_health.people) == (None, None)


def test_hostile_words_are_shown_as_they_stand() -> None:
    """Brackets are no markup of the table, and no escape reaches the terminal."""
    hostile = "[/] [bold red]x \x1b[2J <script>"
    written = msgspec.structs.replace(step(), actor=hostile, reason=hostile)
    shown = StringIO()
    Console(width=400, file=shown, force_terminal=False).print(history_table([written]))
    assert shown.getvalue().count("[/] [bold red]x ?[2J <script>") == 2
