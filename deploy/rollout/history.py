"""Steps of the history: how they are written, read, replayed, and what they add up to."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import structlog
from headwater_client.decoders import convert
from headwater_client.errors import DataError
from msgspec import Meta

from deploy.rollout.commands import REMEMBERED_S, ReceivedCommand
from deploy.rollout.decision import Decision, PlacementChange, RolloutState, Trial, decide
from deploy.rollout.evidence import DecisionInputs, Health, VariantTally
from deploy.rollout.feedback.counters import COUNTERS
from deploy.rollout.settings import RolloutSettings
from features import rollout_messages
from features.rollout_messages import RolloutPhase, RolloutRecord

# Counters that the history's JSON has under another name.
_JSON_NAMES = {"failed": "errors"}
# Rules that releases before them did not have, as if there were none.
_RULES_BEFORE = {"min_people": 0, "min_buckets": 0, "min_slow_ms": 0.0}
_UNREADABLE = (KeyError, TypeError, ValueError, OverflowError, msgspec.ValidationError)
_VERSION = tuple[Annotated[int, Meta(ge=0)], Annotated[str, Meta(min_length=1)]]
MAX_OPEN_COMMANDS = 10_000
log = structlog.get_logger()


@dataclass(frozen=True)
class Transition:
    """A step that is to be taken.

    Attributes:
        trial: as it is after the step.
        inputs: what was decided on, as JSON; empty where somebody asked for it.
    """

    trial: Trial
    actor: str
    reason: str
    inputs: dict[str, Any] = field(default_factory=dict)
    command_id: str = ""


def build_step(
    transition: Transition, rollout: rollout_messages.Rollout
) -> rollout_messages.RolloutStep:
    """The history's message for a transition that led to this rollout."""
    trial = transition.trial
    versions = {"candidate": list(trial.candidate), "stable": list(trial.stable)}
    change = {"change": msgspec.to_builtins(trial.change)} if trial.change else {}
    return rollout_messages.RolloutStep(
        rollout=rollout,
        actor=transition.actor,
        reason=transition.reason,
        command_id=transition.command_id,
        snapshot=msgspec.to_builtins(trial.state) | versions | change,
        inputs=transition.inputs,
    )


def inputs_as_json(
    state: RolloutState, inputs: DecisionInputs, rules: RolloutSettings
) -> dict[str, Any]:
    """What a decision was taken on, for a step's `inputs`."""
    figures = {
        "now_s": inputs.now_s,
        "canary": _tally_as_json(inputs.canary),
        "baseline": _tally_as_json(inputs.baseline),
        "canary_health": _health_as_json(inputs.canary_health),
        "baseline_health": _health_as_json(inputs.baseline_health),
        "drift": inputs.drift,
        "of_seen": inputs.of_seen,
    }
    return {"state": msgspec.to_builtins(state), "figures": figures, **rules_as_json(rules)}


def rules_as_json(rules: RolloutSettings) -> dict[str, Any]:
    """The rules of a trial, for a step's `inputs`: without what is the controller's own."""
    excluded = {"admin_token", "metrics_port", "metrics_address"}
    return {"rules": rules.model_dump(mode="json", exclude=excluded)}


def _tally_as_json(tally: VariantTally) -> dict[str, list[float] | float | None]:
    arrays = {"shown": tally.shown.tolist(), "reward": tally.reward.tolist()}
    return arrays | {"events": tally.events}


def _health_as_json(health: Health) -> dict[str, float | None]:
    counts = {_JSON_NAMES.get(name, name): count for name, count in health.counts.items()}
    return counts | {
        "p99_ms": health.p99_ms,
        "p99_at_least_ms": health.p99_at_least_ms,
        "coverage": health.coverage,
        "people": health.people,
    }


def has_inputs(step: rollout_messages.RolloutStep) -> bool:
    """Whether a step was decided on figures; not where somebody asked for it."""
    return "figures" in step.inputs


def inputs_of(step: rollout_messages.RolloutStep) -> DecisionInputs:
    """What a step was decided on; counters that its release did not have are 0.

    Raises:
        DataError: it cannot be read.
    """
    with _reading(_name(step)):
        return _inputs_from_json(step.inputs["figures"])


