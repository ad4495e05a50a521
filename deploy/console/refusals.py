"""Why letters were refused: what their reasons say, what they have in common, what to do about it.

A reason quotes the message, which may name a person. Where people are masked it is told in the
words of the contract alone (`LetterGroup.hide`).
"""

import re
from functools import cache
from hashlib import sha256
from typing import NamedTuple, get_args

import msgspec
from headwater_client import EVENT_TYPES
from headwater_client.errors import MAX_VALUE_CHARS
from headwater_client.events import DeadLetter, Item, PersonAttributes
from headwater_client.identities import IdentityMessage
from headwater_client.topics import IDENTITIES

HIDDEN = "…"
_LITERAL = re.compile(r"""b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_NUMBER = re.compile(r"\d+")
_QUOTED = re.compile(r"""(?<!\w)(?:'[^']*'?|"[^"]*"?)""")
_PLACE = re.compile(r"\[\.\.\.\]|\[\d+\]")
# What stands for a field, where a reason is of none.
_STAND_INS = frozenset({"<key>", "<message>", "<event>", "<JSON>"})
# What the contract says of a field, behind whatever it has quoted; or before it.
_WORDS = (
    r"(is required|is no field of this object|stands for nobody, by events\.nobody)$",
    r"(processes ended over it: put aside|is after the event's own timestamp)$",
    r"(expected (?:a JSON object|a finite number|another id than the guest's))$",
    r"(is in the future: expected at most [\dN]+|is nested deeper than [\dN]+ levels)$",
    r"(bytes: expected at most [\dN]+)$",
    r"(Expected `[a-z\dN| ]+`(?:, got `[a-z\dN| ]+`|(?: of length)? [<>=]+ [-+.\dN]+)?)$",
    r"^(expected the user_id|not JSON in UTF-8|Invalid enum value|is no row|is too old)\b",
)


class Refusal(NamedTuple):
    """What a letter's reason says: the field, its value, and what was expected."""

    field: str
    value: str
    expected: str


def split_reason(reason: str) -> Refusal:
    """The parts of a reason; what is none of an `EventError` is all expected.

    >>> split_reason("price: -1: Expected `float` >= 0.0")
    Refusal(field='price', value='-1', expected='Expected `float` >= 0.0')
    >>> split_reason("user_id: 'a: b': stands for nobody, by events.nobody").value
    "'a: b'"
    """
    field, colon, rest = reason.partition(": ")
    if not colon:
        return Refusal("<message>", "", reason)
    literal = _LITERAL.match(rest)
    end = literal.end() if literal else MAX_VALUE_CHARS
    if rest[end : end + 2] == ": ":
        return Refusal(field, rest[:end], rest[end + 2 :])
    value, colon, expected = rest.partition(": ")
    return Refusal(field, value, expected) if colon else Refusal(field, "", rest)


class LetterGroup(NamedTuple):
    """What letters of the same fault have in common."""

    topic: str
    field: str
    expected: str

    @property
    def name(self) -> str:
        """Names it, the same in every process."""
        return sha256("\n".join(self).encode(errors="replace")).hexdigest()[:16]

    def hide(self) -> "LetterGroup":
        """The same, as it is told to who may not see what people are called."""
        return self._replace(field=hide_field(self.field), expected=hide_expected(self.expected))


def group_of(letter: DeadLetter) -> LetterGroup:
    """The group that a letter is of: its numbers, which differ from letter to letter, are left out.

    >>> letters = [
    ...     DeadLetter(raw=b"", topic="t", partition=0, offset=0, refused_time=0, reason=reason)
    ...     for reason in ("time: 9: expected at most 7", "time: 8: expected at most 6")
    ... ]
    >>> {group_of(letter) for letter in letters}
    {LetterGroup(topic='t', field='time', expected='expected at most N')}
    """
    told = split_reason(letter.reason)
    field = _PLACE.sub("[]", told.field)
    return LetterGroup(letter.topic, field, hide_values(told.expected))


def hide_values(expected: str) -> str:
    """What was expected, without the numbers and quoted texts that differ from letter to letter.

    >>> hide_values("expected the user_id, 'ann'"), hide_values("Expected `int` >= 100")
    ("expected the user_id, '…'", 'Expected `int` >= N')
    """
    return _NUMBER.sub("N", _QUOTED.sub("'…'", expected))


def hide_expected(expected: str) -> str:
    """What was expected, in words of the contract, and in nothing that a message has held.

    >>> hide_expected("expected the user_id, 'ann'"), hide_expected("Expected `int` >= 100")
    ('expected the user_id', 'Expected `int` >= N')
    >>> hide_expected("of ann's row")
    '…'
    """
    found = (re.search(words, expected) for words in _WORDS)
    return next((_NUMBER.sub("N", each[1]) for each in found if each), HIDDEN)


def hide_field(field: str) -> str:
    """A field that the contract knows, without what lies in it: how that is called apps choose.

    >>> hide_field("context.ann"), hide_field("ann"), hide_field("<key>")
    ('context', '…', '<key>')
    """
    name = re.split(r"[.\[]", field, maxsplit=1)[0]
    return name if name in _STAND_INS or name in _known_fields() else HIDDEN


@cache
def _known_fields() -> frozenset[str]:
    events = [spec.struct for spec in EVENT_TYPES.values()]
    kinds = [*events, Item, PersonAttributes, *get_args(IdentityMessage)]
    return frozenset(field.encode_name for kind in kinds for field in msgspec.structs.fields(kind))


def find_remedy(group: LetterGroup) -> str:
    """What to do about a fault."""
    return next(text for words, text in _REMEDIES if re.search(words, "\n".join(group)))


_REMEDIES = (
    (
        "processes ended over it",
        "workers have died on this message: report it, and send it again once that is mended",
    ),
    (f"^({IDENTITIES})\n", "send the merge or the erasure again by the API: docs/how-to/api.md"),
    (
        "in the future",
        "the sender's clock is ahead: set NTP up; what is past by now can be sent as it is",
    ),
    ("is too old", "older than events.max_age_s: raise it, or let these be"),
    (r"timestamp\nExpected `int` >= N", "seconds are no milliseconds: rule scale by 1000"),
    (r"timestamp\nExpected `int`", "a time that is written out: rule time, or retype to a number"),
    ("stands for nobody", "nobody can say now who it was: correct the app that sends it"),
    ("is required", "the field is missing, or goes by another name: rule rename, or set"),
    (r"Expected `str`", "the field is a number: rule retype to a text"),
    (r"Expected `(int|float)", "the field is a text: rule retype to a number"),
    ("not JSON", "the bytes are no JSON in UTF-8: correct how the app writes them"),
    ("<key>", "the key has to be the id: sent again from here it is"),
    ("", "correct the field as the reason says, and the app that sends it"),
)
