"""Quality of data: dead letters, and events whose ids, clocks or number look wrong.

Figures are of a sample, the newest messages of each partition; `EventSample` says how many they are
and from when.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headwater_client.admin.audit import ActionQuery
from headwater_client.contract import Offsets, Problem, Scope
from headwater_client.operations import Operation

MAX_LETTERS = 1000
MAX_EDITED_CHARS = 1024 * 1024

LetterName = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}-[0-9]{1,18}$",
        description="PARTITION-OFFSET of the topic dead-letters, such as 0-17",
    ),
]
FaultName = Annotated[
    str, Meta(pattern="^[0-9a-f]{16}$", description="of letters that have the same fault")
]
FieldPath = Annotated[
    str,
    Meta(
        pattern=r"^[^.\[\]\s][^.\[\]]{0,255}(\.[^.\[\]]{1,256}){0,7}$",
        description="a field of the message, such as userId or context.device",
    ),
]


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Something is lost, or counts as what it is not."""
    WARNING = "warning"
    """It may be so."""
    INFO = "info"
    """It is said, and harmless."""


class QualityAlert(Struct, frozen=True, kw_only=True):
    """One finding: what it is, how often, and what to do. `link` leads to its place on the page."""

    check: str
    severity: Severity
    title: str
    detail: str
    events: int
    link: str
    remedy: str


class SentAgain(Struct, frozen=True, kw_only=True):
    """A letter was sent again: by whom, when, and where it stands now."""

    who: str
    time: int
    place: str
    event_id: str = ""


class DeadLettersQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which letters are wanted: of a topic, of a fault; `limit` newest of them are told."""

    topic: Annotated[str, Meta(min_length=1, max_length=249)] | None = None
    fault: FaultName | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LETTERS)] = 50


class LetterFault(Struct, frozen=True, kw_only=True):
    """Letters that were refused for the same reason; numbers and values are left out of it."""

    fault: str
    topic: str
    field: str
    expected: str
    letters: int
    sent_again: int
    oldest_time: int
    newest_time: int
    example: LetterName
    remedy: str


class LetterLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A letter in short; `text` is the beginning of its message, what cannot be shown escaped.

    What people are called may stand in a message: where they are masked, so is what it holds, and
    `withheld` says so.
    """

    letter: LetterName
    topic: str
    partition: int
    offset: int
    fault: str
    reason: str
    refused_time: int
    size_bytes: int
    text: str
    sent_again: SentAgain | None = None
    withheld: str = ""


class DeadLettersAnswer(Struct, frozen=True, kw_only=True):
    """The newest dead letters by fault, and some of them; each fault that is left is an alert.

    `looked_at` of the `in_topic` letters were read, the newest ones; figures are of these.
    `unreadable` of them are no dead letters.
    """

    looked_at: int
    in_topic: int
    unreadable: int
    oldest_time: int | None
    faults: list[LetterFault]
    letters: list[LetterLine]
    alerts: list[QualityAlert]


class RenameField(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="rename"):
    """`field` gets the name `to`, unless there is such a field."""

    field: FieldPath
    to: FieldPath


class SetField(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="set"):
    """`field` gets a value; `if_missing`: only where there is none."""

    field: FieldPath
    value: msgspec.Raw
    if_missing: bool = False


class RemoveField(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="remove"):
    """`field` is left out."""

    field: FieldPath


class ScaleField(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="scale"):
    """The number in `field` is multiplied: by 1000 where seconds should be milliseconds."""

    field: FieldPath
    factor: Annotated[float, Meta(gt=0, le=1e12)]


class RetypeField(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="retype"):
    """What `field` holds becomes a text (12 and 12.0 are "12"), or a number ("12" is 12)."""

    field: FieldPath
    to: Annotated[str, Meta(pattern="^(text|number)$")]


