"""The decision on a canary: a pure function, so that history can be replayed.

The same state, inputs and rules always give the same decision. It knows neither Kafka nor Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct, field
from msgspec.structs import replace

from deploy.rollout.errors import CommandRejectedError
from deploy.rollout.evidence import DecisionInputs, Effect, estimate_effect
from deploy.rollout.guards import broken_guards
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import RolloutAction, RolloutPhase


class RolloutState(Struct, frozen=True):
    """A rollout between two decisions. The JSON names are those of the history.

    Attributes:
        step: index into the steps of the settings.
        started_s: when it began, in seconds since 1970.
        step_since_s: when its share grew last.
        phase_before_pause: the phase that `resume` goes back to.
    """

    step: int
    started_s: float
    step_since_s: float
    phase: RolloutPhase = field(default=RolloutPhase.RUNNING, name="status")
    phase_before_pause: RolloutPhase = field(default=RolloutPhase.RUNNING, name="resumes")

    @property
    def is_terminal(self) -> bool:
        """Whether there is nothing more to decide."""
        return self.phase.is_terminal


def initial_state(now_s: float, *, shadow: bool = False) -> RolloutState:
    """The state at the first step, or in shadow mode before it."""
    return RolloutState(0, now_s, now_s, RolloutPhase.SHADOW if shadow else RolloutPhase.RUNNING)


def apply_action(state: RolloutState, action: RolloutAction, now_s: float) -> RolloutState:
    """The next state as somebody asks for it.

    Raises:
        CommandRejectedError: the action is not possible in this state.
    """
    possible = {
        RolloutAction.PROMOTE: True,
        RolloutAction.ROLLBACK: True,
        RolloutAction.PAUSE: state.phase is not RolloutPhase.PAUSED,
        RolloutAction.RESUME: state.phase is RolloutPhase.PAUSED,
    }
    if state.is_terminal or not possible.get(action):
        raise CommandRejectedError(f"{action}: the rollout is {state.phase}")
    match action:
        case RolloutAction.PAUSE:
            shadow = state.phase is RolloutPhase.SHADOW
            before = RolloutPhase.SHADOW if shadow else RolloutPhase.RUNNING
            return replace(state, phase=RolloutPhase.PAUSED, phase_before_pause=before)
        case RolloutAction.RESUME:
            return replace(state, phase=state.phase_before_pause, step_since_s=now_s)
        case RolloutAction.PROMOTE:
            return replace(state, phase=RolloutPhase.PROMOTED)
        case _:
            return replace(state, phase=RolloutPhase.ROLLED_BACK)


@dataclass(frozen=True)
class Decision:
    """The next state, and the reason for it that the history keeps.

    Attributes:
        effect: None while the baseline has earned nothing.
    """

    state: RolloutState
    reason: str
    effect: Effect | None


def decide(state: RolloutState, inputs: DecisionInputs, rules: RolloutSettings) -> Decision:
    """The next state. One that has ended stays as it is.

    A broken guard rolls back at once, also during a pause. In shadow mode only guards count: what
    nobody sees earns nothing. Then the sequential test: a canary worse than the baseline is rolled
    back, one not worse than the margin at the last step is promoted; in between the share grows
    while the worst effect still possible is bearable.
    """
    if state.is_terminal:
        return Decision(state, f"has ended: {state.phase}", None)
    if problems := broken_guards(inputs, rules):
        return _end(state, RolloutPhase.ROLLED_BACK, problems, None)
    if state.phase is RolloutPhase.PAUSED:
        return Decision(state, "paused", None)
    if state.phase is RolloutPhase.SHADOW:
        return _decide_in_shadow(state, inputs, rules)
    effect = estimate_effect(inputs.canary, inputs.baseline)
    shown = min(inputs.canary.shown.sum(), inputs.baseline.shown.sum())
    if effect and shown >= rules.min_shown:
        return _decide_on_effect(state, inputs.now_s, effect, rules)
    return _wait(state, inputs.now_s, effect, rules)


def _decide_in_shadow(
    state: RolloutState, inputs: DecisionInputs, rules: RolloutSettings
) -> Decision:
    requests, lasted_s = inputs.canary_health.requests, inputs.now_s - state.started_s
    if requests >= rules.min_requests and lasted_s >= rules.shadow_s:
        shown = replace(state, step_since_s=inputs.now_s, phase=RolloutPhase.RUNNING)
        reason = f"shown to {rules.steps[0]:.0%}: answered {requests} requests unseen"
        return Decision(shown, reason, None)
    return _wait(state, inputs.now_s, None, rules)


def _decide_on_effect(
    state: RolloutState, now_s: float, effect: Effect, rules: RolloutSettings
) -> Decision:
    best, worst = effect.upper(rules.false_rollback), effect.lower(rules.false_promotion)
    interval = f"reward {worst:+.1%} to {best:+.1%} beside the baseline"
    if best < 0:
        return _end(state, RolloutPhase.ROLLED_BACK, f"worse: {interval}", effect)
    if now_s - state.step_since_s < rules.min_step_s:
        return _wait(state, now_s, effect, rules)
    if state.step == len(rules.steps) - 1:
        if worst > -rules.margin:
            return _end(state, RolloutPhase.PROMOTED, f"no worse: {interval}", effect)
        return _wait(state, now_s, effect, rules)
    share = rules.steps[state.step + 1]
    if worst * share > -rules.max_harm:
        grown = replace(state, step=state.step + 1, step_since_s=now_s, phase=RolloutPhase.RUNNING)
        return Decision(grown, f"grows to {share:.0%}: {interval}", effect)
    return _wait(state, now_s, effect, rules)


def _wait(
    state: RolloutState, now_s: float, effect: Effect | None, rules: RolloutSettings
) -> Decision:
    """No verdict yet: hold after a while, and give up after a long one."""
    if now_s - state.started_s >= rules.give_up_s:
        return _end(state, RolloutPhase.ROLLED_BACK, "no verdict in time", effect)
    if state.phase is RolloutPhase.RUNNING and now_s - state.step_since_s >= rules.hold_s:
        held = replace(state, phase=RolloutPhase.HOLDING)
        return Decision(held, "holds: no verdict yet", effect)
    return Decision(state, "goes on", effect)


def _end(state: RolloutState, phase: RolloutPhase, reason: str, effect: Effect | None) -> Decision:
    return Decision(replace(state, phase=phase), reason, effect)
