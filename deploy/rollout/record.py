"""Steps as they stand in the history, with all that they were decided on, and back again."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from deploy.rollout.decision import Decision, Figures, State, decide
from deploy.rollout.settings import RolloutSettings
from deploy.rollout.trial import Trial
from features.rollout_messages import Rollout, RolloutStep, Variant


def step(
    trial: Trial,
    rollout: Rollout,
    actor: str,
    reason: str,
    inputs: dict[str, Any] | None = None,
    command_id: str = "",
) -> RolloutStep:
    """A step of a trial, which led to this rollout."""
    parties = {"candidate": list(trial.candidate), "stable": list(trial.stable)}
    return RolloutStep(
        rollout=rollout,
        actor=actor,
        reason=reason,
        command_id=command_id,
        state=msgspec.to_builtins(trial.state) | parties,
        inputs=inputs or {},
    )


def inputs_of(state: State, seen: Figures, rules: RolloutSettings) -> dict[str, Any]:
    """What a decision was taken on, as JSON has it."""
    return {
        "state": msgspec.to_builtins(state),
        "figures": msgspec.to_builtins(seen, enc_hook=lambda array: array.tolist()),
        "rules": rules.model_dump(
            mode="json", exclude={"admin_token", "metrics_port", "metrics_address"}
        ),
    }


def figures_of(inputs: dict[str, Any]) -> Figures:
    """The figures of a step that was decided on some."""
    found: Figures = msgspec.convert(inputs["figures"], Figures, dec_hook=_array)
    return found


def decided_again(taken: RolloutStep) -> Decision | None:
    """The decision made again from what was recorded; None for a step that somebody asked for."""
    if "figures" not in taken.inputs:
        return None
    state = msgspec.convert(taken.inputs["state"], State)
    rules = RolloutSettings.model_validate(taken.inputs["rules"])
    return decide(state, figures_of(taken.inputs), rules)


def agrees(taken: RolloutStep) -> bool:
    """Whether the same inputs still lead to the same state, for the same reason."""
    again = decided_again(taken)
    return again is None or (again.state, again.reason) == (state_of(taken), taken.reason)


def state_of(taken: RolloutStep) -> State:
    """The decision's state after a step."""
    return msgspec.convert(taken.state, State)


def trial_of(taken: RolloutStep) -> Trial:
    """The trial as a step left it."""
    rollout = taken.rollout
    candidate, stable = (tuple(taken.state[name]) for name in ("candidate", "stable"))
    return Trial(
        rollout.rollout_id, rollout.model, candidate, stable, state_of(taken), rollout.sequence
    )


def share_of(rollout: Rollout) -> float:
    """The share of people that see, or are asked about, the candidate."""
    for variant in (Variant.CANARY, Variant.SHADOW):
        if (found := rollout.of(variant)) is not None:
            return found.share
    return 0.0


def _array(kind: type, value: Any) -> Any:
    if kind is np.ndarray or getattr(kind, "__origin__", None) is np.ndarray:
        return np.asarray(value, np.float64)
    raise NotImplementedError(kind)
