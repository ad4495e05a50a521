"""Dead letters: how they are shown, corrected and checked again.

A corrected message is read by the code that reads it from Kafka, so that what is sent again is
taken. It keeps its event_id, or gets one that is made of the letter: sent twice it counts once.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from headwater_client import EVENT_TYPES, EventError, decode, encode
from headwater_client.admin import quality
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import escape_controls
from headwater_client.events import EARLIEST_TIMESTAMP_MS, DeadLetter, Item, PersonAttributes
from headwater_client.topics import IDENTITIES, ITEMS, PEOPLE

from features.events import EventReader
from stream.api import intake

HEX_BYTES = 2048
_LINE_BYTES = 16
_SHOWN_CHARS = 300
Document = dict[str, Any]


def dump_hex(raw: bytes) -> str:
    r"""The first bytes as a hex dump: offset, bytes, and what of them is printable ASCII.

    >>> print(dump_hex(b'{"a": 1}\n'))
    00000000  7b 22 61 22 3a 20 31 7d  0a                       |{"a": 1}.|
    """
    return "\n".join(
        _dump_line(start, raw[start : start + _LINE_BYTES])
        for start in range(0, min(len(raw), HEX_BYTES), _LINE_BYTES)
    )


def _dump_line(start: int, part: bytes) -> str:
    half = _LINE_BYTES // 2
    sides = f"{part[:half].hex(' '):<{3 * half - 1}}  {part[half:].hex(' '):<{3 * half - 1}}"
    text = "".join(chr(each) if 32 <= each < 127 else "." for each in part)
    return f"{start:08x}  {sides}  |{text}|"


def show_text(raw: bytes, chars: int = _SHOWN_CHARS) -> str:
    """The beginning of a message as one may look at it, cut at a character and never within one."""
    text = raw[: 4 * chars].decode(errors="replace")
    if len(raw) > 4 * chars and text.endswith("\ufffd"):
        # A character that the cut went through.
        text = text.rstrip("\ufffd")
    shown = escape_controls(text)[:chars]
    return f"{shown}…" if len(text) > chars or len(raw) > 4 * chars else shown


def find_editable(letter: DeadLetter) -> tuple[str, str]:
    """The message as it can be edited, and why it cannot: one of both is empty."""
    if letter.size_bytes is not None and letter.size_bytes > len(letter.raw):
        held = f"{len(letter.raw)} of {letter.size_bytes} bytes"
        return "", f"the letter has {held} of it, as it was too large: send it anew from the app"
    if not letter.raw:
        return "", "the message had no value: a tombstone is sent anew by who owns the item"
    if len(letter.raw) > quality.MAX_EDITED_CHARS:
        return "", f"it has {len(letter.raw)} bytes: at most {quality.MAX_EDITED_CHARS} are edited"
    try:
        return letter.raw.decode(), ""
    except UnicodeDecodeError as error:
        return "", f"it is no UTF-8 from byte {error.start} on: correct how the app writes it"


class CheckedMessage(NamedTuple):
    """A message that its topic's readers take, and its event's id, where it is an event."""

    message: intake.TopicMessage
    event_id: str = ""


class MessageChecker:
    """Reads corrected messages as whoever reads their topic does.

    Args:
        reader: of events.
        clock: milliseconds UTC.
    """

    def __init__(self, reader: EventReader, clock: Callable[[], int]) -> None:
        self._reader = reader
        self._clock = clock

    def check(self, letter: DeadLetter, text: str) -> CheckedMessage:
        """A letter's message, corrected, as it is to be sent.

        Raises:
            EventError: it breaks the contract, or its topic is none that is sent to from here.
        """
        raw = text.encode(errors="surrogatepass")
        if letter.topic == ITEMS:
            return CheckedMessage(intake.item_message(decode(Item, raw)))
        if letter.topic == PEOPLE:
            return CheckedMessage(intake.attributes_message(decode(PersonAttributes, raw)))
        if letter.topic not in EVENT_TYPES.all_topics:
            raise EventError("topic", letter.topic, _remedy_of_topic(letter.topic))
        event = self._reader.read(letter.topic, fill_in_id(letter, raw), self._clock())
        return CheckedMessage(intake.event_message(event), event.event_id)


def _remedy_of_topic(topic: str) -> str:
    if topic == IDENTITIES:
        return "is not sent to from here: send the merge or erasure again by the API"
    return f"is no topic of events that this process knows: {', '.join(EVENT_TYPES.all_topics)}"


def fill_in_id(letter: DeadLetter, raw: bytes) -> bytes:
    """The message with an event_id where it has none: made of the letter, so the same each time."""
    try:
        fields = intake.read_fields(raw)
    except EventError:
        return raw
    if "event_id" in fields and bytes(fields["event_id"]) != b"null":
        return raw
    return encode({**fields, "event_id": id_of(letter)})


def id_of(letter: DeadLetter) -> str:
    """An event_id for the event that a letter holds, which nothing else has."""
    place = f"{letter.topic}/{letter.partition}/{letter.offset}/{letter.refused_time}/"
    return f"letter-{sha256(place.encode() + letter.raw).hexdigest()[:32]}"


def apply_rules(letter: DeadLetter, text: str, rules: Sequence[quality.CorrectionRule]) -> str:
    """A message after rules, one after another.

    Raises:
        EventError: it is no JSON object, or a rule cannot be applied to what the field holds.
    """
    try:
        document = read_json(text, Document)
    except DocumentError as error:
        raise EventError("<message>", text, f"not a JSON object: {error}") from error
    for rule in rules:
        try:
            _APPLY[type(rule)](document, rule, letter)
        except (ArithmeticError, ValueError) as error:
            raise EventError(
                rule.field, "<JSON>", f"the rule cannot be applied: {error}"
            ) from error
    try:
        return encode(document).decode()
    except (OverflowError, ValueError) as error:
        raise EventError("<message>", text, f"cannot be written anew: {error}") from error


def _holder_of(document: Document, path: str, *, make: bool = False) -> tuple[Document, str]:
    """The object that has a field, and the field's name in it; an empty one where there is none."""
    *parents, name = path.split(".")
    held: Any = document
    for parent in parents:
        inner = held.get(parent)
        if not isinstance(inner, dict):
            inner = {}
            if make:
                held[parent] = inner
        held = inner
    return held, name


