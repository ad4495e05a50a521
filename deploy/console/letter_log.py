"""The newest dead letters as Kafka has them, and as they are told; which of them were sent again.

That is in the audit: an entry names each letter that was sent, and where it stands now.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Message
from headwater_client import DeadLetter, EventError, decode
from headwater_client.admin import quality
from headwater_client.admin.audit import AuditEntry
from headwater_client.contract import Problem
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import escape_controls
from headwater_client.topics import DEAD_LETTERS
from msgspec import Struct
from msgspec.structs import replace

from deploy.console import dead_letters, log_tails, refusals
from features.settings import BrokerSettings

SENT = "sent"
SENDING, CORRECTING = "send_dead_letter", "correct_dead_letters"
WITHHELD = "people are masked: what a message holds is seen with the scope read-people"
# So many letters are looked at whatever their size; of larger ones fewer, than so many bytes.
_FIRST_LETTERS, _LETTER_BYTES = 200, 64 * 1024 * 1024


class PlacedLetter(NamedTuple):
    """A dead letter, and where it stands."""

    name: str
    letter: DeadLetter
    key: bytes


class LetterLog(NamedTuple):
    """The newest letters.

    Attributes:
        unreadable: messages of the topic that are no letters.
    """

    letters: list[PlacedLetter]
    in_topic: int
    unreadable: int


class SentRecord(Struct, frozen=True):
    """What the audit says of a letter that was sent again."""

    place: str
    event_id: str = ""


def read_letters(kafka: BrokerSettings, most: int) -> LetterLog:
    """The newest letters, in order; of large ones fewer.

    Raises:
        ServerError: Kafka does not answer.
    """
    newest = log_tails.plan_tails(kafka, [DEAD_LETTERS], min(most, _FIRST_LETTERS))
    found, unreadable, size = _take_letters(kafka, newest)
    affordable = _LETTER_BYTES // max(1, size // max(1, newest.messages)) - newest.messages
    more = min(most - newest.messages, affordable)
    if more > 0 and newest.messages < newest.in_log:
        plan = log_tails.plan_tails(kafka, [DEAD_LETTERS], newest.messages + more)
        older = {
            place: (min(start, newest.reaches[place][0]), newest.reaches[place][0])
            for place, (start, _) in plan.reaches.items()
            if place in newest.reaches
        }
        before, also_unreadable, _ = _take_letters(kafka, newest._replace(reaches=older))
        found, unreadable = [*before, *found], unreadable + also_unreadable
    found.sort(key=lambda each: each.letter.refused_time)
    return LetterLog(found, newest.in_log, unreadable)


def _take_letters(
    kafka: BrokerSettings, plan: log_tails.TailPlan
) -> tuple[list[PlacedLetter], int, int]:
    """The letters of a plan, how many messages are none, and the bytes of all."""
    found: list[PlacedLetter] = []
    unreadable = size = 0
    for message in log_tails.read_tails(kafka, plan):
        placed = read_letter(message)
        size += len(message.value() or b"")
        if placed is None:
            unreadable += 1
        else:
            found.append(placed)
    return found, unreadable, size


def read_letter(message: Message) -> PlacedLetter | None:
    """The letter that a message of the topic is; None where it is none."""
    try:
        letter = decode(DeadLetter, as_bytes(message.value()))
    except EventError:
        return None
    name = f"{message.partition() or 0}-{message.offset() or 0}"
    return PlacedLetter(name, letter, as_bytes(message.key()) or b"")


def as_bytes(part: str | bytes | None) -> bytes | None:
    return part.encode() if isinstance(part, str) else part


def describe_faults(
    letters: Sequence[PlacedLetter], sent: Mapping[str, object], sees: bool
) -> list[quality.LetterFault]:
    """Letters by what is wrong with them, the commonest first.

    Args:
        sees: whether what people are called is shown, here and below.
    """
    grouped: dict[refusals.LetterGroup, list[PlacedLetter]] = defaultdict(list)
    for each in letters:
        grouped[refusals.group_of(each.letter)].append(each)
    found = []
    for group, own in grouped.items():
        shown = group if sees else group.hide()
        found.append(
            quality.LetterFault(
                fault=group.name,
                topic=group.topic,
                field=shown.field,
                expected=shown.expected,
                letters=len(own),
                sent_again=sum(each.name in sent for each in own),
                oldest_time=min(each.letter.refused_time for each in own),
                newest_time=max(each.letter.refused_time for each in own),
                example=own[-1].name,
                remedy=refusals.find_remedy(group),
            )
        )
    return sorted(found, key=lambda each: (-each.letters, each.fault))


def make_alert(fault: quality.LetterFault) -> quality.QualityAlert:
    left = fault.letters - fault.sent_again
    return quality.QualityAlert(
        check="dead-letters",
        severity=quality.Severity.ERROR,
        title=f"{fault.topic}: {fault.field}: {fault.expected}",
        detail=f"{left} dead letters that were not sent again",
        events=left,
        link=f"/quality/faults?fault={fault.fault}",
        remedy=fault.remedy,
    )


def describe_line(
    placed: PlacedLetter, sent: Mapping[str, list[quality.SentAgain]], sees: bool
) -> dict[str, Any]:
    """The fields of a letter's line."""
    letter, group = placed.letter, refusals.group_of(placed.letter)
    hidden = group.hide()
    reason = letter.reason if sees else f"{hidden.field}: {hidden.expected}"
    return {
        "letter": placed.name,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "fault": group.name,
        "reason": escape_controls(reason),
        "refused_time": letter.refused_time,
        "size_bytes": len(letter.raw) if letter.size_bytes is None else letter.size_bytes,
        "text": dead_letters.show_text(letter.raw) if sees else "",
        "sent_again": sent[placed.name][-1] if placed.name in sent else None,
        "withheld": "" if sees else WITHHELD,
    }