class ReadTimeField(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="time"):
    """A time that is written out (ISO 8601) becomes milliseconds UTC.

    `zone`, such as Europe/Berlin, is that of times that name none; without it these are refused.
    """

    field: FieldPath
    zone: Annotated[str, Meta(max_length=64)] = ""


class ArrivalTimeField(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="arrival"
):
    """`field`, if it is missing, gets the time at which the message was refused."""

    field: FieldPath


CorrectionRule = (
    RenameField
    | SetField
    | RemoveField
    | ScaleField
    | RetypeField
    | ReadTimeField
    | ArrivalTimeField
)
Rules = Annotated[list[CorrectionRule], Meta(min_length=1, max_length=20)]
LetterNames = Annotated[
    list[LetterName],
    Meta(max_length=MAX_LETTERS, description="those that are meant; none: all of the fault"),
]


class LetterAnswer(LetterLine, frozen=True, kw_only=True, omit_defaults=True):
    """A letter whole: `hex` is a dump of the first bytes, `editable` the message as it can be sent.

    `not_editable` says why it cannot be corrected here. `would_be_taken`: sent again as it is, the
    contract takes it now; `problem` says why not. `suggested` rules mend what the message itself
    tells how to mend; `suggestion_taken`: the contract takes it then. `message_key` is the key that
    it came with.
    """

    held_bytes: int
    sha256: str = ""
    hex: str
    hex_left_out: int = 0
    editable: str = ""
    not_editable: str = ""
    would_be_taken: bool = False
    problem: Problem | None = None
    suggested: list[CorrectionRule] = []
    suggestion_taken: bool = False
    remedy: str
    message_key: str = ""
    all_sent_again: list[SentAgain] = []