def _rename(document: Document, rule: quality.RenameField, _: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field)
    target, new = _holder_of(document, rule.to, make=name in holder)
    if name in holder and target.get(new) is None:
        target[new] = holder.pop(name)


def _set(document: Document, rule: quality.SetField, _: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field, make=True)
    if not rule.if_missing or holder.get(name) is None:
        holder[name] = read_json(bytes(rule.value), object)


def _remove(document: Document, rule: quality.RemoveField, _: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field)
    holder.pop(name, None)


def _scale(document: Document, rule: quality.ScaleField, _: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field)
    value = holder.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EventError(rule.field, value, "expected a number to scale: rule retype first")
    # By decimals: a hundredth of 1999 is 19.99.
    scaled = float(Decimal(str(value)) * Decimal(str(rule.factor)))
    if not math.isfinite(scaled):
        raise EventError(rule.field, value, "is too large to scale")
    # A time has no fractions of a millisecond; a price has cents.
    is_whole = scaled.is_integer() or abs(scaled) >= EARLIEST_TIMESTAMP_MS
    holder[name] = round(scaled) if is_whole else scaled


def _retype(document: Document, rule: quality.RetypeField, _: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field)
    value = holder.get(name)
    if rule.to == "number" and isinstance(value, str):
        try:
            number = read_json(value.strip(), float)
        except DocumentError as error:
            raise EventError(rule.field, value, "expected a text that is a number") from error
        if not math.isfinite(number):
            raise EventError(rule.field, value, "expected a finite number")
        holder[name] = int(number) if number.is_integer() and abs(number) < 2**53 else number
    elif rule.to == "text" and isinstance(value, int | float) and not isinstance(value, bool):
        is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
        holder[name] = str(int(value) if is_whole else value)


def _read_time(document: Document, rule: quality.ReadTimeField, _: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field)
    value = holder.get(name)
    if not isinstance(value, str):
        raise EventError(rule.field, value, "expected a time that is written out")
    try:
        time = datetime.fromisoformat(value.strip())
        if time.tzinfo is None:
            if not rule.zone:
                raise EventError(rule.field, value, "names no zone: give the rule one: UTC")
            time = time.replace(tzinfo=ZoneInfo(rule.zone))
        holder[name] = round(time.timestamp() * 1000)
    except (ValueError, OSError, OverflowError, LookupError) as error:
        raise EventError(rule.field, value, f"cannot be read as a time: {error}") from error


