"""A rollout's state, the decision on it, and who gets which version in each state.

The decision is a pure function, so that history can be replayed: the same state, inputs and rules
always give the same one. It knows neither Kafka nor Triton.
"""

from dataclasses import dataclass
from typing import Annotated

from headwater_client.contract import PlacementRules
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from deploy.rollout.commands import CommandRejectedError
from deploy.rollout.evidence import DecisionInputs, Effect, estimate_effect, find_imbalance
from deploy.rollout.guards import broken_guards
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Rollout, RolloutAction, RolloutPhase, RoutedVersion, Variant

# The year 5138: what is beyond is no time.
MAX_TIME_S = 1e11


class RolloutState(Struct, frozen=True):
    """A rollout between two decisions. The JSON names are those of the history.

    Attributes:
        step: index into the steps of the settings.
        started_s: when it began, in seconds since 1970.
        step_since_s: when its share grew last.
        phase_before_pause: the phase that `resume` goes back to.
    """

    step: Annotated[int, Meta(ge=0)]
    started_s: Annotated[float, Meta(ge=0, le=MAX_TIME_S)]
    step_since_s: Annotated[float, Meta(ge=0, le=MAX_TIME_S)]
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
    while the worst effect still possible is bearable. Unequal samples and few people decide
    nothing.
    """
    if state.is_terminal:
        return Decision(state, f"has ended: {state.phase}", None)
    if problems := broken_guards(inputs, rules):
        return _end(state, RolloutPhase.ROLLED_BACK, problems, None)
    if state.phase is RolloutPhase.PAUSED:
        return Decision(state, "paused", None)
    if state.phase is RolloutPhase.SHADOW:
        return _decide_in_shadow(state, inputs, rules)
    return _decide_on_reward(state, inputs, rules)


def _decide_in_shadow(
    state: RolloutState, inputs: DecisionInputs, rules: RolloutSettings
) -> Decision:
    requests, lasted_s = inputs.canary_health.requests, inputs.now_s - state.started_s
    if requests >= rules.min_requests and lasted_s >= rules.shadow_s:
        shown = replace(state, step_since_s=inputs.now_s, phase=RolloutPhase.RUNNING)
        reason = f"shown to {rules.steps[0]:.0%}: answered {requests} requests unseen"
        return Decision(shown, reason, None)
    return _wait(state, inputs.now_s, None, rules)


def _decide_on_reward(
    state: RolloutState, inputs: DecisionInputs, rules: RolloutSettings
) -> Decision:
    effect, now_s = estimate_effect(inputs.canary, inputs.baseline), inputs.now_s
    if imbalance := find_imbalance(inputs):
        waits = _wait(state, now_s, effect, rules)
        return waits if waits.state.is_terminal else _hold(state, imbalance, effect)
    shown = min(inputs.canary.shown.sum(), inputs.baseline.shown.sum())
    few = find_few_people(inputs, rules)
    if effect and shown >= rules.min_shown and not few:
        return decide_on_effect(state, now_s, effect, rules)
    return _wait(state, now_s, effect, rules, few)


def find_few_people(inputs: DecisionInputs, rules: RolloutSettings) -> str:
    """Of what there is too few for anything to be decided on reward; empty where nothing is.

    The variance between few people says little of that between all: with one person a variant there
    is none at all.
    """
    people = [health.people for health in (inputs.canary_health, inputs.baseline_health)]
    known = [number for number in people if number is not None]
    if known and min(known) < rules.min_people:
        return f"{min(known):.0f} of {rules.min_people} people (rollout.min_people)"
    buckets = min(inputs.canary.buckets, inputs.baseline.buckets)
    if 0 < buckets < rules.min_buckets:
        return f"{buckets} of {rules.min_buckets} buckets of people (rollout.min_buckets)"
    return ""


def decide_on_effect(
    state: RolloutState, now_s: float, effect: Effect, rules: RolloutSettings
) -> Decision:
    """The decision where the samples are equal, and there are enough people."""
    best, worst = effect.upper(rules.false_rollback), effect.lower(rules.false_promotion)
    interval = f"reward {worst:+.1%} to {best:+.1%} beside the baseline"
    if best < 0:
        return _end(state, RolloutPhase.ROLLED_BACK, f"worse: {interval}", effect)
    if now_s - state.step_since_s < rules.min_step_s:
        return _wait(state, now_s, effect, rules)
    if state.step >= len(rules.steps) - 1:
        if worst > -rules.margin:
            return _end(state, RolloutPhase.PROMOTED, f"no worse: {interval}", effect)
        return _wait(state, now_s, effect, rules)
    share = rules.steps[state.step + 1]
    if worst * share > -rules.max_harm:
        grown = replace(state, step=state.step + 1, step_since_s=now_s, phase=RolloutPhase.RUNNING)
        return Decision(grown, f"grows to {share:.0%}: {interval}", effect)
    return _wait(state, now_s, effect, rules)


def _wait(
    state: RolloutState, now_s: float, effect: Effect | None, rules: RolloutSettings, few: str = ""
) -> Decision:
    """No verdict yet: hold after a while, and give up after a long one.

    Args:
        few: of what there is too few.
    """
    if now_s - state.started_s >= rules.give_up_s:
        return _end(state, RolloutPhase.ROLLED_BACK, "no verdict in time", effect)
    if now_s - state.step_since_s >= rules.hold_s:
        return _hold(state, f"no verdict yet: {few}" if few else "no verdict yet", effect)
    return Decision(state, "goes on", effect)


def _hold(state: RolloutState, reason: str, effect: Effect | None) -> Decision:
    """A step that operators should look at."""
    if state.phase is not RolloutPhase.RUNNING:
        return Decision(state, "goes on", effect)
    return Decision(replace(state, phase=RolloutPhase.HOLDING), f"holds: {reason}", effect)


def _end(state: RolloutState, phase: RolloutPhase, reason: str, effect: Effect | None) -> Decision:
    return Decision(replace(state, phase=phase), reason, effect)


class PlacementChange(Struct, frozen=True):
    """The rules of a placement that are tried out, and those that are compared with them."""

    candidate: PlacementRules
    stable: PlacementRules


class Trial(Struct, frozen=True):
    """A candidate and the stable version.

    Attributes:
        model: the subject: a model, or a placement (`features.rollout_messages`).
        candidate, stable: version number and address of each.
        sequence: number of its newest step, from 0.
        change: what is tried out of a placement; None where the subject is a model.
    """

    rollout_id: str
    model: str
    candidate: tuple[int, str]
    stable: tuple[int, str]
    state: RolloutState
    sequence: int = 0
    change: PlacementChange | None = None

    @property
    def started_ms(self) -> int:
        """When it began, in milliseconds since 1970."""
        return int(1000 * self.state.started_s)

    def advance(self, state: RolloutState) -> "Trial":
        """The trial one step on, in this state."""
        return replace(self, state=state, sequence=self.sequence + 1)

    def to_rollout(self, rules: RolloutSettings, time_ms: int) -> Rollout:
        """The message that workers follow: who gets which version."""
        return Rollout(
            model=self.model,
            versions=self._versions(rules),
            phase=self.state.phase,
            time=time_ms,
            rollout_id=self.rollout_id,
            sequence=self.sequence,
        )

    def _versions(self, rules: RolloutSettings) -> list[RoutedVersion]:
        match self.routing_phase:
            case RolloutPhase.PROMOTED:
                return [_route(self.candidate, Variant.STABLE, 1.0)]
            case RolloutPhase.ROLLED_BACK:
                return [_route(self.stable, Variant.STABLE, 1.0)]
            case RolloutPhase.SHADOW:
                return [
                    _route(self.stable, Variant.STABLE, 1.0),
                    self._on_trial(Variant.SHADOW, rules.shadow_fraction),
                ]
        # A trial of release 0.1.0 has no rules of its own: settings may have fewer steps by now.
        share = rules.steps[min(self.state.step, len(rules.steps) - 1)]
        return [
            _route(self.stable, Variant.STABLE, 1 - 2 * share),
            self._on_trial(Variant.CANARY, share),
            _route(self.stable, Variant.BASELINE, share),
        ]

    def _on_trial(self, variant: Variant, share: float) -> RoutedVersion:
        """The candidate, with its rules: those of a placement stand nowhere else yet."""
        rules = self.change.candidate if self.change else None
        return replace(_route(self.candidate, variant, share), rules=rules)

    @property
    def routing_phase(self) -> RolloutPhase:
        """The phase that decides who gets which version: a pause changes nobody's."""
        paused = self.state.phase is RolloutPhase.PAUSED
        return self.state.phase_before_pause if paused else self.state.phase


def _route(version: tuple[int, str], variant: Variant, share: float) -> RoutedVersion:
    number, address = version
    return RoutedVersion(version=number, variant=variant, share=share, address=address)
