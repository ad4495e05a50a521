"""The controller: follows a rollout's feedback and commands, decides, and writes to `rollouts`.

All that it knows is in the topic and in the feature store. When it dies, another one reads both and
carries on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from headwater_client.errors import ServerError
from msgspec.structs import replace
from prometheus_client import Counter, Gauge

from deploy.rollout import commands, history
from deploy.rollout.commands import CommandRejectedError, FencedError
from deploy.rollout.decision import Decision, Trial, apply_action, decide, initial_state
from deploy.rollout.evidence import collect_inputs
from deploy.rollout.feedback.consumer import FeedbackConsumer
from deploy.rollout.settings import RolloutSettings
from deploy.rollout.topic import ANSWER_S, ControllerMessage, RolloutLog
from features import rollout_messages

CONTROLLER = "controller"
POLL_S = 0.05
# Workers wait for three times as long at least (`worker.rollout_lease_s`).
RENEW_S = 10.0
FORGET_S = 3600.0
MAX_COMMANDS = 10
log = structlog.get_logger()

LEADS = Gauge("headwater_rollout_leads", "Whether this controller is the one that decides")
SHARE = Gauge("headwater_rollout_share", "Share of people that the candidate has; 0 for none")
STEPS = Counter("headwater_rollout_steps_total", "Steps of rollouts", ["state"])
REWARD = Gauge(
    "headwater_rollout_reward_ratio_log",
    "Logarithm of the canary's reward over its baseline's: what it is at least, about, at most",
    ["bound"],
)


@dataclass(frozen=True)
class Dependencies:
    """What the controller needs besides the topic.

    Attributes:
        count_feedback: makes what counts a trial's feedback, by the trial's rules.
        find_problem: why a version at an address cannot be tried out; "" where it can.
    """

    count_feedback: Callable[[Trial, RolloutSettings], FeedbackConsumer]
    find_problem: Callable[[int, str], str]


class Controller:
    """Decides on the rollouts of one model, for as long as its log leads.

    While it decides on a trial it says so all the time: workers stop showing what nobody watches.

    Args:
        rules: of trials that begin from now on; one that is under way keeps its own.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        rollouts: RolloutLog,
        model: str,
        rules: RolloutSettings,
        dependencies: Dependencies,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = rollouts
        self._model = model
        self._rules = rules
        self._dependencies = dependencies
        self._clock = clock
        self._projection = history.RolloutProjection()
        self._feedback: FeedbackConsumer | None = None
        self._decided_s = self._renewed_s = self._forgot_s = 0.0

    async def run_once(self) -> None:
        """Read the topic, carry out commands, and decide on the trial.

        Raises:
            FencedError: another controller leads: start anew.
            ServerError: Kafka or the store does not answer: start anew, nothing is lost.
        """
        message = self._log.poll(POLL_S)
        LEADS.set(self._log.leads)
        if not self._log.leads:
            self.close()
            return
        if message is not None:
            self._projection.apply(message)
        if not self._log.caught_up:
            return
        self._restore()
        self._end_overtaken_trial()
        # Not all of a flood at once: the trial is watched meanwhile.
        for command in self._projection.open_commands[:MAX_COMMANDS]:
            self._execute(command)
        self._forget_answers()
        await self._follow_trial()

    def _restore(self) -> None:
        """Write what workers follow once more, where somebody wrote over its place."""
        current = self._projection.current
        if current is not None and self._log.needs_restoring:
            log.warning("rollout_restored", rollout_id=current.rollout_id, state=current.phase)
            self._write([current])

    def _forget_answers(self) -> None:
        if self._clock() - self._forgot_s >= FORGET_S:
            self._forgot_s = self._clock()
            if old := self._projection.forget_answers(self._now_ms()):
                self._log.forget(old)

    def _end_overtaken_trial(self) -> None:
        """End a trial in whose place somebody has announced a version to everyone."""
        trial = self._projection.overtaken_trial
        if trial is None:
            return
        ended = trial.advance(replace(trial.state, phase=rollout_messages.RolloutPhase.ROLLED_BACK))
        # The announcement stands, so only the step is written, for the history.
        reason = "overtaken: another version was announced"
        rollout = ended.to_rollout(self._rules_of(ended), self._now_ms())
        self._write([history.build_step(history.Transition(ended, CONTROLLER, reason), rollout)])

    def _rules_of(self, trial: Trial) -> RolloutSettings:
        """Those that the trial began with, whatever the settings say meanwhile."""
        return self._projection.rules_of(trial.rollout_id) or self._rules

    def _execute(self, received: commands.ReceivedCommand) -> None:
        now_ms, command = self._now_ms(), received.command
        try:
            commands.verify_command(received, self._rules, now_ms)
            trial, outcome = self._apply_command(command)
        except CommandRejectedError as error:
            log.warning(
                "command_refused", action=command.action, actor=command.actor, reason=str(error)
            )
            self._write([_answer(command, now_ms, str(error), accepted=False)])
            return
        answer = _answer(command, now_ms, outcome, accepted=True)
        if trial == self._projection.trial:
            self._write([answer])
            return
        rules = history.rules_as_json(self._rules_of(trial))
        transition = history.Transition(
            trial, command.actor, command.reason, rules, command.command_id
        )
        self._take_step(transition, answer)

    def _apply_command(self, command: rollout_messages.RolloutCommand) -> tuple[Trial, str]:
        """The trial as it is after a command, and what to answer.

        Raises:
            CommandRejectedError: it cannot be carried out.
        """
        now_s, trial = self._clock(), self._projection.trial
        if command.action is rollout_messages.RolloutAction.START:
            if trial and trial.candidate == (command.version, command.address):
                return trial, f"rollout {trial.rollout_id} is {trial.state.phase}"
            started = self._start_trial(command, now_s)
            return started, f"rollout {started.rollout_id} begins"
        if trial is None:
            raise CommandRejectedError(f"{command.action}: no rollout is running")
        commands.check_meaning(command, trial.rollout_id, trial.sequence)
        after = trial.advance(apply_action(trial.state, command.action, now_s))
        return after, f"rollout {trial.rollout_id} is {after.state.phase}"

    def _start_trial(self, command: rollout_messages.RolloutCommand, now_s: float) -> Trial:
        current = self._projection.current
        stable = current.version_for(rollout_messages.Variant.STABLE) if current else None
        if stable is None:
            raise CommandRejectedError(
                "start: no version is live yet: train a first one: headwater train"
            )
        if (running := self._projection.trial) is not None:
            raise CommandRejectedError(
                f"start: rollout {running.rollout_id} of version {running.candidate[0]} is "
                f"{running.state.phase}: promote it or roll it back first"
            )
        if command.version is None:
            raise CommandRejectedError("start: version: is missing: name the version to try out")
        if command.version == stable.version:
            raise CommandRejectedError(
                f"start: version {command.version} is what everyone gets already"
            )
        address = command.address or _sibling_address(stable.address, command.version)
        if problem := self._dependencies.find_problem(command.version, address):
            raise CommandRejectedError(f"start: version {command.version}: {problem}")
        return Trial(
            rollout_id=f"{command.version}-{command.time}",
            model=self._model,
            candidate=(command.version, address),
            stable=(stable.version, stable.address),
            state=initial_state(now_s, shadow=self._rules.shadow_s > 0),
        )

    async def _follow_trial(self) -> None:
        """Count the feedback that has arrived, and decide where it is time to."""
        trial = self._projection.trial
        if trial is None:
            self.close()
            return
        feedback = await self._feedback_of(trial)
        feedback.absorb(POLL_S)
        if self._clock() - self._decided_s >= self._rules.interval_s:
            await self._decide(trial, feedback)
        self._renew_lease()

    async def _decide(self, trial: Trial, feedback: FeedbackConsumer) -> None:
        self._decided_s = now_s = self._clock()
        await feedback.flush()
        shadow = trial.routing_phase is rollout_messages.RolloutPhase.SHADOW
        inputs = collect_inputs(feedback.counters(), now_s, shadow=shadow)
        rules = self._rules_of(trial)
        decision = decide(trial.state, inputs, rules)
        set_reward(decision, rules)
        if decision.state != trial.state:
            recorded = history.inputs_as_json(trial.state, inputs, rules)
            after = trial.advance(decision.state)
            self._take_step(history.Transition(after, CONTROLLER, decision.reason, recorded))

    def _renew_lease(self) -> None:
        """Say that somebody watches the trial; who cannot decide does not come here."""
        trial, now_s = self._projection.trial, self._clock()
        if trial is not None and now_s - self._renewed_s >= RENEW_S:
            self._renewed_s = now_s
            self._log.write([_lease(trial, self._now_ms())])

    async def _feedback_of(self, trial: Trial) -> FeedbackConsumer:
        """The consumer of a trial's feedback; that of another trial is closed."""
        if self._feedback is not None and self._feedback.scope.rollout_id != trial.rollout_id:
            self.close()
        if self._feedback is None:
            self._feedback = self._dependencies.count_feedback(trial, self._rules_of(trial))
            await self._feedback.start()
        return self._feedback

    def _take_step(
        self, transition: history.Transition, answer: rollout_messages.RolloutAnswer | None = None
    ) -> None:
        """Write a step, what workers follow from now on, and the answer to who asked for it."""
        trial = transition.trial
        rollout = trial.to_rollout(self._rules_of(trial), self._now_ms())
        step = history.build_step(transition, rollout)
        self._write([rollout, step, *([answer] if answer else [])])
        count_step(rollout)
        log.info(
            "rollout_step",
            rollout_id=trial.rollout_id,
            version=trial.candidate[0],
            state=trial.state.phase,
            share=history.share_of(rollout),
            actor=transition.actor,
            reason=transition.reason,
        )

    def _write(self, messages: Sequence[ControllerMessage]) -> None:
        """Write, and read until it comes back, and with it all that others wrote before."""
        last = self._log.write(messages)[-1]
        deadline = time.monotonic() + ANSWER_S
        while True:
            message = self._log.poll(POLL_S)
            if message is not None:
                self._projection.apply(message)
            if message == last:
                return
            if not self._log.leads:
                raise FencedError("another controller leads")
            if time.monotonic() > deadline:
                raise ServerError(f"Kafka: what was written does not come back in {ANSWER_S:.0f} s")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def close(self) -> None:
        """Stop counting."""
        if self._feedback is not None:
            self._feedback.close()
            self._feedback = None


