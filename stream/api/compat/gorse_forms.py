"""What Gorse's interface and its dumps hold, and what it is called here.

| Gorse | Headwater |
|---|---|
| feedback of a type | event of that name, or of the one that `api.event_aliases` names |
| item: Categories, IsHidden, Comment | item: category, available, title (or description, if long) |
| item: Labels, Timestamp | attributes: a label of a list is one that is true |
| user: Labels, Subscribe, Comment | attributes of the person, likewise |
"""

from collections.abc import Mapping
from typing import Any

import xxhash
from headwater_client import Item
from headwater_client.events import MAX_TITLE
from msgspec import Struct

from stream.api.compat.values import EventAliases, flatten, read_time_ms, split_fields, write_time

TIMESTAMP, COMMENT, SUBSCRIBE = "Timestamp", "Comment", "Subscribe."
# What Go writes for no time at all.
NO_TIME = "0001-01-01T00:00:00Z"
NAMES = {
    "event_id": "UserId, ItemId",
    "user_id": "UserId",
    "item_id": "ItemId",
    "timestamp": TIMESTAMP,
    "type": "FeedbackType",
    "value": "Value",
    "category": "Categories",
    "attributes": "Labels",
    "title": "Comment",
    "description": "Comment",
    "limit": "n",
    "person": "UserId",
    "events": "feedback",
}


class GorseFeedback(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A person did something with an item."""

    feedback_type: str
    item_id: str
    user_id: str = ""
    timestamp: str | None = None
    comment: str | None = None
    value: float | None = None


class GorsePatch(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What is said of an item; what is None stays as it is."""

    is_hidden: bool | None = None
    categories: list[str] | None = None
    labels: Any = None
    timestamp: str | None = None
    comment: str | None = None


class GorseItem(GorsePatch, frozen=True, kw_only=True, rename="pascal"):
    """An item, whole."""

    item_id: str


class GorseUserPatch(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What is said of a person; what is None stays as it is."""

    labels: Any = None
    subscribe: list[str] | None = None
    comment: str | None = None


class GorseUser(GorseUserPatch, frozen=True, kw_only=True, rename="pascal"):
    """A person, whole."""

    user_id: str


def make_event(feedback: GorseFeedback, aliases: EventAliases, now_ms: int) -> dict[str, Any]:
    """An event as the API takes it. The same feedback is the same event, whoever sends it.

    Raises:
        EventError: its type or its time cannot be read.
    """
    time_ms = read_time_ms(feedback.timestamp, TIMESTAMP)
    timestamp = now_ms if time_ms is None else time_ms
    kind = aliases.event_of(feedback.feedback_type, "FeedbackType")
    said = {"comment": feedback.comment or None, "value": feedback.value or None}
    own, told = split_fields(kind, {name: v for name, v in said.items() if v is not None})
    key = "\0".join((feedback.feedback_type, feedback.user_id, feedback.item_id, str(timestamp)))
    event = {
        "type": kind,
        "event_id": f"gorse:{xxhash.xxh3_128_hexdigest(key)}",
        "user_id": feedback.user_id,
        "item_id": feedback.item_id,
        "timestamp": timestamp,
        "context": {"feedback_type": feedback.feedback_type} | told,
        **own,
    }
    if not feedback.user_id:
        del event["user_id"]
    return event


def make_item(item_id: str, said: GorsePatch, known: Item | None = None) -> dict[str, Any]:
    """An item as the API takes it.

    Args:
        known: what the catalogue says of it; None: what is said is all.

    Raises:
        EventError: a label or the time cannot be kept.
    """
    item = known or Item(item_id=item_id)
    made: dict[str, Any] = {
        "item_id": item_id,
        "title": item.title,
        "description": item.description,
        "category": item.category,
        "brand": item.brand,
        "price": item.price,
        "attributes": dict(item.attributes),
        "available": item.available,
    }
    if said.is_hidden is not None:
        made["available"] = not said.is_hidden
    if said.categories is not None:
        made["category"] = said.categories
    if said.labels is not None:
        released = item.attributes.get(TIMESTAMP)
        kept = {} if released is None else {TIMESTAMP: released}
        made["attributes"] = dict(flatten("Labels", said.labels)) | kept
    if (time_ms := read_time_ms(said.timestamp, TIMESTAMP)) is not None:
        made["attributes"][TIMESTAMP] = write_time(time_ms)
    if said.comment is not None:
        is_short = len(said.comment) <= MAX_TITLE
        made |= {"title": said.comment} if is_short else {"description": said.comment}
    return made


def make_attributes(said: GorseUserPatch, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is said of a person, as their attributes.

    Args:
        known: those that they have; None: what is said is all.

    Raises:
        EventError: a label cannot be kept.
    """
    labels, own = _split_attributes(known or {})
    if said.labels is not None:
        labels = dict(flatten("Labels", said.labels))
    if said.subscribe is not None:
        own = {name: value for name, value in own.items() if name == COMMENT}
        own |= {f"{SUBSCRIBE}{name}": True for name in said.subscribe}
    if said.comment is not None:
        own[COMMENT] = said.comment
    return labels | {name: value for name, value in own.items() if value != ""}


def _split_attributes(known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Labels; and what else Gorse says of a person."""
    own = {
        name: value
        for name, value in known.items()
        if name == COMMENT or name.startswith(SUBSCRIBE)
    }
    return {name: value for name, value in known.items() if name not in own}, own


def describe_user(person: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A person as Gorse answers."""
    labels, own = _split_attributes(attributes)
    return {
        "UserId": person,
        "Labels": _describe_labels(labels),
        "Subscribe": [name.removeprefix(SUBSCRIBE) for name in own if name != COMMENT],
        COMMENT: own.get(COMMENT, ""),
    }


def _describe_labels(attributes: Mapping[str, Any]) -> Any:
    """Labels that are all true are a list of them."""
    is_list = all(value is True for value in attributes.values())
    return list(attributes) if is_list else dict(attributes)


def describe_item(item: Item) -> dict[str, Any]:
    """An item as Gorse answers."""
    attributes = dict(item.attributes)
    timestamp = attributes.pop(TIMESTAMP, NO_TIME)
    return {
        "ItemId": item.item_id,
        "IsHidden": not item.available,
        "Categories": item.category,
        TIMESTAMP: timestamp,
        "Labels": _describe_labels(attributes),
        "Comment": item.description or item.title,
    }
