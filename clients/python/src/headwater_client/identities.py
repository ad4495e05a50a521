"""Who is whom, and who is to be forgotten: the messages of the topic `identities`.

An app, or the API for it, sends `Merge` and `Erasure`; workers send the others. A message's key is
the person whose row it changes, so that all that is said of one person has one order.
"""

from typing import Annotated, cast

from msgspec import Meta, Raw, Struct

from headwater_client.errors import EventError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Id, Interaction, decode

MAX_HOPS = 16
Path = Annotated[list[Id], Meta(max_length=MAX_HOPS)]


class Merge(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="merge"):
    """A guest has become a member: what the guest did, and still does, is the member's.

    The key is the guest. A guest who has become somebody stays so.
    """

    merge_id: Id
    guest: Id
    member: Id


class Erasure(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="erasure"
):
    """A person is to be forgotten; what they do from then on is a new person's. The key is they."""

    erasure_id: Id
    user_id: Id


class HandOver(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="hand-over"
):
    """The row of a guest as it was when they became this person, who is the key.

    `row` is base64 by column of the feature store, made by `features`, the mark of its settings.
    `arrived_time` is when Kafka took the `Merge`. `by` are the people who have passed it on.
    """

    merge_id: Id
    user_id: Id
    guest: Id
    features: str
    row: dict[str, bytes]
    arrived_time: int
    by: Path = []


class SentOn(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="sent-on"
):
    """An event of a guest after they became this person, who is the key.

    `event` is a message of `topic`, of this person; `arrived_time` is when Kafka took the guest's.
    `by` are the people who have passed it on, the guest first.
    """

    user_id: Id
    topic: Id
    event: Raw
    arrived_time: int
    by: Path


class Erased(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="erased"):
    """A person was forgotten, who is the key: up to which offset and time their events are gone.

    `offsets` are by the name that rows have for a partition of the log. `arrived_time` is when
    Kafka took the `Erasure`.
    """

    erasure_id: Id
    user_id: Id
    offsets: Annotated[dict[str, int], Meta(max_length=4096)]
    arrived_time: int


IdentityMessage = Merge | Erasure | HandOver | SentOn | Erased


def key_of(message: IdentityMessage) -> str:
    """Whose row a message changes."""
    return message.guest if isinstance(message, Merge) else message.user_id


def decode_identity(raw: bytes | None) -> IdentityMessage:
    """Decode and validate one message of the topic; as `decode`.

    Raises:
        EventError: with the field, its value and what was expected.
    """
    message = cast("IdentityMessage", decode(cast("type[Struct]", IdentityMessage), raw))
    if isinstance(message, Merge) and message.guest == message.member:
        raise EventError("member", message.member, "expected another id than the guest's")
    return message


def decode_sent_on(message: SentOn) -> Interaction:
    """The event that was sent on.

    Raises:
        EventError: it breaks its contract, or is another person's.
    """
    specs = {spec.topic: spec for spec in EVENT_TYPES.values()}
    if message.topic not in specs:
        raise EventError("topic", message.topic, f"expected one of {', '.join(specs)}")
    # Its time was checked where the guest's worker has read it.
    event = decode(specs[message.topic].struct, bytes(message.event), 1 << 62)
    if event.user_id != message.user_id:
        raise EventError("event.user_id", event.user_id, "expected that of the message")
    return event