class SendLetterQuery(ActionQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A letter's message as it is to be sent, to the topic that it came by.

    `again`: although it was sent again already; it counts once, by its event_id. `over_newer`:
    although the same item, or what is known of the same person, was sent anew since.
    """

    text: Annotated[str, Meta(min_length=1, max_length=MAX_EDITED_CHARS)]
    again: bool = False
    over_newer: bool = False


class SentLetterAnswer(Struct, frozen=True, kw_only=True):
    """Kafka has the message on all in-sync replicas; `place` is where it stands.

    `event_id` is the one that it had, or that it was given: the same each time it is sent.
    """

    letter: LetterName
    topic: str
    place: Offsets
    event_id: str


class CorrectionPreview(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Letters of a fault, or one letter, and the rules that are tried on them.

    `rules` as of `CorrectLettersQuery`, as JSON; where there are none, those that are suggested for
    the newest of the letters.
    """

    fault: FaultName | None = None
    letter: LetterName | None = None
    rules: Annotated[str, Meta(max_length=16_384)] = ""


class CorrectLettersQuery(ActionQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Letters by name, or all of a fault, that are corrected by the same rules and sent again.

    The rules are applied one after another. Letters that were sent again already are passed over.
    `over_newer` as of `SendLetterQuery`.
    """

    rules: Rules
    letters: LetterNames = msgspec.field(default_factory=list)
    fault: FaultName | None = None
    over_newer: bool = False


class CorrectedLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A letter after the rules: its message, cut, and what would be, or was, made of it."""

    letter: LetterName
    text: str = ""
    problem: Problem | None = None
    passed_over: str = ""
    place: Offsets = {}
    event_id: str = ""


class CorrectLettersAnswer(Struct, frozen=True, kw_only=True):
    """How many letters the contract takes once they are corrected: these were, or would be, sent.

    `left`: of the same fault, beyond those of one request.
    """

    rules: list[CorrectionRule]
    taken: int
    refused: int
    passed_over: int
    left: int
    letters: list[CorrectedLetter]


class QualityQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many events are looked at: at most `console.sample_events`, which is the default."""

    sample: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class EventSample(Struct, frozen=True, kw_only=True):
    """What was looked at: the newest events of each partition, of `in_log` that Kafka has.

    Times are of their arrival. `undecodable` of them break the contract: see the dead letters.
    """

    events: int
    in_log: int
    undecodable: int
    partitions: int
    oldest_time: int | None
    newest_time: int | None


class IdExample(Struct, frozen=True, kw_only=True):
    """An id, and its shape: a for a letter, 9 for a digit. People may be masked, shapes are not."""

    value: str
    shape: str
    events: int


class IdFinding(Struct, frozen=True, kw_only=True):
    """Ids of `field` with a fault: how many, in how many events, and some of them."""

    fault: str
    field: str
    ids: int
    events: int
    examples: list[IdExample]
    title: str
    remedy: str


class Spelling(Struct, frozen=True, kw_only=True):
    """Ids that differ in nothing but how they are written, so that one counts as several."""

    field: str
    ids: list[IdExample]
    events: int


class ClockGroup(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times of the events of a type, and of a sender where `console.sender` names one.

    Delays are arrival less timestamp, in milliseconds. `ahead`: more than a minute in the future;
    `late`: by more than a day. `shift_minutes`: so much most of its times are off, as local times
    are that are sent for UTC; positive where they are behind. `dates_only`: at midnight exactly.
    """

    type: str
    sender: str
    events: int
    median_delay_ms: int
    p95_delay_ms: int
    ahead: int
    late: int
    shift_minutes: int | None = None
    shifted: int = 0
    dates_only: int = 0


class DuplicateExample(Struct, frozen=True, kw_only=True):
    """Two events that may be one: where they stand, and how far they are apart."""

    event_ids: list[str]
    person: str
    item_id: str
    type: str
    apart_ms: int
    places: list[str]


class DuplicateFinding(Struct, frozen=True, kw_only=True):
    """Events of the sample that stand there more than once, of one kind.

    `sent_again`: the same event_id, the same event; it counts once. `id_reused`: the same event_id,
    another event, which is lost. `at_once`: other event_ids, the same person, item and type within
    a second; each counts.
    """

    kind: str
    events: int
    examples: list[DuplicateExample]
    title: str
    remedy: str


class QualityAnswer(Struct, frozen=True, kw_only=True):
    """What looks wrong with the newest events."""

    sample: EventSample
    alerts: list[QualityAlert]
    ids: list[IdFinding]
    spellings: list[Spelling]
    clocks: list[ClockGroup]
    duplicates: list[DuplicateFinding]
    computed_time: int


OPERATIONS = (
    Operation(
        "list_dead_letters",
        "GET",
        "/v1/admin/dead-letters",
        "The newest dead letters, by fault",
        DeadLettersAnswer,
        Scope.VIEW,
        query=DeadLettersQuery,
    ),
    Operation(
        "show_dead_letter",
        "GET",
        "/v1/admin/dead-letters/{letter}",
        "A dead letter: its bytes, why it was refused, whether it was sent again",
        LetterAnswer,
        Scope.VIEW,
    ),
    Operation(
        "send_dead_letter",
        "POST",
        "/v1/admin/dead-letters/{letter}/send",
        "Send a letter's message again, corrected; it is checked first, and counts once",
        SentLetterAnswer,
        Scope.OPERATE,
        SendLetterQuery,
    ),
    Operation(
        "preview_corrections",
        "GET",
        "/v1/admin/dead-letter-corrections",
        "What rules would make of letters; nothing is sent",
        CorrectLettersAnswer,
        Scope.VIEW,
        query=CorrectionPreview,
    ),
    Operation(
        "correct_dead_letters",
        "POST",
        "/v1/admin/dead-letter-corrections",
        "Correct letters by the same rules, and send them again",
        CorrectLettersAnswer,
        Scope.OPERATE,
        CorrectLettersQuery,
    ),
    Operation(
        "check_events",
        "GET",
        "/v1/admin/quality",
        "What looks wrong with the newest events: ids, clocks, duplicates",
        QualityAnswer,
        Scope.VIEW,
        query=QualityQuery,
    ),
)
