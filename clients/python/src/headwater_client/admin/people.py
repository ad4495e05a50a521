"""People and items at the console: what is known, what was sent, why, and what if."""

from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.admin.audit import ActionQuery
from headwater_client.contract import (
    KnownBy,
    Limit,
    Offsets,
    PlacementName,
    PlacementRules,
    RequestContext,
    Scope,
)
from headwater_client.events import EARLIEST_TIMESTAMP_MS, Context, Id, Item, Reason
from headwater_client.operations import Operation
from headwater_client.rules import FilterText

MAX_LEFT_OUT = 100
MAX_SENT = 200
MAX_HOURS = 31 * 24

Place = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._-]{1,249}/[0-9]{1,9}/[0-9]{1,18}$",
        description="where an event stands in the log: TOPIC/PARTITION/OFFSET",
    ),
]
AskedTime = Annotated[
    int,
    Meta(ge=EARLIEST_TIMESTAMP_MS, le=4_102_444_800_000, description="milliseconds UTC since 1970"),
]
Counters = dict[str, dict[str, float]]
Hours = Annotated[float, Meta(gt=0, le=MAX_HOURS, description="how far back to look, in hours")]


class RecentPerson(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody who got a list lately, and the first item of it."""

    person: str
    time: int
    item_id: str = ""
    title: str = ""


class RecentPeopleAnswer(Struct, frozen=True, kw_only=True):
    """People who got lists lately, the newest first: a few of each partition."""

    people: list[RecentPerson]


class PeopleQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many people are asked for."""

    limit: Limit = 20


class HistoryEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of a person's row or log.

    `place` is where it stands in the log: an event without it is in the row alone. `item_id` is
    empty where no version and no catalogue knows the item. `arrived` is when Kafka took it.
    """

    type: str
    timestamp: int
    item_id: str = ""
    title: str = ""
    place: str = ""
    event_id: str = ""
    arrived: int | None = None


class CategoryCounters(Struct, frozen=True, kw_only=True):
    """What a person takes to: decayed counts of a category by half-life in milliseconds.

    `category` is empty where the catalogue has no such category any more.
    """

    category: str
    counters: dict[str, float]


class SegmentMembership(Struct, frozen=True, kw_only=True):
    """Whether a person is of a segment: what cannot be decided is false."""

    name: str
    is_member: bool


class PersonProfileAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a person, as of now.

    `counters` are by type of event and half-life in milliseconds, decayed to `time`; `all` is the
    plain count. `events` are the newest first. `sequence` says how much of the log the row knows.
    `missing` says what of the person's log could not be read, and `differences` in what the row
    differs from what the log makes of it. `is_masked`: ids and attributes are not shown to this
    key. `versions` and `placements` are those that a list could be asked by.
    """

    person: str
    time: int
    counters: Counters
    categories: list[CategoryCounters]
    events: list[HistoryEvent]
    seen: int
    segments: list[SegmentMembership]
    attributes: Context
    sequence: int
    offsets: Offsets
    version: int | None = None
    variant: str = ""
    rollout_id: str = ""
    merged_into: str = ""
    missing: list[str] = []
    differences: list[str] = []
    is_masked: bool = False
    versions: dict[str, int] = {}
    placements: list[str] = []


class ExplainedItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place of a list, and why the item stands there.

    `parts` are what the score is the sum of. `reason_title` is of the past item that explains it.
    """

    item_id: str
    score: float
    reason: Reason
    title: str = ""
    reason_title: str = ""
    parts: dict[str, float] = {}
    placed_by: str = ""
    label: str = ""


class AskedList(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list that was made to be looked at: nobody was sent it, and nothing of it is kept."""

    time: int
    items: list[ExplainedItem]
    model_version: str
    variant: str
    fallback: bool
    failed: str = ""
    missing: int = 0
    placement: str = ""
    placement_revision: int | None = None


class WhatIfQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's list as it would be, had something else happened, or been asked.

    `leave_out` names events of their log. `at` asks as of another time: what happened later is left
    out, and what was before has decayed until then. `version` is asked instead of the person's own,
    and the rules of `placement` make the list.
    """

    person: Id
    leave_out: Annotated[list[Place], Meta(max_length=MAX_LEFT_OUT)] = []
    at: AskedTime | None = None
    version: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    placement: PlacementName | None = None
    filter: FilterText | None = None
    context: RequestContext = {}
    limit: Limit | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is to be otherwise."""
        return bool(self.leave_out or self.at or self.version or self.placement or self.filter)


class ItemMove(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an item stands in two lists, from 1 on; None where it is not in one of them."""

    item_id: str
    title: str = ""
    place_before: int | None = None
    place_after: int | None = None
    score_before: float | None = None
    score_after: float | None = None


class WhatIfAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two lists: as it is now, and as it would be; `after` is missing where nothing was changed.

    `moves` has the items of both, in the order of `after`. `notes` say what has to be known to
    read this.
    """

    person: str
    before: AskedList
    after: AskedList | None = None
    moves: list[ItemMove] = []
    left_out: list[HistoryEvent] = []
    counters_before: Counters = {}
    counters_after: Counters = {}
    notes: list[str] = []


class LoadVersionQuery(ActionQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is to be loaded beside those that answer, and why."""

    version: Annotated[int, Meta(ge=1, le=1 << 31)]


class LoadedVersionAnswer(Struct, frozen=True, kw_only=True):
    """Triton has a version: it stays loaded until the trainer brings the next one live."""

    version: int


class SentList(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list that a person got, where it stands in the log, and when Kafka took it.

    `event` is the event that led to it: none did to a list that the API was asked for.
    """

    recommendation_id: str
    place: str
    time: int
    produced_time: int
    items: list[ExplainedItem]
    model_version: str
    variant: str
    fallback: bool
    event: str = ""
    event_id: str = ""
    event_time: int
    sequence: int | None = None
    failed: str = ""
    missing: int = 0
    rollout_id: str = ""
    placement: str = ""
    placement_revision: int | None = None


class SentListsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose lists are asked for, and of which time."""

    person: Id
    hours: Hours = 24.0
    limit: Annotated[int, Meta(ge=1, le=MAX_SENT)] = 20


class SentListsAnswer(Struct, frozen=True, kw_only=True):
    """The newest lists of a person. `since` says by topic how far back was looked.

    A topic that has nothing since the moment that was asked for has no time there.
    """

    person: str
    lists: list[SentList]
    since: dict[str, int | None]


class ReproductionQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose the list is, and how far back it may be."""

    person: Id
    hours: Hours = 24.0 * 7


class PastRow(Struct, frozen=True, kw_only=True):
    """A person's row as it was when a list was made: made again of the log.

    `events` are the newest that the model reads, the newest first.
    """

    sequence: int
    offsets: Offsets
    reference_time: int
    counters: Counters
    events: list[HistoryEvent]
    seen: int


class ReproducedItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item of a list, as it was sent and as the version answers again.

    `model_score` is the sum of `parts`: what the version makes of the row and the moment. What the
    score had besides is `trends_then`: what trended, and is not in the log. `trends_now` is what it
    would be now. `boosts` are of the placement's rules.
    """

    item_id: str
    score: float
    reason: Reason
    title: str = ""
    model_score: float | None = None
    parts: dict[str, float] = {}
    trends_then: float | None = None
    trends_now: float | None = None
    boosts: float = 0.0
    reason_again: Reason | None = None
    has_trended: bool = True


class Equality(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was made again: whether it has to be equal, and whether it is.

    `is_equal` is missing where there is nothing to compare.
    """

    what: str
    must_be: bool
    why: str
    is_equal: bool | None = None


class ReproductionAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list that was sent, and all that made it, made again from the log.

    `version_problem`, `rules_problem`: why the version cannot be asked, or its rules are not known.
    `now` is the list that the same row, moment, version and rules make with what trends and is for
    sale now. `notes` say what of the log is missing.
    """

    person: str
    sent: SentList
    row: PastRow
    items: list[ReproducedItem]
    equalities: list[Equality]
    rules: PlacementRules | None = None
    now: AskedList | None = None
    version_problem: str = ""
    rules_problem: str = ""
    notes: list[str] = []


class ItemsQueryText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an item's id or title holds; nothing: the items that trend."""

    text: Annotated[str, Meta(max_length=500)] = ""
    limit: Limit = 20


class ListedItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item by name; `popularity` is its decayed count, where it trends."""

    item_id: str
    title: str = ""
    available: bool = True
    popularity: float | None = None


class ItemsFoundAnswer(Struct, frozen=True, kw_only=True):
    """Items whose id or title holds a text: the exact id first, then what trends most."""

    items: list[ListedItem]
    known: int
    """How many items there are in all."""


class ItemRate(Struct, frozen=True, kw_only=True):
    """How often an item is used: the decayed count of a type of event by one half-life.

    `per_day` is the rate that would keep the count where it is: count * ln 2 / half-life.
    """

    type: str
    half_life_ms: int
    count: float
    per_day: float


class ItemVersion(Struct, frozen=True, kw_only=True):
    """What a version that answers knows of an item: its text, or its events, too."""

    version: int
    variant: str
    is_known: bool
    is_learned: bool


class NeighbourItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item that goes with another one, and how that is known."""

    item_id: str
    score: float
    known_by: KnownBy
    title: str = ""


class ItemProfileAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an item, as of now.

    `item` is missing where the catalogue says nothing of it. `counts` are plain counts by type of
    event. `trending_place` counts from 1.
    """

    item_id: str
    time: int
    available: bool
    rates: list[ItemRate]
    counts: dict[str, float]
    versions: list[ItemVersion]
    together: list[NeighbourItem]
    similar: list[NeighbourItem]
    item: Item | None = None
    trending_place: int | None = None
    together_problem: str = ""
    similar_problem: str = ""


class ItemShowing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list that had an item: whose it was, at which place it stood, from 1 on, and why."""

    person: str
    time: int
    place: int
    item: ExplainedItem
    recommendation_id: str
    model_version: str
    variant: str
    placement: str = ""


class ItemShowingsAnswer(Struct, frozen=True, kw_only=True):
    """Where an item stood lately, the newest first.

    `looked_at` lists were looked at, the newest of each partition: `oldest_time` is that of the
    oldest of them. `found` of them had the item. `showings` are one of each person.
    """

    item_id: str
    looked_at: int
    oldest_time: int | None
    found: int
    showings: list[ItemShowing]


class ItemShowingsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many people are asked for."""

    limit: Limit = 10


OPERATIONS = (
    Operation(
        "list_people",
        "GET",
        "/v1/admin/people",
        "People who got lists lately",
        RecentPeopleAnswer,
        Scope.VIEW,
        query=PeopleQuery,
    ),
    Operation(
        "show_person",
        "GET",
        "/v1/admin/people/{person}",
        "What is known of a person: history, counters, categories, segments",
        PersonProfileAnswer,
        Scope.VIEW,
    ),
    Operation(
        "ask_what_if",
        "POST",
        "/v1/admin/what-if",
        "A person's list as it is, and as it would be: nothing is stored, nobody is sent it",
        WhatIfAnswer,
        Scope.VIEW,
        WhatIfQuery,
    ),
    Operation(
        "load_past_version",
        "POST",
        "/v1/admin/past-versions",
        "Load a version beside those that answer, to ask it what if",
        LoadedVersionAnswer,
        Scope.OPERATE,
        LoadVersionQuery,
    ),
    Operation(
        "list_sent",
        "GET",
        "/v1/admin/recommendations",
        "The lists that a person got",
        SentListsAnswer,
        Scope.VIEW,
        query=SentListsQuery,
    ),
    Operation(
        "reproduce_list",
        "GET",
        "/v1/admin/recommendations/{recommendation_id}",
        "All that made a list that was sent, made again from the log",
        ReproductionAnswer,
        Scope.VIEW,
        query=ReproductionQuery,
    ),
    Operation(
        "find_items",
        "GET",
        "/v1/admin/items",
        "Items by what their id or title holds",
        ItemsFoundAnswer,
        Scope.VIEW,
        query=ItemsQueryText,
    ),
    Operation(
        "show_item",
        "GET",
        "/v1/admin/items/{item}",
        "What is known of an item: text, rates, what goes with it",
        ItemProfileAnswer,
        Scope.VIEW,
    ),
    Operation(
        "list_showings",
        "GET",
        "/v1/admin/items/{item}/recommendations",
        "Whose lists an item stood in lately, and why",
        ItemShowingsAnswer,
        Scope.VIEW,
        query=ItemShowingsQuery,
    ),
)