def _inputs_from_json(figures: Mapping[str, Any]) -> DecisionInputs:
    return DecisionInputs(
        now_s=figures["now_s"],
        canary=_tally_from_json(figures["canary"]),
        baseline=_tally_from_json(figures["baseline"]),
        canary_health=_health_from_json(figures["canary_health"]),
        baseline_health=_health_from_json(figures["baseline_health"]),
        drift=figures["drift"],
        of_seen=figures.get("of_seen", False),
    )


def _tally_from_json(stored: Mapping[str, Any]) -> VariantTally:
    shown, reward = (np.asarray(stored[name], np.float64) for name in ("shown", "reward"))
    return VariantTally(shown, reward, stored.get("events"))


def _health_from_json(stored: Mapping[str, Any]) -> Health:
    return Health(
        counts={name: int(stored.get(_JSON_NAMES.get(name, name), 0)) for name in COUNTERS},
        p99_ms=float(stored.get("p99_ms", 0.0)),
        p99_at_least_ms=float(stored.get("p99_at_least_ms", 0.0)),
        coverage=int(stored.get("coverage", 0)),
        people=stored.get("people"),
    )


def rules_of(step: rollout_messages.RolloutStep) -> RolloutSettings:
    """The rules that a step was decided by; those that its release did not have forbid nothing.

    Raises:
        DataError: they cannot be read.
    """
    with _reading(_name(step)):
        return _rules_from_json(step.inputs["rules"])


def _rules_from_json(rules: Mapping[str, Any]) -> RolloutSettings:
    return RolloutSettings.model_validate({**_RULES_BEFORE, **rules})


def state_of(step: rollout_messages.RolloutStep) -> RolloutState:
    """The rollout's state after a step.

    Raises:
        DataError: it cannot be read.
    """
    with _reading(_name(step)):
        return convert(step.snapshot, RolloutState)


def trial_of(step: rollout_messages.RolloutStep) -> Trial:
    """The trial as a step left it.

    Raises:
        DataError: it cannot be read.
    """
    rollout, state = step.rollout, state_of(step)
    with _reading(_name(step)):
        if RolloutPhase.STABLE in (state.phase, state.phase_before_pause):
            raise ValueError(f"status: {state.phase}: no trial's")
        candidate, stable = (
            convert(step.snapshot[name], _VERSION) for name in ("candidate", "stable")
        )
        change = convert(step.snapshot.get("change"), PlacementChange | None)
        return Trial(
            rollout.rollout_id,
            rollout.model,
            candidate,
            stable,
            state,
            rollout.sequence,
            change,
        )


@dataclass(frozen=True)
class RecordedDecision:
    """All that a decision was taken on."""

    before: RolloutState
    inputs: DecisionInputs
    rules: RolloutSettings

    def replay(self) -> Decision:
        """The decision made again."""
        return decide(self.before, self.inputs, self.rules)


def read_recorded(recorded: Mapping[str, Any], name: str) -> RecordedDecision:
    """What stands in the `inputs` of a step, or of a course.

    Args:
        name: whose they are, for the error.

    Raises:
        DataError: they cannot be read.
    """
    with _reading(name):
        return RecordedDecision(
            convert(recorded["state"], RolloutState),
            _inputs_from_json(recorded["figures"]),
            _rules_from_json(recorded["rules"]),
        )


def replay_decision(step: rollout_messages.RolloutStep) -> Decision | None:
    """The decision made again from what was recorded; None for a step that somebody asked for.

    Raises:
        DataError: what was recorded cannot be read.
    """
    return read_recorded(step.inputs, _name(step)).replay() if has_inputs(step) else None


def is_reproducible(step: rollout_messages.RolloutStep) -> bool:
    """Whether the recorded inputs still lead to the same state, for the same reason.

    Raises:
        DataError: what was recorded cannot be read.
    """
    decision = replay_decision(step)
    return decision is None or (decision.state, decision.reason) == (state_of(step), step.reason)


def share_of(rollout: rollout_messages.Rollout) -> float:
    """The share of people who see the candidate, or for whom it runs in shadow mode."""
    for variant in (rollout_messages.Variant.CANARY, rollout_messages.Variant.SHADOW):
        if (routed := rollout.version_for(variant)) is not None:
            return routed.share
    return 0.0