def withhold(problem: Problem, sees: bool) -> Problem:
    """A problem without the value, which may name a person."""
    if sees:
        return problem
    field, expected = refusals.hide_field(problem.field), refusals.hide_expected(problem.remedy)
    return replace(problem, field=field, value="", detail=f"{field}: {expected}", remedy=expected)


def hide(line: quality.CorrectedLetter, sees: bool) -> quality.CorrectedLetter:
    if sees:
        return line
    problem = line.problem and withhold(line.problem, sees)
    return replace(line, text="", problem=problem, event_id="")


def sum_up(
    rules: Sequence[quality.CorrectionRule],
    lines: Sequence[quality.CorrectedLetter],
    left: int,
) -> quality.CorrectLettersAnswer:
    passed_over = sum(bool(line.passed_over) for line in lines)
    refused = sum(line.problem is not None for line in lines)
    return quality.CorrectLettersAnswer(
        rules=list(rules),
        taken=len(lines) - passed_over - refused,
        refused=refused,
        passed_over=passed_over,
        left=left,
        letters=list(lines),
    )


def make_record(checked: dead_letters.CheckedMessage, place: Mapping[str, int]) -> SentRecord:
    ((partition, offset),) = place.items()
    return SentRecord(f"{partition}@{offset}", checked.event_id)


def collect_sent(
    entries: Sequence[AuditEntry], sees: bool = True
) -> dict[str, list[quality.SentAgain]]:
    """Which letters the entries of the audit say were sent again, by name, in that order.

    Args:
        sees: whether the ids of events are told, which may tell whose they are.
    """
    found: dict[str, list[quality.SentAgain]] = defaultdict(list)
    for entry in entries:
        for name, record in _records_of(entry):
            found[name].append(
                quality.SentAgain(
                    who=entry.who,
                    time=entry.time,
                    place=record.place,
                    event_id=record.event_id if sees else "",
                )
            )
    return dict(found)


def _records_of(entry: AuditEntry) -> Iterator[tuple[str, SentRecord]]:
    if entry.operation not in (SENDING, CORRECTING) or entry.outcome != SENT:
        return
    try:
        yield from read_json(entry.target, dict[str, SentRecord]).items()
    except DocumentError:
        # Not of this release: it tells of an action, and no letter is known by it.
        return
