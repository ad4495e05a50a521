"""CloudEvents 1.0 as events of Headwater, in the three modes that they have over HTTP.

| attribute | field of the event |
|---|---|
| `id` | `event_id` |
| `type` | `type`: what stands behind the last full stop, `click` of `com.example.shop.click` |
| `subject` | `user_id` |
| `time` | `timestamp` |
| `data` | all others; what it repeats of the above must be the same |
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import unquote

import msgspec
from headwater_client import EventError, Interaction, decode, encode
from headwater_client.documents import DocumentError, read_json
from headwater_client.events import EARLIEST_TIMESTAMP_MS, Id
from headwater_client.operations import CLOUD_EVENT, CLOUD_EVENTS
from msgspec import Meta, Struct

from stream.api.intake import EventIntake, read_fields, split_events

PREFIX = "ce-"
_Text = Annotated[str, Meta(min_length=1)]
_ATTRIBUTES = {"type": "type", "event_id": "id", "user_id": "subject", "timestamp": "time"}


class CloudEvent(Struct, frozen=True, kw_only=True):
    """A CloudEvent: its attributes, and the fields of the event that they do not have.

    `type` ends with the event's type, such as `com.example.shop.click`; `subject` is the person.
    `id` is the `event_id`, so it must be unique over all sources. Extensions are passed over.
    """

    specversion: Literal["1.0"]
    id: Id
    source: _Text
    type: _Text
    subject: Id
    data: dict[str, msgspec.Raw]
    time: Annotated[datetime, Meta(tz=True)] | None = None


def is_cloud(headers: Mapping[str, str]) -> bool:
    """Whether a request brings CloudEvents, in whichever mode."""
    return _media_type(headers) in (CLOUD_EVENT, CLOUD_EVENTS) or any(
        name.startswith(PREFIX) for name in headers
    )


def split_cloud_events(headers: Mapping[str, str], body: bytes) -> list[bytes]:
    """The CloudEvents of a request, each as structured mode has it.

    Raises:
        EventError: it is no JSON, or not as its media type says.
    """
    kind = _media_type(headers)
    if kind not in (CLOUD_EVENT, CLOUD_EVENTS):
        return [_join_binary(headers, body)]
    is_batch = body.lstrip()[:1] == b"["
    if is_batch == (kind == CLOUD_EVENTS):
        return split_events(body)
    expected, other = ("a batch", CLOUD_EVENT) if kind == CLOUD_EVENTS else ("one", CLOUD_EVENTS)
    raise EventError("<message>", body, f"expected {expected}, or Content-Type: {other}")


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _join_binary(headers: Mapping[str, str], body: bytes) -> bytes:
    """A CloudEvent whose attributes are headers, as structured mode has it."""
    attributes = {
        name.removeprefix(PREFIX): unquote(value)
        for name, value in headers.items()
        if name.startswith(PREFIX)
    }
    try:
        return encode({**attributes, "data": read_fields(body)})
    except EventError as error:
        raise error.rename("data") from error


def read_cloud_event(intake: EventIntake, raw: bytes, ago_ms: int = 0) -> Interaction:
    """An event, of a CloudEvent in structured mode.

    Args:
        ago_ms: as of `EventIntake.read`.

    Raises:
        EventError: it breaks the contract; the field is named as the CloudEvent has it.
    """
    sent = decode(CloudEvent, raw)
    told = {"type": sent.type.rpartition(".")[2], "event_id": sent.id, "user_id": sent.subject}
    fields = {name: msgspec.Raw(encode(value)) for name, value in told.items()}
    if sent.time is not None:
        fields["timestamp"] = msgspec.Raw(encode(_read_time(sent.time)))
    for name, value in fields.items():
        if name in sent.data and _differ(sent.data[name], value):
            expected = f"expected that of `{_ATTRIBUTES[name]}`, or nothing"
            raise EventError(f"data.{name}", bytes(sent.data[name]), expected)
    try:
        return intake.read(encode({**sent.data, **fields}), ago_ms=ago_ms)
    except EventError as error:
        first = re.split(r"[.\[]", error.field, maxsplit=1)[0]
        is_attribute = first in fields and first in _ATTRIBUTES
        raise error.rename(_ATTRIBUTES[first] if is_attribute else f"data.{error.field}") from error


def _read_time(time: datetime) -> int:
    """Milliseconds UTC."""
    time_ms = round(1000 * time.timestamp())
    if time_ms < EARLIEST_TIMESTAMP_MS:
        earliest = datetime.fromtimestamp(EARLIEST_TIMESTAMP_MS / 1000, UTC)
        raise EventError("time", time.isoformat(), f"expected a time since {earliest.isoformat()}")
    return time_ms


def _differ(one: msgspec.Raw, other: msgspec.Raw) -> bool:
    try:
        return read_json(bytes(one), object) != read_json(bytes(other), object)
    except DocumentError:
        # What cannot be read is not what an attribute says.
        return True
