"""The errors that a user of Headwater can meet, and the exit code of each on the command line.

HeadwaterError (1)
├── SettingsError (2)              a setting is wrong, or one is missing
│   └── StoreRefusalError          features/store/__init__.py
├── ServerError (3)                Kafka, the store or Triton cannot be had or does not answer
│   ├── DeliveryError              Kafka did not take some messages; `undelivered` has them
│   │   └── QueueFullError         the producer's local queue had no room for one
│   ├── OverloadedError            stream/api/answers.py
│   ├── PositionError              features/positions.py
│   ├── StoreRestartedError        features/store/__init__.py
│   ├── StoreUnavailableError      features/store/__init__.py
│   └── ServerUnavailableError     features/model_server.py
├── DataError (4)                  a file of events or items is missing or cannot be read
│   └── CorruptWindowError         trainer/windows/store.py
├── EventError (5)                 one message breaks the event contract
├── ForkedError                    a consumer was made in another process
├── ProblemError                   the HTTP API refuses a request; `problem` says why
├── RequestError                   stream/api/problems.py
├── RuleError                      features/rules/errors.py
├── OvertakenError                 features/placement_topic.py
├── InferenceError                 stream/inference.py
│   └── CircuitOpenError           stream/inference.py
├── VersionPendingError            stream/routing.py
├── ConcurrentWriterError          trainer/windows/store.py
├── ExportError                    trainer/export/onnx.py
├── RepositoryLockedError          trainer/registry/repository.py
├── RolloutRejectedError           trainer/registry/registry.py
├── OptimizeError                  deploy/optimize/__init__.py
│   ├── BuildError                 deploy/optimize/__init__.py
│   └── EngineUnavailableError     deploy/optimize/__init__.py
├── CommandRejectedError           deploy/rollout/commands.py
├── FencedError                    deploy/rollout/commands.py
├── VersionProblemError            deploy/jobs/past_versions.py
└── WorkersRunningError            deploy/jobs/backfill.py

Those with a file are the server side's, and stand beside what raises them; apps meet the others.
A message names the field, the value and the remedy, on one line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater_client.contract import Problem

MAX_VALUE_CHARS = 80
MAX_EXPECTED_CHARS = 300
STAND_INS = frozenset({"<empty>", "<missing>", "<JSON>"})
"""What stands where a value would, where there is none to show."""
_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^@\s]*(?=@)")


def mask_logins(text: str) -> str:
    """The text without the logins of addresses in it.

    >>> mask_logins("cannot read s3://KEY:SECRET@bucket/windows")
    'cannot read s3://**********@bucket/windows'
    """
    return _LOGIN.sub("**********", text)


def escape_controls(text: str) -> str:
    r"""The text with what a terminal would obey, or not show, escaped; line breaks stay.

    >>> print(escape_controls("no column 'a\x1b[2Jb'"))
    no column 'a\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class HeadwaterError(Exception):
    """The root of the family: the command line prints it as one line, without a stack trace."""

    exit_code = 1

    def __str__(self) -> str:
        return escape_controls(mask_logins(super().__str__()))


class SettingsError(HeadwaterError):
    """A setting is wrong, or one is missing."""

    exit_code = 2


class ServerError(HeadwaterError):
    """A server cannot be had, died, or does not answer."""

    exit_code = 3


@dataclass(frozen=True)
class Undelivered:
    """One message that Kafka did not take, whole, so that it can be sent again."""

    topic: str
    key: str
    value: bytes | None
    reason: str
    headers: Sequence[tuple[str, str | bytes | None]] = ()


class DeliveryError(ServerError):
    """Kafka did not take some messages; `undelivered` has those that were given up."""

    def __init__(self, what: str, undelivered: Sequence[Undelivered] = ()) -> None:
        super().__init__(what)
        self.undelivered = list(undelivered)

    @classmethod
    def from_messages(cls, undelivered: Sequence[Undelivered]) -> "DeliveryError":
        """The error of at least one message.

        >>> print(DeliveryError.from_messages([Undelivered("clicks", "ann", b"{}", "timed out")]))
        Kafka did not take a message for clicks: timed out
        """
        first = undelivered[0]
        if len(undelivered) == 1:
            what = f"Kafka did not take a message for {first.topic}: {first.reason}"
        else:
            what = (
                f"Kafka did not take {len(undelivered)} messages: the first, for {first.topic}: "
                f"{first.reason}"
            )
        return cls(what, undelivered)


class QueueFullError(DeliveryError):
    """The local queue had no room for a message, which was not sent: it is in `undelivered`."""


class DataError(HeadwaterError):
    """A file of events or items is missing or cannot be read."""

    exit_code = 4


class EventError(HeadwaterError):
    """One message breaks the event contract: names the field, the value and what was expected.

    Whatever the message held, the text is short, of one line, and can be written as UTF-8. Logs
    have `field` and `expected` only: `value` may name a person.
    """

    exit_code = 5

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = _printable(field, MAX_VALUE_CHARS)
        self.value = _shorten(value)
        self.expected = _printable(expected, MAX_EXPECTED_CHARS)
        super().__init__(f"{self.field}: {self.value}: {self.expected}")

    def rename(self, field: str) -> "EventError":
        """The same refusal, of a field that goes by another name in what was sent.

        >>> print(EventError("timestamp", 7, "expected more").rename("time"))
        time: 7: expected more
        """
        other = EventError(field, "<missing>", self.expected)
        other.value = self.value
        other.args = (f"{other.field}: {other.value}: {other.expected}",)
        return other


def _shorten(value: object) -> str:
    """A value as Python writes it, cut; one of `STAND_INS` as it is."""
    if isinstance(value, str) and value in STAND_INS:
        return value
    try:
        shown = repr(value[:MAX_VALUE_CHARS] if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001  (an int of 5,000 digits: what counts is the refusal)
        shown = f"<{type(value).__name__}>"
    return _printable(shown, MAX_VALUE_CHARS)


def _printable(text: str, limit: int) -> str:
    """A text of one line, cut; what cannot be printed (a lone surrogate) is escaped."""
    text = text[:limit]
    return text if text.isprintable() else repr(text)[1:-1][:limit]


class ForkedError(HeadwaterError):
    """A consumer that was made before a fork was asked in the child."""


class ProblemError(HeadwaterError):
    """The HTTP API refuses a request: `problem` has status, field, value and remedy."""

    def __init__(self, problem: "Problem") -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}".removesuffix(": "))
        self.problem = problem
