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
from prometheus_client import Gauge

from deploy.rollout import commands, course, history
from deploy.rollout.commands import CommandRejectedError, FencedError
from deploy.rollout.decision import Decision, Trial, apply_action, decide, initial_state
from deploy.rollout.evidence import collect_inputs
from deploy.rollout.feedback.consumer import FeedbackConsumer
from deploy.rollout.log import ANSWER_S, ControllerMessage, PromotedRules, RolloutLog, SubjectLog
from deploy.rollout.settings import RolloutSettings
from deploy.rollout.subjects import Subject
from features import rollout_messages
from features.metrics import make_counter

CONTROLLER = "controller"
POLL_S = 0.05
# Workers wait for three times as long at least (`worker.rollout_lease_s`).
RENEW_S = 10.0
FORGET_S = 3600.0
MAX_COMMANDS = 10
log = structlog.get_logger()

LEADS = Gauge("headwater_rollout_leads", "Whether this controller is the one that decides")
SHARE = Gauge("headwater_rollout_share", "Share of people that the candidate has; 0 for none")
STEPS = make_counter(
    "headwater_rollout_steps_total", "Steps of rollouts", "state", rollout_messages.RolloutPhase
)
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
        make_subject: what a name on the topic is.
        refresh_placements: takes in how placements have changed.
    """

    count_feedback: Callable[[Trial, RolloutSettings], FeedbackConsumer]
    make_subject: Callable[[str], Subject]
    refresh_placements: Callable[[], None]


class ControllerFleet:
    """A controller for each subject of the topic, as long as the log leads.

    Args:
        rules: of trials that begin from now on; one that is under way keeps its own.
    """

    def __init__(
        self, rollouts: RolloutLog, rules: RolloutSettings, dependencies: Dependencies
    ) -> None:
        self._log = rollouts
        self._rules = rules
        self._dependencies = dependencies
        self._controllers: dict[SubjectLog, Controller] = {}

    async def run_once(self) -> None:
        """Read the topic, carry out commands, and decide on the trials.

        Raises:
            FencedError: another controller leads: start anew.
            ServerError: Kafka or the store does not answer: start anew, nothing is lost.
        """
        self._log.pump(POLL_S)
        LEADS.set(self._log.leads)
        if not self._log.leads:
            self.close()
            return
        self._follow_subjects()
        if self._log.caught_up:
            self._dependencies.refresh_placements()
            for controller in self._controllers.values():
                await controller.turn()

    def _follow_subjects(self) -> None:
        """A controller for each subject; after another take-over all is read anew."""
        for name, part in self._log.subjects.items():
            if part not in self._controllers:
                subject = self._dependencies.make_subject(name)
                made = Controller(part, subject, self._rules, self._dependencies)
                self._controllers[part] = made
        current = set(self._log.subjects.values())
        for part, controller in list(self._controllers.items()):
            if part in current:
                controller.take_messages()
            else:
                self._controllers.pop(part).close()

    def close(self) -> None:
        """Stop counting, and show nothing of what another controller decides from now on."""
        LEADS.set(False)
        SHARE.set(0)
        REWARD.clear()
        for controller in self._controllers.values():
            controller.close()
        self._controllers.clear()


class Controller:
    """Decides on the rollouts of one subject, for as long as its log leads.

    While it decides on a trial it says so all the time: workers stop showing what nobody watches.

    Args:
        rules: of trials that begin from now on; one that is under way keeps its own.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        rollouts: SubjectLog,
        subject: Subject,
        rules: RolloutSettings,
        dependencies: Dependencies,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = rollouts
        self._subject = subject
        self._rules = rules
        self._dependencies = dependencies
        self._clock = clock
        self._projection = history.RolloutProjection()
        self._feedback: FeedbackConsumer | None = None
        self._course: rollout_messages.RolloutCourse | None = None
        self._decided_s = self._renewed_s = self._forgot_s = 0.0

    def take_messages(self) -> None:
        """Take in what has come of the subject."""
        while (message := self._log.take()) is not None:
            self._projection.apply(message)

    async def turn(self) -> None:
        """Carry out commands, and decide on the trial, once the topic was read to its end.

        Raises:
            FencedError, ServerError: as of `ControllerFleet.run_once`.
        """
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
        """End a trial in whose place somebody has announced something else to everyone."""
        if (trial := self._projection.overtaken_trial) is not None:
            # The announcement stands, so only the step is written, for the history.
            reason = "overtaken: another version was announced"
            ended = _roll_back(trial)
            rollout = ended.to_rollout(self._rules_of(ended), self._now_ms())
            step = history.build_step(history.Transition(ended, CONTROLLER, reason), rollout)
            self._write([step])
        elif (trial := self._projection.trial) and (reason := self._subject.find_overtaking(trial)):
            rules = history.rules_as_json(self._rules_of(trial))
            self._take_step(history.Transition(_roll_back(trial), CONTROLLER, reason, rules))

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
            if trial and self._subject.is_same(trial, command):
                return trial, f"rollout {trial.rollout_id} is {trial.state.phase}"
            if trial is not None:
                raise CommandRejectedError(
                    f"start: rollout {trial.rollout_id} is {trial.state.phase}: promote it or roll "
                    "it back first"
                )
            state = initial_state(now_s, shadow=self._rules.shadow_s > 0)
            started = self._subject.begin(command, self._projection.current, state)
            return started, f"rollout {started.rollout_id} begins"
        if trial is None:
            raise CommandRejectedError(f"{command.action}: no rollout is running")
        commands.check_meaning(command, trial.rollout_id, trial.sequence)
        after = trial.advance(apply_action(trial.state, command.action, now_s))
        return after, f"rollout {trial.rollout_id} is {after.state.phase}"

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
        if rollout_messages.placement_of(trial.model) is None:
            # Also what another controller has begun, which this one has taken over.
            SHARE.set(history.share_of(trial.to_rollout(rules, self._now_ms())))
            set_reward(decision, rules)
        has_changed = decision.state != trial.state
        so_far = course.begin_course(trial, self._course or self._projection.course)
        if not has_changed and not course.is_due(so_far, trial, now_s):
            return
        recorded = history.inputs_as_json(trial.state, inputs, rules)
        sample = course.make_sample(trial, inputs, decision, rules)
        self._course = course.add_sample(so_far, sample, decision.reason, recorded)
        self._log.write([self._course])
        if has_changed:
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
        promoted = None
        if trial.change and _is_promoted(trial):
            promoted = PromotedRules(trial.change.candidate, trial.stable[0])
        self._write([rollout, step, *([answer] if answer else [])], promoted)
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

    def _write(
        self, messages: Sequence[ControllerMessage], promoted: PromotedRules | None = None
    ) -> None:
        """Write, and read until it comes back, and with it all that others wrote before.

        Args:
            promoted: what the placement's rules are from now on.
        """
        last = self._log.write(messages, promoted)[-1]
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


def _roll_back(trial: Trial) -> Trial:
    """The trial one step on, ended."""
    return trial.advance(replace(trial.state, phase=rollout_messages.RolloutPhase.ROLLED_BACK))


def _is_promoted(trial: Trial) -> bool:
    return trial.state.phase is rollout_messages.RolloutPhase.PROMOTED


def count_step(rollout: rollout_messages.Rollout) -> None:
    """Count a step, and show the candidate's share after it."""
    STEPS.labels(rollout.phase.value).inc()
    # Of placements there may be several on trial at a time.
    if rollout_messages.placement_of(rollout.model) is None:
        share = history.share_of(rollout)
        SHARE.set(share)
        if not share:
            # What the next trial earns is not known yet.
            REWARD.clear()


def set_reward(decision: Decision, rules: RolloutSettings) -> None:
    """Show the effect that a decision was taken on; nothing while nothing was earned."""
    if (effect := decision.effect) is not None:
        REWARD.labels("lower").set(effect.lower(rules.false_promotion))
        REWARD.labels("estimate").set(effect.estimate)
        REWARD.labels("upper").set(effect.upper(rules.false_rollback))