def _take_arrival(document: Document, rule: quality.ArrivalTimeField, letter: DeadLetter) -> None:
    holder, name = _holder_of(document, rule.field, make=True)
    if holder.get(name) is None:
        holder[name] = letter.refused_time


_APPLY: Mapping[type, Callable[[Document, Any, DeadLetter], None]] = {
    quality.RenameField: _rename,
    quality.SetField: _set,
    quality.RemoveField: _remove,
    quality.ScaleField: _scale,
    quality.RetypeField: _retype,
    quality.ReadTimeField: _read_time,
    quality.ArrivalTimeField: _take_arrival,
}
_MOST_SUGGESTED = 6


def suggest_rules(
    letter: DeadLetter, text: str, checker: MessageChecker
) -> tuple[list[quality.CorrectionRule], bool]:
    """Rules for what of a letter's faults can be told from it; whether the contract takes it then.

    A field that goes by another name, ids that are numbers, times in seconds or written out. What
    only its sender knows is not made up.
    """
    rules = list(_suggest_id(text))
    for _ in range(_MOST_SUGGESTED):
        try:
            corrected = apply_rules(letter, text, rules)
        except EventError:
            # The last one does not fit what the field holds.
            return rules[:-1], False
        try:
            checker.check(letter, corrected)
        except EventError as error:
            rule = _suggest_rule(error, corrected)
            if rule is None or rule in rules:
                return rules, False
            rules.append(rule)
        else:
            return rules, True
    return rules, False


def _suggest_id(text: str) -> Iterator[quality.CorrectionRule]:
    """An event's own id by another name is its id: the same event may have come by another way."""
    try:
        document = read_json(text, Document)
    except DocumentError:
        return
    if document.get("event_id") is None:
        plain = {_squash(name): name for name in document}
        names = (plain[name] for name in ("eventid", "messageid", "eventuuid") if name in plain)
        if (other := next(names, None)) is not None:
            yield quality.RenameField(field=other, to="event_id")


def _suggest_rule(error: EventError, text: str) -> quality.CorrectionRule | None:
    try:
        document = read_json(text, Document)
    except DocumentError:
        return None
    field, value = error.field, document.get(error.field)
    if value is None:
        return _suggest_name(field, document)
    if field == "timestamp":
        return _suggest_time(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and "Expected `str" in error.expected:
        return quality.RetypeField(field=field, to="text")
    is_wanted = re.search("Expected `(int|float)", error.expected) is not None
    if isinstance(value, str) and is_wanted:
        return quality.RetypeField(field=field, to="number")
    return None


def _suggest_name(field: str, document: Document) -> quality.CorrectionRule | None:
    other = _find_alias(field, document)
    if other is not None:
        return quality.RenameField(field=other, to=field)
    return quality.ArrivalTimeField(field=field) if field == "timestamp" else None


def _suggest_time(value: object) -> quality.CorrectionRule | None:
    if isinstance(value, str):
        is_number = re.fullmatch(r"\s*\d+(\.\d+)?\s*", value) is not None
        if is_number:
            return quality.RetypeField(field="timestamp", to="number")
        return quality.ReadTimeField(field="timestamp")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    for factor in (1000, 1e-3, 1e-6):
        # Seconds, microseconds, nanoseconds.
        if EARLIEST_TIMESTAMP_MS <= value * factor < 100 * EARLIEST_TIMESTAMP_MS:
            return quality.ScaleField(field="timestamp", factor=factor)
    return None


# What other systems call the fields.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "user_id": (
        "user",
        "userid",
        "uid",
        "visitorid",
        "customerid",
        "personid",
        "person",
        "subject",
    ),
    "item_id": ("item", "itemid", "productid", "product", "sku", "contentid", "movieid"),
    "timestamp": ("time", "ts", "eventtime", "createdat", "date", "datetime", "occurredat"),
}


def _find_alias(field: str, document: Mapping[str, Any]) -> str | None:
    """The field of a message that is probably meant by a missing one."""
    plain = {_squash(name): name for name in document}
    names = (_squash(field), *_ALIASES.get(field, ()))
    exact = next((plain[name] for name in names if name in plain), None)
    if exact is not None:
        return exact
    close = get_close_matches(_squash(field), plain, n=1, cutoff=0.8)
    return plain[close[0]] if close else None


def _squash(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum())
