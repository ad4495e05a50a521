"""What travels on the topics: the words of the product, and their validation.

An app sends `Click`, `Purchase` and `Item`; Headwater answers with `Recommendation` and keeps what
it refuses as `DeadLetter`. Values are JSON (UTF-8), times are integer milliseconds UTC.
"""

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from headwater_client.errors import MAX_VALUE_CHARS, EventError

# Before 1973 in milliseconds, but any date of our century in seconds: the commonest mistake.
EARLIEST_TIMESTAMP_MS = 100_000_000_000
MAX_FUTURE_MS = 3_600_000

Id = Annotated[str, Meta(min_length=1, max_length=256, description="1 to 256 characters")]
TimestampMs = Annotated[
    int, Meta(ge=EARLIEST_TIMESTAMP_MS, description="milliseconds UTC since 1970, not seconds")
]
Price = Annotated[float, Meta(ge=0, description="in the shop's currency")]
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
Context = dict[str, str | int | float | bool | None]


class Interaction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person did something with an item: what all event types share."""

    event_id: Id
    user_id: Id
    item_id: Id
    timestamp: TimestampMs
    session_id: Id | None = None
    recommendation_id: Id | None = None
    position: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    price: Price | None = None
    context: Context | None = None
    quantity: Quantity | None = None


class Click(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person looked at an item."""


class Purchase(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person bought an item."""

    quantity: Quantity = 1


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item of the catalogue; the newest message of an item_id counts, a tombstone removes it."""

    item_id: Id
    title: Annotated[str, Meta(max_length=1024)] = ""
    description: Annotated[str, Meta(max_length=65_536)] = ""
    category: Annotated[list[Id], Meta(max_length=16)] = []
    brand: Annotated[str, Meta(max_length=256)] = ""
    price: Price | None = None
    attributes: Context = {}
    available: bool = True


class Reason(Struct, frozen=True, omit_defaults=True):
    """Why an item is recommended: a past item of this person, a trend, or a fallback."""

    kind: Literal["history", "trending", "popular"]
    item_id: str | None = None


class RecommendedItem(Struct, frozen=True):
    """One place of a recommendation."""

    item_id: str
    score: float
    reason: Reason


class Shadow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a version that is only tried out would have recommended; nobody is shown it.

    `items` are item_ids, best first; `failed` says why there are none.
    """

    model_version: str
    items: list[str] = []
    score: float | None = None
    latency_ms: float | None = None
    failed: str = ""


class Recommendation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best items for a person after an event; sent again, it has the same recommendation_id.

    `variant` is the person's; `failed` says why another version than the variant's own answered,
    and `fallback` that none did: these are popular items. `latency_ms` is how long the variant's
    version took, or was waited for. `shadow` is of a version that is only tried out.

    `topic`, `partition` and `offset` say where the event stands. Of two recommendations of a person
    the one with the larger `sequence` knows more events: an order that no clock has a part in.
    """

    recommendation_id: str
    user_id: str
    event_id: str
    items: list[RecommendedItem]
    model_version: str
    variant: str
    event_time: int
    produced_time: int
    fallback: bool
    rollout_id: str = ""
    failed: str = ""
    latency_ms: float | None = None
    shadow: Shadow | None = None
    topic: str = ""
    partition: int | None = None
    offset: int | None = None
    sequence: int | None = None


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A message that was refused: its raw bytes (base64), where it stood, and why."""

    raw: bytes
    topic: str
    partition: int
    offset: int
    reason: str
    refused_time: int


AnyEvent = TypeVar("AnyEvent", bound=Interaction | Item)

encode = msgspec.json.Encoder().encode
_decoders: dict[type[Struct], msgspec.json.Decoder[Any]] = {}
_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def decode(kind: type[AnyEvent], raw: bytes | None, now_ms: int | None = None) -> AnyEvent:
    """Decode and validate one message.

    Args:
        kind: `Item`, or the struct of an event type (`Click`, `Purchase`).
        raw: the message's value, JSON in UTF-8.
        now_ms: when the message arrived (the broker's time, so that a replay decides alike);
            default: now.

    Raises:
        EventError: with the field, its value and what was expected.
    """
    if not raw:
        raise EventError("<message>", "<empty>", "expected a JSON object")
    try:
        event: AnyEvent = _get_decoder(kind).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(kind, raw, error) from error
    if isinstance(event, Interaction):
        _check_not_in_future(event.timestamp, now_ms)
    return event


def _get_decoder(kind: type[AnyEvent]) -> msgspec.json.Decoder[AnyEvent]:
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind)
    return _decoders[kind]


def _check_not_in_future(timestamp: int, now_ms: int | None) -> None:
    latest = (now_ms if now_ms is not None else int(time.time() * 1000)) + MAX_FUTURE_MS
    if timestamp > latest:
        raise EventError("timestamp", timestamp, f"is in the future: expected at most {latest}")


def _explain(kind: type[AnyEvent], raw: bytes, error: Exception) -> EventError:
    """The same refusal with the field and the value named; slow, so only after a failure."""
    try:
        # Python's own parser reads NaN and Infinity, which JSON forbids: so they can be named.
        document = json.loads(raw)
        msgspec.convert(document, kind)
    except msgspec.ValidationError as invalid:
        return _from_validation(document, str(invalid))
    except (ValueError, RecursionError):
        return EventError("<message>", raw[:MAX_VALUE_CHARS], f"not JSON in UTF-8: {error}")
    return _not_a_number(document, error)


def _from_validation(document: Any, message: str) -> EventError:
    match = _AT_PATH.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    missing = _MISSING.search(what)
    if missing:
        return EventError(missing["field"], "<missing>", "is required")
    return EventError(path or "<message>", _value_at(document, path), what)


def _value_at(document: Any, path: str) -> Any:
    for name in path.replace("[...]", "").split("."):
        if not isinstance(document, dict) or name not in document:
            break
        document = document[name]
    return document


def _not_a_number(document: Any, error: Exception) -> EventError:
    for name, value in _numbers(document, ""):
        if not math.isfinite(value):
            return EventError(name, value, "expected a finite number")
    return EventError("<message>", "<JSON>", str(error))


def _numbers(document: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(document, float):
        yield path, document
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from _numbers(value, f"{path}.{name}" if path else name)