def _answer(
    command: rollout_messages.RolloutCommand, now_ms: int, reason: str, *, accepted: bool
) -> rollout_messages.RolloutAnswer:
    return rollout_messages.RolloutAnswer(
        command_id=command.command_id, accepted=accepted, reason=reason, time=now_ms
    )


def _lease(trial: Trial, now_ms: int) -> rollout_messages.RolloutLease:
    # The log numbers it.
    return rollout_messages.RolloutLease(
        model=trial.model, rollout_id=trial.rollout_id, sequence=1, time=now_ms
    )


def _sibling_address(address: str, version: int) -> str:
    """The address of a version in the same folder as another.

    >>> _sibling_address("s3://models/temporal_llm/7/", 8)
    's3://models/temporal_llm/8'
    """
    return f"{address.rstrip('/').rpartition('/')[0]}/{version}"


def count_step(rollout: rollout_messages.Rollout) -> None:
    """Count a step, and show the candidate's share after it."""
    STEPS.labels(rollout.phase.value).inc()
    SHARE.set(history.share_of(rollout))


def set_reward(decision: Decision, rules: RolloutSettings) -> None:
    """Show the effect that a decision was taken on; nothing while nothing was earned."""
    if (effect := decision.effect) is not None:
        REWARD.labels("lower").set(effect.lower(rules.false_promotion))
        REWARD.labels("estimate").set(effect.estimate)
        REWARD.labels("upper").set(effect.upper(rules.false_rollback))
