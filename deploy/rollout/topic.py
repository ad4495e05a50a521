"""The topics `rollouts` and `rollout-commands` as operators and trainers use them."""

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from confluent_kafka import Message
from headwater_client.errors import DataError, ServerError, SettingsError
from headwater_client.topics import ROLLOUT_COMMANDS
from msgspec.structs import replace

from deploy.rollout.commands import MAX_AGE_S, CommandRejectedError
from deploy.rollout.history import find_breaks
from features import rollout_messages, rollouts
from features.settings import BrokerSettings

POLL_S = 0.2


def send_command(
    kafka: BrokerSettings, command: rollout_messages.RolloutCommand, answer_s: float = MAX_AGE_S
) -> rollout_messages.RolloutAnswer:
    """Send a signed command (`deploy.rollout.commands`), and wait for its answer.

    One that was answered before, under the same id, is not sent again: it has that answer.

    Args:
        answer_s: how long; a controller takes commands of the last `MAX_AGE_S` seconds.

    Raises:
        CommandRejectedError: the controller rejects it.
        ServerError: Kafka does not answer, or no controller does.
    """
    with closing(rollouts.RolloutView(kafka, command.model)) as view:
        answer = _find_answer(view, command)
        if answer is None:
            key = rollout_messages.command_key(command.model, command.command_id)
            rollouts.write_rollout_message(kafka, key, command, command.action, ROLLOUT_COMMANDS)
        deadline = time.monotonic() + answer_s
        while answer is None:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{command.action}: no controller has answered in {answer_s:.0f} s: run one: "
                    f"headwater controller; sent again as command_id {command.command_id} it is "
                    "done once"
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
    """What the topic says of a subject.

    Attributes:
        current: what workers follow; None where no version was announced.
        steps: of all rollouts, oldest first.
        rejected: answers to commands that were rejected, oldest first.
        breaks: where steps were changed, removed or added by others, a line each.
        refusal: why the newest routing message does not count; "" where it does.
        courses: by rollout, how its evidence went; rollouts of older releases have none.
        lease_ms: when a controller said last that it watches the rollout; 0: never.
    """

    current: rollout_messages.Rollout | None
    steps: list[rollout_messages.RolloutStep]
    rejected: list[rollout_messages.RolloutAnswer]
    breaks: list[str]
    refusal: str = ""
    courses: Mapping[str, rollout_messages.RolloutCourse] = field(default_factory=dict)
    lease_ms: int = 0


class _Collected:
    """What was read of one subject so far, also steps that do not count."""

    def __init__(self) -> None:
        self._current: rollout_messages.Rollout | None = None
        self._records: list[rollout_messages.RolloutRecord] = []
        self._steps: list[rollout_messages.RolloutStep] = []
        self._rejected: list[rollout_messages.RolloutAnswer] = []
        self._courses: dict[str, rollout_messages.RolloutCourse] = {}
        self._lease_ms = 0
        self._refusal = ""

    def take(self, reader: rollouts.RolloutReader, message: Message) -> None:
        """Take a message in, in the topic's order."""
        if (record := reader.record(message)) is None:
            return
        if isinstance(record.message, rollout_messages.RolloutStep):
            self._steps.append(record.message)
            self._records.append(record)
        match reader.accept(record, message):
            case rollout_messages.Rollout() as current:
                self._current = current
            case rollout_messages.RolloutAnswer(accepted=False) as answer:
                self._rejected.append(answer)
            case rollout_messages.RolloutCourse() as course:
                self._courses[course.rollout_id] = course
            case rollout_messages.RolloutLease(time=time_ms):
                self._lease_ms = time_ms
        self._refusal = reader.refusal

    def to_history(self) -> RolloutHistory:
        """What it comes to; not changed by what is read later."""
        return RolloutHistory(
            self._current,
            list(self._steps),
            list(self._rejected),
            list(find_breaks(self._records)),
            self._refusal,
            dict(self._courses),
            self._lease_ms,
        )


def read_history(kafka: BrokerSettings, model: str) -> RolloutHistory:
    """All that the topic says of a subject, also steps that do not count.

    Raises:
        ServerError: it cannot be read.
    """
    found = _Collected()
    with closing(rollouts.RolloutView(kafka, model)) as view:
        for message in view.messages():
            found.take(view.reader, message)
        return found.to_history()


class RolloutArchive:
    """All that the topic says of every subject: read once, and on from there each time it is asked.

    For any thread; one reads at a time.

    Args:
        model: whose versions take traffic; placements that are tried out are subjects besides it.
    """

    def __init__(self, kafka: BrokerSettings, model: str) -> None:
        self._kafka = kafka
        self._model = model
        self._lock = threading.Lock()
        self._view = rollouts.RolloutView(kafka, model)
        self._begin()

    def _begin(self) -> None:
        self._reader = self._view.reader
        self._readers = rollouts.SubjectReaders(self._kafka, self._model)
        self._subjects: dict[str, _Collected] = {}
        self._known: dict[str, RolloutHistory] = {}

    def read(self) -> Mapping[str, RolloutHistory]:
        """The history of each subject of which something stands there, as of now.

        Raises:
            ServerError: the topic cannot be read.
        """
        with self._lock:
            changed: set[str] = set()
            for message in self._view.messages():
                if self._view.reader is not self._reader:
                    # The view begins anew with a topic that was made anew.
                    self._begin()
                    changed.clear()
                if (reader := self._readers.find(message)) is not None:
                    collected = self._subjects.setdefault(reader.model, _Collected())
                    collected.take(reader, message)
                    changed.add(reader.model)
            fresh = {name: self._subjects[name].to_history() for name in changed}
            self._known = {**self._known, **fresh}
            return self._known

    def close(self) -> None:
        """Disconnect; a later read connects anew."""
        with self._lock:
            self._view.close()


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
