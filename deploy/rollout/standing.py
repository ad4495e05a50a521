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
    """The newest rollout, what it tries out, and the commands that nobody has answered.

    Attributes:
        current: what workers follow; None where no version was announced.
    """

    def __init__(self) -> None:
        self.current: Rollout | None = None
        self._undecided: Trial | None = None
        self._commands: dict[str, RolloutCommand] = {}

    def note(self, message: RolloutMessage) -> None:
        """Take a message in, in the topic's order."""
        match message:
            case Rollout():
                self.current = message
            case RolloutStep():
                trial = trial_of(message)
                self._undecided = None if trial.state.ended else trial
            case RolloutCommand():
                self._commands[message.command_id] = message
            case RolloutAnswer():
                self._commands.pop(message.command_id, None)

    @property
    def trial(self) -> Trial | None:
        """What is being tried out; None where nothing is, or somebody has ended it."""
        return self._undecided if self._is_followed() else None

    def overtaken(self) -> Trial | None:
        """A trial that has not ended, in whose place another version was announced."""
        return None if self.current is None or self._is_followed() else self._undecided

    def _is_followed(self) -> bool:
        """Whether workers follow the newest trial."""
        trial, current = self._undecided, self.current
        return bool(trial and current and trial.rollout_id == current.rollout_id)

    def open_commands(self) -> list[RolloutCommand]:
        """The commands without an answer, oldest first."""
        return list(self._commands.values())
