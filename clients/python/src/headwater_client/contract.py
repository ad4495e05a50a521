"""What the HTTP API takes and answers: the OpenAPI document is made of this and its operations.

The words are those of the topics. Unknown fields of a query are refused, so that a misspelt one is
not passed over; answers grow by optional fields.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headwater_client.events import (
    MAX_VARIANT,
    Attributes,
    Context,
    Id,
    Item,
    Reason,
    RecommendedItem,
)
from headwater_client.rules import MAX_LIMIT, FilterText, ListRules

MAX_EVENTS = 1000
MAX_CANDIDATES = 1000
MAX_PAGES = 20
MAX_CURSOR_CHARS = 24_000

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="items of the list, at most")]
Ids = Annotated[list[Id], Meta(max_length=MAX_CANDIDATES)]
SomeIds = Annotated[list[Id], Meta(min_length=1, max_length=MAX_CANDIDATES)]
Events = Annotated[
    list[msgspec.Raw],
    Meta(
        max_length=MAX_LIMIT,
        description="what has just happened to this person, in this order: the answer knows it, "
        "whether the worker has seen it yet or not",
    ),
]


_Scalar = str | int | float | bool | None
ContextValue = _Scalar | Annotated[list[_Scalar], Meta(max_length=MAX_CANDIDATES)]
RequestContext = Annotated[
    dict[Id, ContextValue],
    Meta(
        max_length=MAX_LIMIT,
        description="what the request knows, such as device or budget: a filter asks for it by "
        "context.NAME",
    ),
]


PlacementName = Annotated[
    str,
    Meta(
        pattern="^[a-z0-9][a-z0-9_-]{0,63}$",
        description="where lists are shown, such as home, product, cart: small letters, digits, "
        "- and _",
    ),
]


Cursor = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CURSOR_CHARS,
        description="of an answer to the same person, guest, placement and filter, as it was",
    ),
]


class Scope(StrEnum):
    """What a key may be used for."""

    SEND = "send"
    """Send events, and what is known of people."""
    ASK = "ask"
    """Ask for lists."""
    READ_PEOPLE = "read-people"
    """Read what is known of a person."""
    ADMINISTER = "administer"
    """Change the catalogue and placements, and forget people; at the console, do all."""
    VIEW = "view"
    """Look at the console."""
    OPERATE = "operate"
    """Steer rollouts, placements and dead letters at the console, and look at it."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request is refused (RFC 9457): the field, its value, and what to do about it.

    `type` leads to a line of `/docs`. `errors` names each, where there are several. `line` and
    `column` are of a fault within a text, counted from 1 in characters; `value` begins there.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    field: str = ""
    value: str = ""
    remedy: str = ""
    line: int | None = None
    column: int | None = None
    errors: "list[Problem]" = []


Offsets = Annotated[
    dict[str, Annotated[int, Meta(ge=0)]],
    Meta(max_length=MAX_LIMIT, description="offsets by TOPIC/PARTITION, such as clicks/2"),
]


class RecommendationQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to recommend for, and what is known of them by now.

    Without `person` it is a guest, of whom `events` are all that is known; nothing is kept of them.
    `record` sends the events to Kafka as well: they count once, whoever sees them first. `exclude`
    names items that must not be in the list. `limit` is `worker.top_k` by default. `min_offset`
    waits until the person's row has absorbed so much of the log, for `api.deadline_ms` at most.
    `filter` says what may be in the list, by the attributes of items and the `context`.
    `guest` is the id under which this person was known until now: the answer knows what both did.
    `placement` brings a filter and a limit of its own: both filters hold, and `limit` here goes
    before the placement's. `rules` hold besides the placement's, which go before.
    `exclude_shown` leaves out what the API's lists have held for this person lately, for `guest`
    too, as `api.shown_for_s` and `api.shown_items` say. `cursor` asks for the page after that of
    the answer it is from: no item stands on two pages, whatever has changed in between.
    `explain` says of each item what its score is the sum of. `candidates` are the only items that
    the list may hold; one that the catalogue does not have is not in it.
    """

    person: Id | None = None
    limit: Limit | None = None
    events: Events = []
    record: bool = False
    exclude: Ids = []
    min_offset: Offsets = {}
    filter: FilterText | None = None
    context: RequestContext = {}
    guest: Id | None = None
    placement: PlacementName | None = None
    rules: ListRules | None = None
    exclude_shown: bool = False
    cursor: Cursor | None = None
    explain: bool = False
    candidates: SomeIds | None = None


class RankQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A list of the caller's own, to be put in order for a person; as `RecommendationQuery`.

    What the `filter` does not allow is left out.
    """

    items: SomeIds
    person: Id | None = None
    events: Events = []
    record: bool = False
    filter: FilterText | None = None
    context: RequestContext = {}
    explain: bool = False


class SimilarQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items, such as the one of a page or those of a cart, whose like is wanted."""

    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_LIMIT)]
    limit: Limit | None = None
    exclude: Ids = []
    filter: FilterText | None = None
    context: RequestContext = {}
    placement: PlacementName | None = None
    rules: ListRules | None = None


class TogetherQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item, or those of a cart, of which it is asked what people take with them.

    Of a `person` what they have already is left out, and the list is theirs in a rollout; the other
    fields are those of `RecommendationQuery`.
    """

    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_LIMIT)]
    person: Id | None = None
    limit: Limit | None = None
    events: Events = []
    record: bool = False
    exclude: Ids = []
    filter: FilterText | None = None
    context: RequestContext = {}
    placement: PlacementName | None = None


class PopularQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is popular: overall, in one category, of what a filter allows; with a segment's people.

    `segment`: by what those did who are in it by what is said of them now.
    """

    limit: Limit | None = None
    category: Id | None = None
    filter: FilterText | None = None
    segment: PlacementName | None = None


class EventAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event: it is `accepted` once Kafka has it on all in-sync replicas.

    `event_id` is the event's own, or the one that it was given. `place` is where it stands, as
    `min_offset` of a query takes it.
    """

    accepted: bool
    event_id: str = ""
    place: Offsets = {}
    problem: Problem | None = None


class EventsAnswer(Struct, frozen=True, kw_only=True):
    """What became of each event, in the order of the request."""

    accepted: int
    refused: int
    events: list[EventAnswer]


class ListAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a list says of itself, whoever chose its items."""

    recommendation_id: str
    model_version: str
    variant: Annotated[str, Meta(max_length=MAX_VARIANT)]
    fallback: bool
    produced_time: int
    person: str | None = None
    event_age_ms: int | None = None
    rollout_id: str = ""
    failed: str = ""
    recorded: bool = False
    not_recorded: str = ""


class RecommendationAnswer(ListAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """The best items for a person, as of now.

    `variant` is the person's in a rollout. `fallback`: no version answered, these are popular
    items; `failed` says why the variant's own version did not. `event_age_ms` is the age of the
    newest event that the answer knows; missing where it knows none. `offsets` says how much of the
    log the stored row had absorbed, of the person's partitions. `missing` says how many items
    the list is short of, because nothing else may be shown. `recorded`: Kafka has the request's
    events; `not_recorded` says why it has not, where it was to. `cursor` asks for the next page; it
    is missing after the last one. `shown` says how many items were left out by `exclude_shown`; it
    is missing where the store could not say. `not_explained` says why no item has `parts`, where
    they were asked for. `placement_variant` is the
    person's where other rules of the placement are tried out; these have no revision yet.
    """

    items: list[RecommendedItem]
    offsets: Offsets = {}
    missing: int = 0
    placement: str = ""
    placement_revision: int | None = None
    cursor: str = ""
    shown: int | None = None
    placement_variant: Annotated[str, Meta(max_length=MAX_VARIANT)] = ""
    not_explained: str = ""


class KnownBy(StrEnum):
    """How it is known that an item goes with others."""

    TOGETHER = "together"
    """People take it in the same sessions."""
    SIMILAR = "similar"
    """The model finds it like them, by its text or by who takes it: new items are known by that."""
    POPULAR = "popular"
    """It is popular; nothing more is known."""


class TogetherItem(Struct, frozen=True, omit_defaults=True):
    """An item that goes with those that were asked for; `goes_with` is the one it has most with.

    Scores compare items of one `known_by`: of `together` the sum of cosines with all that was
    asked for, else as the items of other lists.
    """

    item_id: str
    score: float
    known_by: KnownBy
    goes_with: str | None = None


class TogetherAnswer(ListAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """What goes with some items: first what is taken together, then what is like them.

    `not_counted` says why nothing is known of what is taken together, where it is so for the whole
    version; the other fields are those of `RecommendationAnswer`.
    """

    items: list[TogetherItem]
    missing: int = 0
    placement: str = ""
    placement_revision: int | None = None
    not_counted: str = ""


class RankedItem(Struct, frozen=True, omit_defaults=True):
    """One place of a list in order; without a score, where the version does not know the item."""

    item_id: str
    score: float | None = None
    reason: Reason | None = None
    parts: dict[str, float] = {}


class RankAnswer(ListAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """The caller's list in order; as `RecommendationAnswer`.

    Items that the version does not know come last, in the caller's order. In a `fallback` all are
    ordered by what trends.
    """

    items: list[RankedItem]
    not_explained: str = ""


class PopularAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The items that are popular now, by decayed rates.

    Of a `segment` the rates are of its `people`: those of them who have done something since
    `counted_since`. What was done before is not counted.
    """

    items: list[RecommendedItem]
    produced_time: int
    segment: str = ""
    people: int | None = None
    counted_since: int | None = None


class PastEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of a person's history; no `item_id` where the version does not know the item."""

    type: str
    timestamp: int
    item_id: str | None = None


class PersonAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a person, and why: the counters are sums over the events, decayed to now.

    `counters`: by type of event and half-life in milliseconds; `all` is the plain count. `events`
    are the newest, ascending. `seen` items are not recommended again. `offsets` says up to where
    each partition of the log is in this row. `attributes` are what the app has said of them.
    `merged_into` is the member whom a guest has become.
    """

    person: str
    counters: dict[str, dict[str, float]]
    events: list[PastEvent]
    seen: int
    categories: int
    offsets: dict[str, int]
    attributes: Context = {}
    merged_into: str = ""


class MergeQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a guest has become; `merge_id` names the merge, by default by a new id."""

    member: Id
    merge_id: Id | None = None


class MergeAnswer(Struct, frozen=True, kw_only=True):
    """Kafka has the merge on all in-sync replicas; `place` is where it stands."""

    merge_id: str
    place: Offsets


class ErasureState(StrEnum):
    """What becomes of what is known of a person in one place."""

    REMOVED = "removed"
    """It is removed once a worker, or the trainer, has read that the person is to be forgotten."""
    EXPIRES = "expires"
    """It goes by itself; `until` says when the last of it does."""
    KEPT = "kept"
    """It is kept."""


class ErasurePlace(Struct, frozen=True, kw_only=True):
    """A place where something is known of a person; `about` says what.

    `until` is the midnight, UTC, by which the last of it is gone, in milliseconds since 1970; left
    out where it is not known.
    """

    place: str
    state: ErasureState
    about: str
    until: int | None = None


class ErasureAnswer(Struct, frozen=True, kw_only=True):
    """Kafka has on all in-sync replicas that a person is to be forgotten: a receipt.

    `offsets` are where that stands. What the person does from then on is a new person's.
    """

    person: str
    erasure_id: str
    offsets: Offsets
    places: list[ErasurePlace]


class ItemsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items of the catalogue, each whole: it replaces what was sent of it before."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=MAX_EVENTS)]


class ItemsAnswer(Struct, frozen=True, kw_only=True):
    """How many items Kafka has on all in-sync replicas."""

    accepted: int


class ItemRemovalAnswer(Struct, frozen=True, kw_only=True):
    """Kafka has it on all in-sync replicas that an item is no more; `place` is where that stands.

    What people did with it stays counted.
    """

    item_id: str
    place: Offsets


class AttributesQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the app knows of a person, whole: it replaces what was sent before."""

    attributes: Attributes


class AttributesAnswer(Struct, frozen=True, kw_only=True):
    """Kafka has the attributes on all in-sync replicas; `place` is where they stand."""

    place: Offsets


class Fallback(StrEnum):
    """What is shown where no version answers."""

    POPULAR = "popular"
    """What trends, and is allowed."""
    NOTHING = "nothing"
    """An empty list: the place is left out of the page."""


class PlacementRules(
    ListRules, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """How the lists of a place are made: what may be in them, how long they are, what stands in."""

    filter: FilterText | None = None
    limit: Limit | None = None
    fallback: Fallback = Fallback.POPULAR


class PlacementAnswer(Struct, frozen=True, kw_only=True):
    """A placement; `revision` grows with each change of any placement, and an answer names it."""

    name: str
    revision: int
    placement: PlacementRules


class RemovalAnswer(Struct, frozen=True, kw_only=True):
    """A placement or segment is no more; `revision` is that of its removal."""

    name: str
    revision: int


class PlacementsAnswer(Struct, frozen=True, kw_only=True):
    """All placements, by name."""

    placements: list[PlacementAnswer]


class TrialAction(StrEnum):
    """What can be asked of a trial that is under way."""

    PROMOTE = "promote"
    """The rules become the placement's now."""
    ROLLBACK = "rollback"
    """Everyone gets the placement's own rules now."""
    PAUSE = "pause"
    """The share stays; guards go on watching."""
    RESUME = "resume"
    """It goes on after a pause."""


Explanation = Annotated[
    str, Meta(min_length=1, max_length=1000, description="why; stays in the history")
]
Asker = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="who asks; stays in the history, beside the name of the key",
    ),
]


class SteeringQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a trial is steered, and by whom: by default whoever has the key.

    `rollout_id` says which one is meant: by default the one that is under way. `command_id` names
    what is asked: asked again under the same name it is done once.
    """

    reason: Explanation
    by: Asker | None = None
    rollout_id: Id | None = None
    command_id: Id | None = None


class TrialQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules that are tried out in place of a placement's own, all of them, and why.

    `by` and `command_id` as in `SteeringQuery`.
    """

    rules: PlacementRules
    reason: Explanation
    by: Asker | None = None
    command_id: Id | None = None


class TrialVariant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of people in a trial: its share, and the revision of its rules, if they have one.

    `shadow` lists are made and shown to nobody.
    """

    variant: Annotated[str, Meta(max_length=MAX_VARIANT)]
    share: float
    revision: int | None = None


class TrialStep(Struct, frozen=True, kw_only=True):
    """A step of a trial: what it led to, who took it, and why. `share`: of who gets the rules."""

    time: int
    state: str
    share: float
    actor: str
    reason: str


class TrialAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A trial of a placement's rules: which, beside which revision, and how it has gone so far.

    `state` is that of a rollout: shadow, running, holding, paused, promoted or rolled_back.
    """

    placement: str
    rollout_id: str
    state: str
    variants: list[TrialVariant]
    steps: list[TrialStep]
    rules: PlacementRules
    revision: int


class TrialsAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The trials of a placement, newest first.

    `refused` are the reasons for which what was asked was not done, oldest first. `breaks` say
    where the history was changed by others, a line each.
    """

    placement: str
    trials: list[TrialAnswer]
    refused: list[str] = []
    breaks: list[str] = []


class SegmentRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a segment is of: those of whom a filter over `person` and `context` is true.

    Filters and rules ask for it by its name: segment.vip.
    """

    filter: FilterText


class SegmentAnswer(Struct, frozen=True, kw_only=True):
    """A segment; `revision` grows with each change of any segment or placement."""

    name: str
    revision: int
    segment: SegmentRules


class SegmentsAnswer(Struct, frozen=True, kw_only=True):
    """All segments, by name."""

    segments: list[SegmentAnswer]


class VersionAnswer(Struct, frozen=True, kw_only=True):
    """The release that answers, and which version of the model each variant is answered by."""

    release: str
    versions: dict[str, int]


class HealthAnswer(Struct, frozen=True, kw_only=True):
    """Whether it is so, and what is missing, by name."""

    ok: bool
    missing: dict[str, str]
