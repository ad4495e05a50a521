"""The controller: follows a rollout's feedback and commands, decides, and says so on `rollouts`.

All that it knows is in the topic and in the feature store. So one that dies is followed by another,
which reads both and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from headwater_client.errors import ServerError

from deploy.rollout import metrics
from deploy.rollout.commands import check
from deploy.rollout.decision import RefusedError, State, begun, decide, steered
from deploy.rollout.feedback import Feedback
from deploy.rollout.log import ANSWER_S, DeposedError, RolloutLog
from deploy.rollout.record import inputs_of, share_of, step
from deploy.rollout.settings import RolloutSettings
from deploy.rollout.standing import Standing
from deploy.rollout.trial import Trial, figures
from features.rollout_messages import (
    Action,
    Rollout,
    RolloutAnswer,
    RolloutCommand,
    RolloutState,
    RolloutStep,
    Variant,
)

CONTROLLER = "controller"
POLL_S = 0.05
log = structlog.get_logger()


@dataclass(frozen=True)
class Surroundings:
    """What the controller needs besides the topic.

    Attributes:
        feedback: what counts a rollout, by its id and when it began, in milliseconds.
        refusal: why a version at an address cannot be tried out; "" where it can.
    """

    feedback: Callable[[str, int], Feedback]
    refusal: Callable[[int, str], str]


class Controller:
    """Decides on the rollouts of one model, for as long as its log leads.

    Args:
        clock: seconds since 1970.
    """

    def __init__(
        self,
        rollouts: RolloutLog,
        model: str,
        rules: RolloutSettings,
        surroundings: Surroundings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = rollouts
        self._model = model
        self._rules = rules
        self._surroundings = surroundings
        self._clock = clock
        self._standing = Standing()
        self._feedback: Feedback | None = None
        self._looked_s = 0.0

    async def turn(self) -> None:
        """Read what has come, obey, look at the figures.

        Raises:
            DeposedError, AnotherCounterError: another controller leads: begin anew.
            ServerError: Kafka or the store does not answer: begin anew, nothing is lost.
        """
        message = self._log.poll(POLL_S)
        metrics.LEADS.set(self._log.leads)
        if not self._log.leads:
            self.close()
            return
        if message is not None:
            self._standing.note(message)
        if not self._log.caught_up:
            return
        self._see_to_overtaken()
        for asked in self._standing.open_commands():
            self._obey(asked)
        await self._look()

    def _see_to_overtaken(self) -> None:
        """End a trial in whose place somebody has announced a version to everyone."""
        trial = self._standing.overtaken()
        if trial is None:
            return
        ended = self._next(trial, replace(trial.state, status=RolloutState.ROLLED_BACK))
        routed = ended.routed(self._rules, self._now_ms())
        # The announcement stands: this is for the history alone.
        self._write([step(ended, routed, CONTROLLER, "overtaken: another version was announced")])

    def _obey(self, asked: RolloutCommand) -> None:
        now_ms = self._now_ms()
        try:
            check(asked, self._rules, now_ms)
            trial, reason = self._asked_for(asked)
        except RefusedError as error:
            log.warning(
                "command_refused", action=asked.action, actor=asked.actor, reason=str(error)
            )
            self._write([_answer(asked, now_ms, str(error), accepted=False)])
            return
        accepted = _answer(asked, now_ms, reason, accepted=True)
        self._go_on(trial, asked.actor, asked.reason, command_id=asked.command_id, answer=accepted)

    def _asked_for(self, asked: RolloutCommand) -> tuple[Trial, str]:
        """The trial as it is after a command, and what to answer.

        Raises:
            RefusedError: it cannot be done.
        """
        now_s, trial = self._clock(), self._standing.trial
        if asked.action is Action.START:
            started = self._started(asked, now_s)
            return started, f"rollout {started.rollout_id} begins"
        if trial is None:
            raise RefusedError(f"{asked.action}: no rollout is running")
        after = self._next(trial, steered(trial.state, asked.action, now_s))
        return after, f"rollout {trial.rollout_id} is {after.state.status}"

    def _started(self, asked: RolloutCommand, now_s: float) -> Trial:
        current = self._standing.current
        stable = current.of(Variant.STABLE) if current else None
        if stable is None:
            raise RefusedError("start: no version is live yet: train a first one: headwater train")
        if (running := self._standing.trial) is not None:
            raise RefusedError(
                f"start: rollout {running.rollout_id} of version {running.candidate[0]} is "
                f"{running.state.status}: promote it or roll it back first"
            )
        if asked.version is None:
            raise RefusedError("start: version: is missing: name the version to try out")
        if asked.version == stable.version:
            raise RefusedError(f"start: version {asked.version} is what everyone gets already")
        address = asked.address or _beside(stable.address, asked.version)
        if reason := self._surroundings.refusal(asked.version, address):
            raise RefusedError(f"start: version {asked.version}: {reason}")
        return Trial(
            rollout_id=f"{asked.version}-{asked.time}",
            model=self._model,
            candidate=(asked.version, address),
            stable=(stable.version, stable.address),
            state=begun(now_s, shadow=self._rules.shadow_s > 0),
        )

    async def _look(self) -> None:
        """Count what has come, and decide where it is time to."""
        trial = self._standing.trial
        if trial is None:
            self.close()
            return
        if self._feedback is not None and self._feedback.rollout_id != trial.rollout_id:
            self.close()
        if self._feedback is None:
            self._feedback = self._surroundings.feedback(trial.rollout_id, trial.started_ms)
            await self._feedback.start()
        self._feedback.absorb(POLL_S)
        now_s = self._clock()
        if now_s - self._looked_s < self._rules.interval_s:
            return
        self._looked_s = now_s
        await self._feedback.flush()
        seen = figures(trial, self._feedback.counters(), now_s)
        decided = decide(trial.state, seen, self._rules)
        metrics.show(decided, self._rules)
        if decided.state != trial.state:
            inputs = inputs_of(trial.state, seen, self._rules)
            self._go_on(self._next(trial, decided.state), CONTROLLER, decided.reason, inputs)

    def _go_on(
        self,
        trial: Trial,
        actor: str,
        reason: str,
        inputs: dict[str, Any] | None = None,
        command_id: str = "",
        answer: RolloutAnswer | None = None,
    ) -> None:
        """Write a step, and what workers follow from now on."""
        rollout = trial.routed(self._rules, self._now_ms())
        taken = step(trial, rollout, actor, reason, inputs, command_id)
        self._write([taken, rollout, *([answer] if answer else [])])
        metrics.count_step(rollout)
        log.info(
            "rollout_step",
            rollout_id=trial.rollout_id,
            version=trial.candidate[0],
            state=trial.state.status,
            share=share_of(rollout),
            actor=actor,
            reason=reason,
        )

    def _write(self, messages: Sequence[Rollout | RolloutStep | RolloutAnswer]) -> None:
        """Write, and read until it comes back: what others wrote before it is known then too."""
        self._log.write(messages)
        deadline = time.monotonic() + ANSWER_S
        while True:
            message = self._log.poll(POLL_S)
            if message is not None:
                self._standing.note(message)
            if message == messages[-1]:
                return
            if not self._log.leads:
                raise DeposedError("another controller leads")
            if time.monotonic() > deadline:
                raise ServerError(f"Kafka: what was written does not come back in {ANSWER_S:.0f} s")

    @staticmethod
    def _next(trial: Trial, state: State) -> Trial:
        return replace(trial, state=state, sequence=trial.sequence + 1)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def close(self) -> None:
        """Stop counting."""
        if self._feedback is not None:
            self._feedback.close()
            self._feedback = None


def _answer(asked: RolloutCommand, now_ms: int, reason: str, *, accepted: bool) -> RolloutAnswer:
    return RolloutAnswer(command_id=asked.command_id, accepted=accepted, reason=reason, time=now_ms)


def _beside(address: str, version: int) -> str:
    """Where a version is that lies beside another.

    >>> _beside("s3://models/temporal_llm/7/", 8)
    's3://models/temporal_llm/8'
    """
    return f"{address.rstrip('/').rpartition('/')[0]}/{version}"
