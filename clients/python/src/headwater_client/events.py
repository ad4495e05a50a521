"""What travels on the topics: the words of the product, and their validation.

An app sends `Click`, `Purchase` and `Item`; Headwater answers with `Recommendation` and keeps what
it refuses as `DeadLetter`. Values are JSON (UTF-8), times are integer milliseconds UTC.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from headwater_client.decoders import convert, get_json_decoder
from headwater_client.documents import MAX_DEPTH, is_too_deep
from headwater_client.errors import MAX_VALUE_CHARS, EventError
from headwater_client.topics import MAX_MESSAGE_BYTES

# Before 1973 in milliseconds, but any date of our century in seconds: the commonest mistake.
EARLIEST_TIMESTAMP_MS = 100_000_000_000
MAX_FUTURE_MS = 3_600_000

MAX_ID = 256
MAX_TITLE = 1024
MAX_DESCRIPTION = 65_536
MAX_CATEGORIES = 16
MAX_VARIANT = 64

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID, description="1 to 256 characters")]
TimestampMs = Annotated[
    int, Meta(ge=EARLIEST_TIMESTAMP_MS, description="milliseconds UTC since 1970, not seconds")
]
Price = Annotated[float, Meta(ge=0, description="in the shop's currency")]
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
Context = dict[str, str | int | float | bool | None]
Attributes = Annotated[Context, Meta(max_length=64, description="at most 64, by name")]


class Interaction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person did something with an item: what all event types share.

    Headwater checks and keeps `session_id`, `price`, `quantity` and `context` in its windows; the
    model does not read them: none of them made lists better (docs/decisions/0043).
    """

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
    title: Annotated[str, Meta(max_length=MAX_TITLE)] = ""
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION)] = ""
    category: Annotated[list[Id], Meta(max_length=MAX_CATEGORIES)] = []
    brand: Annotated[str, Meta(max_length=MAX_ID)] = ""
    price: Price | None = None
    attributes: Context = {}
    available: bool = True


class PersonAttributes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an app knows of a person, whole; the newest message of a user_id counts.

    A tombstone (no value) removes it.
    """

    user_id: Id
    attributes: Attributes = {}


class Reason(Struct, frozen=True, omit_defaults=True):
    """Why an item is recommended: a past item of this person, a trend, or a fallback."""

    kind: Literal["history", "trending", "popular"]
    item_id: str | None = None


class RecommendedItem(Struct, frozen=True, omit_defaults=True):
    """One place of a recommendation.

    `placed_by` is the rule that gave it the place (`pin`, `promotion`, `exploration`), else empty;
    `label` is the promotion's. `probability` is that of this item at this place, after those before
    it; missing where nothing was left to chance.
    `parts` are in answers of the API that were asked for with `explain`: what the score is the sum
    of, by name.
    """

    item_id: str
    score: float
    reason: Reason
    placed_by: str = ""
    label: str = ""
    probability: float | None = None
    parts: dict[str, float] = {}


class Shadow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a version that is only tried out would have recommended; nobody is shown it.

    `items` are item_ids, best first; `failed` says why there are none. `missing` says how many the
    list would have been short of.
    """

    model_version: str
    items: list[str] = []
    score: float | None = None
    latency_ms: float | None = None
    failed: str = ""
    missing: int = 0


class ListRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for of a placement, so that other rules can be tried on it later."""

    filter: str = ""
    context: dict[str, Any] = {}
    limit: int | None = None
    exclude: list[str] = []


class PlacementTrial(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which rules made a list of a placement, while a change of the placement is tried out.

    `failed` says why the variant's own rules could not be used: the placement's made the list.
    `latency_ms` is how long the whole answer took. `shadow` is what rules that are only tried out
    would have recommended.
    """

    rollout_id: str
    variant: Annotated[str, Meta(max_length=MAX_VARIANT)]
    failed: str = ""
    latency_ms: float | None = None
    shadow: Shadow | None = None


class Recommendation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best items for a person after an event; sent again, it has the same recommendation_id.

    `variant` is the person's; `failed` says why another version than the variant's own answered,
    and `fallback` that none did: these are popular items. `latency_ms` is how long the variant's
    version took, or was waited for. `shadow` is of a version that is only tried out. `missing` says
    how many items the list is short of, because nothing else may be shown to this person.

    On the topic `served` it is a list that the API has answered: `event_id` is empty, and
    `event_time` is that of the answer. `placement` is where it was shown, `placement_revision` by
    which change of its rules it was made, and `trial` says so where a change is tried out. `asked`
    is what the request said of the list. `sequence` is there where the row knew the log alone:
    where the request brought neither events nor a guest.

    `topic`, `partition` and `offset` say where the event stands. Of two recommendations of a person
    the one with the larger `sequence` knows more events: an order that no clock has a part in.
    """

    recommendation_id: str
    user_id: str
    event_id: str
    items: list[RecommendedItem]
    model_version: str
    variant: Annotated[str, Meta(max_length=MAX_VARIANT)]
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
    missing: int = 0
    placement: str = ""
    placement_revision: int | None = None
    trial: PlacementTrial | None = None
    asked: ListRequest | None = None


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A message that was refused: its raw bytes (base64), where it stood, and why.

    Of a message that is too large for the topic, `raw` has the first bytes, perhaps none;
    `size_bytes` and `sha256` (hex) are of all of it.
    """

    raw: bytes
    topic: str
    partition: int
    offset: int
    reason: str
    refused_time: int
    size_bytes: int | None = None
    sha256: str | None = None


