"""What else people do: types of events beside the click and the purchase.

What each does to a person's row and to an item's trend: docs/concepts.md, "What an event says".
"""

from typing import Annotated

from msgspec import Meta

from headwater_client.events import Id, Interaction, TimestampMs

MAX_RATING = 5.0
LIKED_FROM = 2.5
"""A rating below the middle of the scale speaks against its item."""

Rating5 = Annotated[float, Meta(ge=0, le=MAX_RATING, description="0 to 5; below 2.5 is a no")]
Seconds = Annotated[float, Meta(ge=0, le=1e9, description="seconds")]
Place = Annotated[int, Meta(ge=0, le=10_000)]


class AddToCart(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person put an item into the cart."""


class RemoveFromCart(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person took an item out of the cart again.

    `taken_time` is the timestamp of the `AddToCart` that it takes back; by default that of the
    newest one that the person's row remembers.
    """

    taken_time: TimestampMs | None = None


class Return(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person brought an item back that was bought.

    `taken_time` is the timestamp of the `Purchase` that it takes back; by default that of the
    newest one that the person's row remembers.
    """

    taken_time: TimestampMs | None = None


class Rating(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person said how good an item is."""

    value: Rating5


class Play(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person watched or listened to an item: for so many `seconds`, of so many that it has."""

    seconds: Seconds
    length_seconds: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class Dislike(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person said no to an item."""


class Hide(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person does not want to be shown an item."""


class Impression(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person has really seen a list, from its first place up to `position`, which counts from 0.

    It is about the whole list that `recommendation_id` names, so no item has to be named.
    """

    recommendation_id: Id
    position: Place
    item_id: Annotated[str, Meta(max_length=256)] = ""


def rate_strength(event: Rating) -> float:
    """What a rating adds, of 1: its part of the scale; below 0 where it speaks against the item."""
    return event.value / MAX_RATING if event.value >= LIKED_FROM else -1.0


def play_strength(event: Play) -> float:
    """What playing adds, of 1: the part that was played; 1 where no length is known."""
    if event.length_seconds is None:
        return 1.0
    return min(1.0, event.seconds / event.length_seconds)
