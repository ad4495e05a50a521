"""Trials of placements for the API: commands to the controller, and what `rollouts` has of them."""

import asyncio
from dataclasses import replace

from headwater_client import contract
from headwater_client.errors import DataError

from deploy.rollout import CommandRejectedError, CommandRequest, sign_command, topic
from deploy.rollout.history import share_of, trial_of
from deploy.settings import Settings
from features.rollout_messages import RolloutAction, RolloutStep, placement_subject
from stream.api.problems import refuse

# Who asks by HTTP waits for ten seconds, as a rule.
_ANSWER_S = 8.0


class ControllerDesk:
    """Signs what the API is asked with the admin token, and waits for the controller's answer.

    Args:
        settings: with the address of Kafka.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def begin(
        self, placement: str, query: contract.TrialQuery, key: str
    ) -> contract.TrialAnswer:
        """As `stream.api.parts.TrialDesk.begin`."""
        request = CommandRequest(
            placement_subject(placement),
            RolloutAction.START,
            _name_asker(query.by, key),
            query.reason,
            command_id=query.command_id or "",
            rules=query.rules,
        )
        return await asyncio.to_thread(self._send, placement, request)

    async def steer(
        self,
        placement: str,
        action: contract.TrialAction,
        query: contract.SteeringQuery,
        key: str,
    ) -> contract.TrialAnswer:
        """As `stream.api.parts.TrialDesk.steer`."""
        request = CommandRequest(
            placement_subject(placement),
            RolloutAction(action.value),
            _name_asker(query.by, key),
            query.reason,
            command_id=query.command_id or "",
        )
        return await asyncio.to_thread(self._steer, placement, query.rollout_id, request)

    async def read(self, placement: str) -> contract.TrialsAnswer:
        """As `stream.api.parts.TrialDesk.read`."""
        return await asyncio.to_thread(self._read, placement)

    def _steer(
        self, placement: str, rollout_id: str | None, request: CommandRequest
    ) -> contract.TrialAnswer:
        """Steer the trial that is under way, as it stands now."""
        current = topic.read_history(self._settings.kafka, request.model).current
        if rollout_id is not None and (current is None or current.rollout_id != rollout_id):
            running = current.rollout_id if current else "none"
            raise refuse("conflict", f"{rollout_id[:64]} is not under way: {running} is")
        return self._send(placement, replace(request, seen=current))

    def _send(self, placement: str, request: CommandRequest) -> contract.TrialAnswer:
        """Send a command; the trial as it is then.

        Raises:
            RequestError: it is refused.
            ServerError: Kafka or the controller does not answer.
        """
        settings = self._settings
        try:
            command = sign_command(settings.rollout, request)
            topic.send_command(settings.kafka, command, _ANSWER_S)
        except CommandRejectedError as error:
            raise refuse("conflict", str(error)) from error
        trials = self._read(placement).trials
        if not trials:
            raise refuse("conflict", f"nothing was tried out of {placement}")
        return trials[0]

    def _read(self, placement: str) -> contract.TrialsAnswer:
        found = topic.read_history(self._settings.kafka, placement_subject(placement))
        steps: dict[str, list[RolloutStep]] = {}
        for step in found.steps:
            steps.setdefault(step.rollout.rollout_id, []).append(step)
        trials, breaks = [], list(found.breaks)
        for own in reversed(steps.values()):
            try:
                trials.append(_describe(placement, own))
            except DataError as error:
                breaks.append(str(error))
        refused = [answer.reason for answer in found.rejected]
        return contract.TrialsAnswer(
            placement=placement, trials=trials, refused=refused, breaks=breaks
        )


def _name_asker(by: str | None, key: str) -> str:
    """Who asks, as the history has them: a key says who may, not who does."""
    return key if by is None else f"{by} ({key})"


def _describe(placement: str, steps: list[RolloutStep]) -> contract.TrialAnswer:
    """A trial by its steps.

    Raises:
        DataError: they cannot be read.
    """
    last = steps[-1]
    trial = trial_of(last)
    if trial.change is None:
        raise DataError(f"rollout {trial.rollout_id}: says of no rules that they are tried out")
    return contract.TrialAnswer(
        placement=placement,
        rollout_id=last.rollout.rollout_id,
        state=last.rollout.phase,
        variants=[
            contract.TrialVariant(
                variant=each.variant,
                share=each.share,
                revision=each.version if each.rules is None else None,
            )
            for each in last.rollout.versions
        ],
        steps=[
            contract.TrialStep(
                time=step.rollout.time,
                state=step.rollout.phase,
                share=share_of(step.rollout),
                actor=step.actor,
                reason=step.reason,
            )
            for step in steps
        ],
        rules=trial.change.candidate,
        revision=trial.stable[0],
    )