def _name(step: rollout_messages.RolloutStep) -> str:
    return f"rollout {step.rollout.rollout_id}, step {step.rollout.sequence}"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What is wrong with something stored, as an error that says which it is."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name}: cannot be read: {reason}") from error


def find_breaks(records: Iterable[RolloutRecord]) -> Iterator[str]:
    """Where a history was changed, added to or taken from since it was written, a line each.

    Each step names the digest of the one before it. Steps of release 0.1.0 name none, and are
    believed as long as no later one stands before them; so are steps of before a key was set.

    Args:
        records: its steps as they stand in the topic, oldest first.
    """
    before, is_chained, is_signed = "", False, False
    for record in records:
        step = record.message
        if not isinstance(step, rollout_messages.RolloutStep):
            continue
        name = _name(step)
        if not record.is_trusted:
            if is_signed:
                yield f"{name}: is not signed: somebody without kafka.signing_key wrote it"
            continue
        is_signed = True
        if (step.previous or is_chained) and step.previous != before:
            yield f"{name}: chain broken: the step before it was changed, moved or removed"
        is_chained |= bool(step.previous or step.rollout.revision)
        before = record.digest


class RolloutProjection:
    """What the topic `rollouts` says of a model, put together message by message.

    Attributes:
        current: what workers follow; None where no version was announced.
        course: of the rollout that was decided on last; None where none was.
    """

    def __init__(self) -> None:
        self.current: rollout_messages.Rollout | None = None
        self.course: rollout_messages.RolloutCourse | None = None
        self._rules: RolloutSettings | None = None
        self._active: Trial | None = None
        self._commands: dict[str, ReceivedCommand] = {}
        self._answers: dict[str, int] = {}
        self._obeyed: set[str] = set()

    def apply(self, message: rollout_messages.RolloutMessage | ReceivedCommand) -> None:
        """Take a message in, in the topic's order. A step that cannot be read changes nothing."""
        match message:
            case rollout_messages.Rollout():
                self.current = message
            case rollout_messages.RolloutStep():
                self._apply_step(message)
            case rollout_messages.RolloutCourse():
                self.course = message
            case rollout_messages.RolloutCommand():
                self.apply(ReceivedCommand(message))
            case ReceivedCommand(command=command):
                name = command.command_id
                is_done = name in self._obeyed or name in self._answers
                if not is_done and len(self._commands) < MAX_OPEN_COMMANDS:
                    self._commands[name] = message
            case rollout_messages.RolloutAnswer():
                self._answers[message.command_id] = message.time
                self._commands.pop(message.command_id, None)

    def _apply_step(self, step: rollout_messages.RolloutStep) -> None:
        if step.command_id:
            self._obeyed.add(step.command_id)
        try:
            trial = trial_of(step)
        except DataError as error:
            log.warning("rollout_step_ignored", error=str(error))
            return
        if self.rules_of(trial.rollout_id) is None:
            self._rules = None
            with suppress(DataError):
                self._rules = rules_of(step)
        self._active = None if trial.state.is_terminal else trial

    def rules_of(self, rollout_id: str) -> RolloutSettings | None:
        """The rules that the active trial began with.

        None for another trial, or where the steps so far do not say: release 0.1.0 wrote them with
        decisions only.
        """
        is_active = self._active is not None and self._active.rollout_id == rollout_id
        return self._rules if is_active else None

    @property
    def trial(self) -> Trial | None:
        """The trial that workers follow; None where there is none."""
        return self._active if self._is_followed() else None

    @property
    def overtaken_trial(self) -> Trial | None:
        """A trial that has not ended, in whose place another version was announced."""
        return None if self.current is None or self._is_followed() else self._active

    @property
    def open_commands(self) -> list[ReceivedCommand]:
        """The commands without an answer, oldest first."""
        return list(self._commands.values())

    def forget_answers(self, now_ms: int) -> list[str]:
        """Ids of the commands whose answers nobody asks for any more; they are forgotten here."""
        until_ms = now_ms - 1000 * REMEMBERED_S
        old = [name for name, time_ms in self._answers.items() if time_ms < until_ms]
        for name in old:
            del self._answers[name]
        return old

    def _is_followed(self) -> bool:
        trial, current = self._active, self.current
        return bool(trial and current and trial.rollout_id == current.rollout_id)
