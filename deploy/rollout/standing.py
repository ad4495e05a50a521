"""What the topic `rollouts` says of a model, put together message by message."""

from __future__ import annotations

from deploy.rollout.record import trial_of
from deploy.rollout.trial import Trial
from features.rollout_messages import (
    Rollout,
    RolloutAnswer,
    RolloutCommand,
    RolloutMessage,
    RolloutStep,
)


class Standing:
    """The newest rollout, its newest step, and the commands that nobody has answered.

    Attributes:
        current: what workers follow; None where no version was announced.
    """

    def __init__(self) -> None:
        self.current: Rollout | None = None
        self._step: RolloutStep | None = None
        self._commands: dict[str, RolloutCommand] = {}

    def note(self, message: RolloutMessage) -> None:
        """Take a message in, in the topic's order."""
        match message:
            case Rollout():
                self.current = message
            case RolloutStep():
                self._step = message
            case RolloutCommand():
                self._commands[message.command_id] = message
            case RolloutAnswer():
                self._commands.pop(message.command_id, None)

    @property
    def trial(self) -> Trial | None:
        """What is being tried out; None where nothing is, or somebody has ended it."""
        trial = self._newest()
        if trial is None or self.current is None:
            return None
        return trial if trial.rollout_id == self.current.rollout_id else None

    def overtaken(self) -> Trial | None:
        """A trial that has not ended, in whose place another version was announced."""
        trial = self._newest()
        if trial is None or self.current is None:
            return None
        return trial if trial.rollout_id != self.current.rollout_id else None

    def _newest(self) -> Trial | None:
        """The newest trial, unless it has ended."""
        trial = trial_of(self._step) if self._step else None
        return trial if trial is not None and not trial.state.ended else None

    def open_commands(self) -> list[RolloutCommand]:
        """The commands without an answer, oldest first."""
        return list(self._commands.values())
