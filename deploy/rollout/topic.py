"""The topics `rollouts` and `rollout-commands` as operators and trainers use them."""

import time
from contextlib import closing
from dataclasses import dataclass

from headwater_client.errors import DataError, ServerError, SettingsError
from headwater_client.topics import ROLLOUT_COMMANDS
from msgspec.structs import replace

from deploy.rollout.commands import MAX_AGE_S, CommandRejectedError
from deploy.rollout.history import find_breaks
from features import rollout_messages, rollouts
from features.settings import BrokerSettings

POLL_S = 0.2


def send_command(
    kafka: BrokerSettings, command: rollout_messages.RolloutCommand
) -> rollout_messages.RolloutAnswer:
    """Send a signed command (`deploy.rollout.commands`), and wait for its answer.

    One that was answered before, under the same id, is not sent again: it has that answer.

    Raises:
        CommandRejectedError: the controller rejects it.
        ServerError: Kafka does not answer, or no controller does.
    """
    with closing(rollouts.RolloutView(kafka, command.model)) as view:
        answer = _find_answer(view, command)
        if answer is None:
            key = rollout_messages.command_key(command.model, command.command_id)
            rollouts.write_rollout_message(kafka, key, command, command.action, ROLLOUT_COMMANDS)
        deadline = time.monotonic() + MAX_AGE_S
        while answer is None:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{command.action}: no controller has answered in {MAX_AGE_S:.0f} s: "
                    "run one: headwater controller"
                )
            time.sleep(POLL_S)
            answer = _find_answer(view, command)
    if not answer.accepted:
        raise CommandRejectedError(answer.reason)
    return answer


def _find_answer(
    view: rollouts.RolloutView, command: rollout_messages.RolloutCommand
) -> rollout_messages.RolloutAnswer | None:
    """The answer to a command among what was written since the last time."""
    found = None
    for message in view.read():
        match message:
            case rollout_messages.RolloutAnswer(command_id=name) if name == command.command_id:
                found = message
    return found


@dataclass(frozen=True)
class RolloutHistory:
    """What the topic says of a model.

    Attributes:
        current: what workers follow; None where no version was announced.
        steps: of all rollouts, oldest first.
        rejected: answers to commands that were rejected, oldest first.
        breaks: where steps were changed, removed or added by others, a line each.
        refusal: why the newest routing message does not count; "" where it does.
    """

    current: rollout_messages.Rollout | None
    steps: list[rollout_messages.RolloutStep]
    rejected: list[rollout_messages.RolloutAnswer]
    breaks: list[str]
    refusal: str = ""


def read_history(kafka: BrokerSettings, model: str) -> RolloutHistory:
    """All that the topic says of a model, also steps that do not count.

    Raises:
        ServerError: it cannot be read.
    """
    current: rollout_messages.Rollout | None = None
    steps, records, rejected = [], [], []
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.messages():
            if (record := view.reader.record(message)) is None:
                continue
            if isinstance(record.message, rollout_messages.RolloutStep):
                steps.append(record.message)
                records.append(record)
            match view.reader.accept(record, message):
                case rollout_messages.Rollout() as current:
                    pass
                case rollout_messages.RolloutAnswer(accepted=False) as answer:
                    rejected.append(answer)
        breaks = list(find_breaks(records))
        return RolloutHistory(current, steps, rejected, breaks, view.reader.refusal)


def read_trials(kafka: BrokerSettings, model: str) -> dict[str, rollout_messages.Rollout]:
    """The placements of which other rules are tried out now, by name.

    Raises:
        ServerError: the topic cannot be read.
    """
    readers = rollouts.SubjectReaders(kafka, model)
    current: dict[str, rollout_messages.Rollout] = {}
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.messages():
            said = reader.read(message) if (reader := readers.find(message)) else None
            if isinstance(said, rollout_messages.Rollout):
                current[said.model] = said
    names = {rollout_messages.placement_of(subject): each for subject, each in current.items()}
    return {name: each for name, each in names.items() if name and each.phase.is_active}


def sign_current(kafka: BrokerSettings, model: str) -> rollout_messages.Rollout:
    """Write the newest rollout again, signed; for once, after a key was set.

    Whoever does this says that it is right: it may be anybody's.

    Raises:
        SettingsError: no key is set.
        DataError: no version was announced.
        CommandRejectedError: a version is being tried out.
        ServerError: Kafka does not answer.
    """
    if kafka.signing_key is None:
        raise SettingsError("kafka.signing_key: is not set: set it to what workers are to have")
    newest, revision = None, 0
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.messages():
            record = view.reader.record(message)
            if record and isinstance(record.message, rollout_messages.Rollout):
                newest = record.message
                revision = max(revision, newest.revision)
    if newest is None:
        raise DataError("no version is live: train a first one: headwater train")
    if newest.needs_lease:
        raise CommandRejectedError(
            f"sign: rollout {newest.rollout_id} is {newest.phase}: unset kafka.signing_key, "
            "promote it or roll it back, and sign then"
        )
    signed = replace(newest, revision=revision + 1)
    rollouts.write_rollout_message(kafka, model, signed, "the signed rollout")
    return signed
