"""Metarank's events, and what they are called here.

| Metarank | Headwater |
|---|---|
| `interaction` of a type | event of that name, or of the one that `api.event_aliases` names |
| `item`: fields title, description, category, brand, price, available | the item's own |
| `item`: other fields | attributes: a text of a list is one that is true |
| `user`: fields | attributes of the person |
| `ranking` | no counterpart |
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headwater_client import EventError, Item
from headwater_client.documents import DocumentError, read_json_lines
from msgspec import Struct
from msgspec.structs import asdict

from stream.api.compat.values import EventAliases, flatten, read_time_ms, split_fields
from stream.api.intake import read_list

_OWN = ("title", "description", "category", "brand", "price", "available")
# Of events that say nothing here, and why.
NO_COUNTERPART = {
    "ranking": "what was shown is not kept: recommendations are joined with what led to them",
}


class MetarankField(Struct, frozen=True):
    """A named value."""

    name: str
    value: bool | int | float | str | list[str | int | float] | None = None


class MetarankEvent(Struct, frozen=True):
    """An event of any of the four kinds."""

    event: str
    timestamp: str | int | float
    id: str = ""
    item: str = ""
    user: str | None = None
    session: str | None = None
    type: str = ""
    ranking: str | None = None
    fields: list[MetarankField] = []


class RankedEntry(Struct, frozen=True):
    """An item of a list that is to be ranked."""

    id: str
    fields: list[MetarankField] = []


class RankRequest(Struct, frozen=True):
    """A list that is to be ranked."""

    items: list[RankedEntry]
    id: str = ""
    user: str | None = None
    session: str | None = None
    fields: list[MetarankField] = []


class RecommendRequest(Struct, frozen=True):
    """What is recommended is asked for: beside some items, or for a person."""

    count: int
    user: str | None = None
    items: list[str] = []


def read_events(raw: bytes) -> Iterator[bytes]:
    """The events of a body: one, an array, or one a line.

    Raises:
        EventError: it is no JSON.
    """
    if raw.lstrip()[:1] == b"[":
        yield from map(bytes, read_list(raw))
        return
    try:
        yield from map(bytes, read_json_lines(raw))
    except DocumentError as error:
        raise EventError("<message>", raw, f"expected events as JSON: {error}") from error


def make_event(said: MetarankEvent, aliases: EventAliases) -> dict[str, Any]:
    """An event as the API takes it. Without a user it is of the session's.

    Raises:
        EventError: it is of no known type or time, or nobody's.
    """
    person = said.user or said.session
    if not person:
        raise EventError("user", "<missing>", "is required, or session: whose is it?")
    kind = aliases.event_of(said.type, "type")
    values = {field.name: field.value for field in said.fields if field.value is not None}
    own, told = split_fields(kind, values)
    lists = {name: ", ".join(map(str, v)) for name, v in told.items() if isinstance(v, list)}
    made = {
        "type": kind,
        "event_id": said.id,
        "user_id": person,
        "item_id": said.item,
        "timestamp": read_time_ms(said.timestamp, "timestamp"),
        "session_id": said.session,
        "recommendation_id": said.ranking,
        "context": told | lists | {"type": said.type},
        **own,
    }
    if isinstance(quantity := made.get("quantity"), float) and quantity.is_integer():
        made["quantity"] = int(quantity)
    return {name: value for name, value in made.items() if value is not None}


def make_attributes(said: MetarankEvent, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a person, as their attributes: what is said replaces that alone.

    Raises:
        EventError: a field cannot be kept; or it is nobody's.
    """
    if not said.user:
        raise EventError("user", said.user or "<missing>", "is required")
    return _replace_fields(known, said.fields)


def _replace_fields(known: Mapping[str, Any], fields: Iterable[MetarankField]) -> dict[str, Any]:
    attributes = dict(known)
    for field in fields:
        for name in [name for name in attributes if name.startswith(f"{field.name}.")]:
            del attributes[name]
        attributes |= flatten("fields", field.value, field.name)
    return attributes


def make_item(said: MetarankEvent, known: Item | None) -> dict[str, Any]:
    """An item as the API takes it: what is said replaces that alone.

    Args:
        known: what the catalogue says of it.

    Raises:
        EventError: a field cannot be kept.
    """
    made = asdict(known or Item(item_id=said.item))
    made |= {field.name: field.value for field in said.fields if field.name in _OWN}
    if isinstance(made["category"], str):
        made["category"] = [made["category"]]
    others = (field for field in said.fields if field.name not in _OWN)
    return made | {"attributes": _replace_fields(made["attributes"], others)}