AnyMessage = TypeVar("AnyMessage", bound=Struct)

"""How deep a message may be nested; Python's parsers give up between 1,000 and 1,500 levels."""

encode = msgspec.json.Encoder().encode
# A message that is longer is refused without its odd number named: to name it takes Python's own
# parser, and that thirty times the message's bytes.
_NAMED_BYTES = 256 * 1024
_FIELD_BYTES = 1024 * 1024
_SHOWN_BYTES = 4 * MAX_VALUE_CHARS
_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"contains unknown field `(?P<field>[^`]+)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def decode(kind: type[AnyMessage], raw: bytes | None, now_ms: int | None = None) -> AnyMessage:
    """Decode and validate one message, whoever wrote it.

    Total: it returns or raises `EventError`, whatever the bytes, with memory in proportion to them;
    and it decides alike on every version of Python, however deep the caller's stack is.

    Args:
        kind: `Item`, the struct of an event type (`Click`, `Purchase`), or any other message.
        raw: the message's value, JSON in UTF-8, at most 4 MiB and `MAX_DEPTH` levels deep.
        now_ms: when the message arrived (the broker's time, so that a replay decides alike);
            default: now.

    Raises:
        EventError: with the field, its value and what was expected.
    """
    if not raw:
        raise EventError("<message>", "<empty>", "expected a JSON object")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise EventError("<message>", len(raw), f"bytes: expected at most {MAX_MESSAGE_BYTES}")
    if is_too_deep(raw):
        raise EventError("<message>", raw, f"is nested deeper than {MAX_DEPTH} levels")
    try:
        event: AnyMessage = get_json_decoder(kind).decode(raw)
    except MemoryError:
        # No fault of the message.
        raise
    except Exception as error:
        raise _explain(kind, raw, error) from error
    if isinstance(event, Interaction):
        _check_not_in_future(event.timestamp, now_ms)
        _check_taken_time(event)
    return event


def _check_not_in_future(timestamp: int, now_ms: int | None) -> None:
    latest = (now_ms if now_ms is not None else int(time.time() * 1000)) + MAX_FUTURE_MS
    if timestamp > latest:
        raise EventError("timestamp", timestamp, f"is in the future: expected at most {latest}")


def _check_taken_time(event: Interaction) -> None:
    taken_time: int | None = getattr(event, "taken_time", None)
    if taken_time is not None and taken_time > event.timestamp:
        raise EventError("taken_time", taken_time, "is after the event's own timestamp")


def _explain(kind: type[Struct], raw: bytes, error: Exception) -> EventError:
    """The same refusal with the field and the value named; slow, so only after a failure."""
    if isinstance(error, msgspec.ValidationError):
        try:
            # Read to its end: what is no JSON there is none at all.
            get_json_decoder(msgspec.Raw).decode(raw)
        except Exception as malformed:  # noqa: BLE001  (named below)
            error = malformed
        else:
            return explain_refusal(str(error), partial(_value_in, raw))
    if len(raw) > _NAMED_BYTES:
        return EventError("<message>", raw, f"not JSON in UTF-8: {error}")
    try:
        document = _read_loosely(raw)
        convert(document, kind)
    except msgspec.ValidationError as invalid:
        return explain_refusal(str(invalid), lambda name: document[name])
    except Exception:  # noqa: BLE001  (named below: no JSON at all)
        return EventError("<message>", raw, f"not JSON in UTF-8: {error}")
    return _not_a_number(document, error)


def _read_loosely(raw: bytes) -> Any:
    """What Python's own parser reads though JSON forbids it: NaN, Infinity, half surrogate pairs.

    Of the last U+FFFD is left: they cannot be written as UTF-8.
    """
    document = json.loads(raw.decode())
    text = json.dumps(document, ensure_ascii=False)
    if text.isprintable():
        return document
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def explain_refusal(message: str, value_of: Callable[[str], Any]) -> EventError:
    """What msgspec refuses, with its field and value.

    Args:
        message: of its `ValidationError`.
        value_of: gives the value of a field of the whole object; may raise.
    """
    match = _AT_PATH.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    if missing := _MISSING.search(what):
        return EventError(
            ".".join(filter(None, (path, missing["field"]))), "<missing>", "is required"
        )
    if unknown := _UNKNOWN.search(what):
        path = ".".join(filter(None, (path, unknown["field"])))
        what = "is no field of this object"
    try:
        value = value_of(re.split(r"[.\[]", path, maxsplit=1)[0])
    except Exception:  # noqa: BLE001  (JSON that is broken further on, or no object)
        value = "<JSON>"
    return EventError(path or "<message>", value, what)


