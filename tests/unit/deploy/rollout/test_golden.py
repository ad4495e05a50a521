"""Rollouts that release 0.1.0 wrote (13a9bcc) are read, and each decision is made again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from headwater_client.events import encode
from msgspec.structs import replace

from deploy.rollout import RolloutSettings
from deploy.rollout.decision import Trial, initial_state
from deploy.rollout.feedback.consumer import decode_feedback, encode_feedback
from deploy.rollout.history import (
    RolloutProjection,
    Transition,
    build_step,
    has_inputs,
    is_reproducible,
    replay_decision,
    rules_as_json,
    state_of,
)
from deploy.rollout.tables import figures_row, step_as_json
from features.inputs import MODEL_NAME
from features.rollout_messages import (
    Rollout,
    RolloutAnswer,
    RolloutCommand,
    RolloutMessage,
    RolloutPhase,
    RolloutStep,
    RoutedVersion,
    decode_rollout_message,
    lease_key,
)
from features.store import FEEDBACK
from features.store.redis import keys


# How release 0.1.0 reads a routing message and a step; what it knows nothing of it passes over.
class OldRollout(msgspec.Struct):
    model: str
    versions: list[RoutedVersion]
    time: int
    state: Literal["stable", "shadow", "running", "holding", "paused", "promoted", "rolled_back"]
    rollout_id: str = ""
    sequence: int = 0


class OldStep(msgspec.Struct):
    rollout: OldRollout
    actor: str
    reason: str
    command_id: str = ""
    state: dict[str, Any] = {}
    inputs: dict[str, Any] = {}


class OldState(msgspec.Struct):
    step: int
    started_s: float
    step_since_s: float
    status: str
    resumes: str


OLD_KINDS = {"", "history", "command", "answer"}
FOLDER = Path(__file__).parents[3] / "golden/13a9bcc"
ROWS = json.loads((FOLDER / "rows.json").read_text())
FEEDBACK_ROWS: dict[str, Any] = json.loads((FOLDER / "expected_rows.json").read_text())["feedback"]


def topic() -> list[RolloutMessage]:
    lines = map(json.loads, (FOLDER / "messages.jsonl").read_text().splitlines())
    pairs = [
        (base64.b64decode(line["key"]).decode(), base64.b64decode(line["value"]))
        for line in lines
        if line["topic"] == "rollouts"
    ]
    messages = [decode_rollout_message(key, value, MODEL_NAME) for key, value in pairs]
    return [message for message in messages if message is not None]


MESSAGES = topic()
STEPS = [message for message in MESSAGES if isinstance(message, RolloutStep)]


def test_every_kind_of_message_is_read() -> None:
    kinds = [type(message) for message in MESSAGES]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        Rollout: 15,
        RolloutStep: 12,
        RolloutCommand: 6,
        RolloutAnswer: 6,
    }


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.rollout.sequence}-{step.actor}")
def test_each_decision_is_made_again(step: RolloutStep) -> None:
    assert is_reproducible(step)
    decision = replay_decision(step)
    assert (decision is not None) == has_inputs(step) == (step.actor == "controller")
    if decision is not None:
        assert decision.state == state_of(step)
        assert figures_row(step)["failed"] == "0 / 0"


def test_that_release_reads_what_this_one_writes_of_a_trial() -> None:
    """A downgrade in mid-trial: its controller and its workers go on with the trial."""
    candidate, stable = (2, "/models/2"), (1, "/models/1")
    trial = Trial("2-17", MODEL_NAME, candidate, stable, initial_state(5.0, shadow=True), 3)
    rules = RolloutSettings()
    rollout = replace(trial.to_rollout(rules, 1_700_000_000_000), revision=7)
    transition = Transition(trial, "ann", "why", rules_as_json(rules), "c")
    step = replace(build_step(transition, rollout), previous="a" * 64)
    found = msgspec.json.decode(encode(step), type=OldStep)
    assert found.rollout == msgspec.json.decode(encode(rollout), type=OldRollout)
    assert found.rollout.versions == rollout.versions
    assert (found.rollout.state, found.rollout.sequence) == ("shadow", 3)
    assert msgspec.convert(found.state, OldState) == OldState(0, 5.0, 5.0, "shadow", "running")
    assert [tuple(found.state[name]) for name in ("candidate", "stable")] == [candidate, stable]
    # It has no leases: a trial that it leads is shown by its own workers only.
    assert lease_key(MODEL_NAME).removeprefix(f"{MODEL_NAME}/") not in OLD_KINDS


def test_the_history_is_what_that_release_printed() -> None:
    printed = json.loads((FOLDER / "rollout_history.json").read_text())["steps"]
    for step, expected in zip(STEPS, printed, strict=True):
        found = json.loads(json.dumps(step_as_json(step)))
        assert found.pop("effect") == pytest.approx(expected.pop("effect"))
        assert found == expected


def test_the_topic_adds_up_to_what_was_live() -> None:
    projection = RolloutProjection()
    for message in MESSAGES:
        projection.apply(message)
    assert projection.current
    assert projection.current.phase is RolloutPhase.ROLLED_BACK
    assert [routed.version for routed in projection.current.versions] == [1]
    assert (projection.trial, projection.overtaken_trial) == (None, None)
    assert projection.open_commands == []


@pytest.mark.parametrize("name", FEEDBACK_ROWS)
def test_counters_are_read_and_written_the_same(name: str) -> None:
    key = base64.b64encode(keys.row_key(FEEDBACK.join_key, name)).decode()
    raw = {base64.b64decode(k): base64.b64decode(v) for k, v in ROWS[key]["value"].items()}
    stored = {column: raw.get(keys.field_of(FEEDBACK.name, column)) for column in FEEDBACK.columns}
    row, expected = decode_feedback(stored), FEEDBACK_ROWS[name]
    assert row.until_ms == expected["until_ms"]
    assert {str(source): offset for source, offset in row.offsets.items()} == expected["offsets"]
    assert set(row.counters) == set(expected["counters"])
    for variant, counters in row.counters.items():
        counted = counters.counts | {
            "shown": counters.shown.tolist(),
            "reward": counters.reward.tolist(),
            "latencies": int(counters.latencies.sum()),
            "scores": int(counters.scores.sum()),
            "items": int(counters.items.sum()),
        }
        # Counters that were added since are 0.
        added = dict.fromkeys(set(counted) - set(expected["counters"][variant]), 0)
        assert counted == expected["counters"][variant] | added
    written = encode_feedback(row)
    assert {**written, "counts": None} == {**stored, "counts": None}
    assert decode_feedback(written).counters["canary"].counts == row.counters["canary"].counts
