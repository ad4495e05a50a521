"""The rules of lists, as placements and requests hold them: part of the API's contract."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headwater_client.events import MAX_ID, Id

MAX_LIMIT = 100
MAX_FILTER_CHARS = 4000

FilterText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_FILTER_CHARS,
        description="what may be in the list, in a subset of CEL, such as item.price < "
        "context.budget && 'shoes' in item.category; a list is full as long as "
        "enough items are allowed",
    ),
]
AttributeName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID + len("attributes."),
        description="of items, as filters name it after item: brand, category, attributes.color",
    ),
]
Place = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="of a list, counted from 1")]


class Objective(StrEnum):
    """What a list is to earn."""

    CLICKS = "clicks"
    """What this person takes next comes first: the version's own order."""
    PURCHASES = "purchases"
    """What this person buys next comes first, by how often each item is bought of how often it is
    taken."""
    REVENUE = "revenue"
    """The same times the item's price."""


class Boost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a filter finds counts as so many times as likely as the version says.

    A `factor` above 1 raises it, one below 1 buries it. A version's score is a logarithm of odds:
    the natural logarithm of the factor is added to it; a popular item's count is multiplied.
    """

    filter: FilterText
    factor: Annotated[float, Meta(ge=0.001, le=1000)]


class Pin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item that has a place of its own, unless it may not be shown to this person."""

    item_id: Id
    place: Place


class AtMost(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """At most `items` of one brand, one category, one value of any attribute in the first places.

    `places`: how many; the whole list by default. An item in several categories counts for each;
    one without a value for none.
    """

    by: AttributeName
    items: Place
    places: Place | None = None


class Diversity(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How much a list is varied: each place goes to what is likely, and unlike those before it.

    The best by (1 - strength) * p - strength * s (maximal marginal relevance): p is how likely the
    item is beside the likeliest, s its greatest likeness to an item before it. Two items are as
    alike as the share of their values `by` these attributes that both have (Jaccard); category and
    brand by default.
    """

    strength: Annotated[float, Meta(gt=0, le=1)]
    by: Annotated[list[AttributeName], Meta(min_length=1, max_length=8)] = msgspec.field(
        default_factory=lambda: ["category", "brand"]
    )


class Exploration(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A share of places that try out items: each of them is as likely there as any other.

    `filter` says which items; by default those that the version has not learned, and where there
    are none, all that are allowed. Each item of the list says with which probability it has its
    place, so that the log can tell what other rules would have earned.
    """

    share: Annotated[float, Meta(gt=0, le=0.5)]
    filter: FilterText | None = None


class Promotion(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a filter finds has at least one of `every` so many places, marked with the `label`.

    Where none has come by itself, the last of these places goes to the best of them.
    """

    filter: FilterText
    every: Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
    label: Annotated[str, Meta(max_length=MAX_ID)] = ""


class ListRules(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which items of those that are allowed a list has, and where.

    Above all stands what may be shown at all. Then pins, then `at_most`, which counts the pins,
    then promotions, then exploration; all else goes by the boosted score and diversity. `objective`
    says what the score is of: clicks by default.
    """

    boosts: Annotated[list[Boost], Meta(max_length=20)] = []
    pins: Annotated[list[Pin], Meta(max_length=MAX_LIMIT)] = []
    at_most: Annotated[list[AtMost], Meta(max_length=8)] = []
    diversity: Diversity | None = None
    exploration: Exploration | None = None
    promotions: Annotated[list[Promotion], Meta(max_length=8)] = []
    objective: Objective | None = None