def _value_in(raw: bytes, field: str) -> Any:
    """The value of a field of a JSON object; a long one as it is written, cut."""
    text = bytes(get_json_decoder(dict[str, msgspec.Raw]).decode(raw)[field])
    if len(text) <= _SHOWN_BYTES:
        return json.loads(text)
    return text[:_SHOWN_BYTES].decode(errors="replace").removeprefix('"')


def _not_a_number(document: Any, error: Exception) -> EventError:
    for name, value in _numbers(document):
        if not math.isfinite(value):
            return EventError(name, value, "expected a finite number")
    return EventError("<message>", "<JSON>", str(error))


def _numbers(document: Any) -> Iterator[tuple[str, float]]:
    """Each float and its path, cut, in the document's order."""
    waiting = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float):
            yield path, value
            continue
        if isinstance(value, dict):
            inner = [(f"{path}.{name}" if path else name, each) for name, each in value.items()]
        elif isinstance(value, list):
            inner = [(f"{path}[{place}]", each) for place, each in enumerate(value)]
        else:
            continue
        waiting += ((name[:MAX_VALUE_CHARS], each) for name, each in reversed(inner))


def decode_item(raw: bytes | None) -> tuple[Item, tuple[str, ...]]:
    """An item as those who read the topic take it, and the fields that had to be made to fit.

    Whether an item is available counts, however long its title is. So what only describes it is
    cut, or left out where it cannot be read; null says nothing.

    Raises:
        EventError: it is no JSON object, or `item_id` or `available` is not what it must be.
    """
    try:
        return decode(Item, raw), ()
    except EventError as refused:
        said = _read_fields(raw or b"")
        if said is None:
            raise
        told = {name: value for name, value in said.items() if value is not None}
        fitted = {name: _FITS[name](value) for name, value in told.items()}
        try:
            item = convert({n: v for n, v in fitted.items() if v is not None}, Item)
        except msgspec.ValidationError as invalid:
            raise explain_refusal(str(invalid), lambda name: said[name]) from refused
        if "\ufffd" in item.item_id:
            raise
    return item, tuple(name for name, value in fitted.items() if value != told[name])


def _read_fields(raw: bytes) -> dict[str, Any] | None:
    """The fields of an item that was refused, each by itself; None where there are none."""
    if is_too_deep(raw):
        return None
    try:
        fields = get_json_decoder(dict[str, msgspec.Raw]).decode(raw)
        return {name: _read_field(bytes(fields[name])) for name in _FITS if name in fields}
    except Exception:  # noqa: BLE001  (it was refused already, by name)
        document = _read_field(raw) if len(raw) <= _NAMED_BYTES else None
    if not isinstance(document, dict):
        return None
    return {name: document[name] for name in _FITS if name in document}


def _read_field(text: bytes) -> Any:
    """A field's value; its bytes, which fit nowhere, where it is too long or cannot be read."""
    try:
        return text if len(text) > _FIELD_BYTES else _read_loosely(text)
    except ValueError:
        return text


def _fit_text(limit: int, value: Any) -> str | None:
    return value[:limit] if isinstance(value, str) else None


def _fit_category(value: Any) -> list[str] | None:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        return None
    return [fitted for name in names if (fitted := _fit_text(MAX_ID, name))][:MAX_CATEGORIES]


def _fit_price(value: Any) -> float | None:
    try:
        price = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return price if math.isfinite(price) and price >= 0 else None


def _fit_attributes(value: Any) -> Context | None:
    if not isinstance(value, dict):
        return None
    return {name: each for name, each in value.items() if _is_plain(each)}


def _is_plain(value: Any) -> bool:
    is_finite = not isinstance(value, float) or math.isfinite(value)
    return is_finite and isinstance(value, str | int | float | bool | None)


def _fit_available(value: Any) -> Any:
    """What other systems write for true and false; the contract refuses anything else."""
    return _TRUTHS.get(str(value).strip().lower(), value) if isinstance(value, str | int) else value


_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_FITS: dict[str, Callable[[Any], Any]] = {
    "item_id": lambda value: value,
    "title": partial(_fit_text, MAX_TITLE),
    "description": partial(_fit_text, MAX_DESCRIPTION),
    "category": _fit_category,
    "brand": partial(_fit_text, MAX_ID),
    "price": _fit_price,
    "attributes": _fit_attributes,
    "available": _fit_available,
}
