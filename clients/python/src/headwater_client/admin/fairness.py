"""Fairness and harm: who and what is shown how often, and a report to hand on.

Figures are of the newest lists and interactions of a window; `ExposureWindow` says how many.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.contract import Scope
from headwater_client.operations import Operation


class ListSource(StrEnum):
    """Which lists are looked at."""

    SERVED = "served"
    """What the API has answered."""
    RECOMMENDATIONS = "recommendations"
    """What workers have sent after events."""


class FairnessQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lists are looked at: by default those that the API has answered, where there are any.

    `placement`: of this place alone.
    """

    source: ListSource | None = None
    placement: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class ExposureWindow(Struct, frozen=True, kw_only=True):
    """What was looked at: the newest lists, up to `hours` old, of `in_log` that Kafka has.

    `people` have got these lists; `clicks` are the interactions of the same time, of all people.
    `skipped` lists came faster than they were read.
    """

    source: ListSource
    placement: str
    lists: int
    shown: int
    people: int
    clicks: int
    in_log: int
    skipped: int
    hours: float
    oldest_time: int | None
    newest_time: int | None


class Concentration(Struct, frozen=True, kw_only=True):
    """How the places of lists are shared among the items of the catalogue.

    `coverage`: the part of the `catalogue`, of items that may be recommended, that was shown;
    `coverage_possible`: as much of it as so many places could show. `gini` of how often each item
    of the catalogue was shown: 0 where all are shown alike, 1 where one is shown alone;
    `gini_shown` of the items that were shown. `gini_by_place` counts a place r as 1 / log2(1 + r).

    The long tail is what is left of the catalogue beside the `head` items that, most first, have
    `tail_quantile` of all `clicks`. `tail_share` is its part of the places, `tail_clicks` of the
    clicks; both are missing where nothing was clicked.
    """

    catalogue: int
    shown_items: int
    coverage: float
    coverage_possible: float
    gini: float
    gini_shown: float
    gini_by_place: float
    tail_quantile: float
    head: int
    tail_share: float | None
    tail_clicks: float | None


class ShareLine(Struct, frozen=True, kw_only=True):
    """A category, or a supplier: its share of the catalogue, of what is shown, of what is clicked.

    An item of several counts for each of them, in equal parts. `ratio`: shown to clicked, missing
    where nothing of it was clicked.
    """

    name: str
    catalogue: float
    shown: float
    clicked: float
    ratio: float | None


class ShareTable(Struct, frozen=True, kw_only=True):
    """Shares by an attribute of items, the largest first; `left_out`: smaller ones, and theirs."""

    by: str
    lines: list[ShareLine]
    left_out: int
    left_out_shown: float


class Repetition(Struct, frozen=True, kw_only=True):
    """Lists that repeat. A pair is a person's list and their next one.

    `same`: the same items in the same order; `overlap`: items that both have, of the shorter one,
    on average. `longest_run`: so many times one person got the same list in a row; `stuck_people`
    got one at least `run_length` times. `common_list_people` of all people got the one list that
    most people got; `between_people`: the overlap of the newest lists of two people, on average.
    `common_titles` of its items, by their ids: of those that have one.
    """

    pairs: int
    same: int
    overlap: float | None
    longest_run: int
    run_length: int
    stuck_people: int
    people: int
    distinct_lists: int
    common_list: list[str]
    common_list_people: int
    between_people: float | None
    common_titles: dict[str, str] = {}


class BlockedFinding(Struct, frozen=True, kw_only=True):
    """A word, or a category, that is not to be shown, in what was shown: how often, and where."""

    kind: str
    blocked: str
    items: int
    shown: int
    examples: list["BlockedExample"]


class BlockedExample(Struct, frozen=True, kw_only=True):
    """An item that was shown, and its title."""

    item_id: str
    title: str
    shown: int


class GroupLine(Struct, frozen=True, kw_only=True):
    """People with the same value of an attribute, never fewer than `least_group` of them."""

    name: str
    people: int
    lists: int
    clicks: int
    items: int
    tail_share: float | None
    gini: float
    fallbacks: float
    clicks_per_list: float


class GroupTable(Struct, frozen=True, kw_only=True):
    """What groups of people are shown.

    `merged` values have fewer people than a group may, and are told as one, or not at all.
    `not_told` people belong to groups so small that nothing is said of them.
    """

    by: str
    least_group: int
    lines: list[GroupLine]
    merged: int
    not_told: int


class ReasonShare(Struct, frozen=True, kw_only=True):
    """Why items stood in the lists: `history`, `trending`, `popular`, or by which rule."""

    reason: str
    share: float


class FairnessAlert(Struct, frozen=True, kw_only=True):
    """One finding: what it is, and what to do. `link` leads to its place on the page."""

    check: str
    title: str
    detail: str
    link: str
    remedy: str


class FairnessAnswer(Struct, frozen=True, kw_only=True):
    """Who and what is shown how often, against what is clicked."""

    window: ExposureWindow
    concentration: Concentration | None
    shares: list[ShareTable]
    repetition: Repetition
    blocked: list[BlockedFinding]
    groups: GroupTable | None
    reasons: list[ReasonShare]
    alerts: list[FairnessAlert]
    notes: list[str]
    computed_time: int


class MainParameter(Struct, frozen=True, kw_only=True):
    """A criterion that decides what is suggested: what it is, and why it weighs what it does.

    `measured` is what the log says of its weight; "" where it says nothing.
    """

    name: str
    explanation: str
    importance: str
    measured: str = ""


class RecipientOption(Struct, frozen=True, kw_only=True):
    """How whoever uses the service can change or influence what they are suggested."""

    name: str
    explanation: str
    how: str


class SystemDescription(Struct, frozen=True, kw_only=True):
    """One recommender system as its users meet it: a placement, or the lists of no placement."""

    placement: str
    revision: int | None
    parameters: list[MainParameter]
    options: list[RecipientOption]


class LiveVersionFacts(Struct, frozen=True, kw_only=True):
    """What is known of the version of the model that answers; nothing where none does."""

    version: int
    trained_until: int | None = None
    created_time: int | None = None
    items: int = 0
    parent: int | None = None


class DisclosurePart(Struct, frozen=True, kw_only=True):
    """A demand of the law, where it stands, and where it is met: here, or by the provider."""

    article: str
    demand: str
    met_by: str


class FairnessReport(Struct, frozen=True, kw_only=True):
    """A report to hand on: what Article 27 of Regulation (EU) 2022/2065 asks for, and the figures.

    `systems` is the text for terms and conditions, from the settings, the placements' rules and the
    live version. `to_complete` is what only the provider of the service can say.
    """

    generated_time: int
    release: str
    version: LiveVersionFacts | None
    systems: list[SystemDescription]
    demands: list[DisclosurePart]
    to_complete: list[str]
    fairness: FairnessAnswer | None
    not_measured: str


OPERATIONS = (
    Operation(
        "measure_fairness",
        "GET",
        "/v1/admin/fairness",
        "Who and what is shown how often, against what is clicked",
        FairnessAnswer,
        Scope.VIEW,
        query=FairnessQuery,
    ),
    Operation(
        "report_fairness",
        "GET",
        "/v1/admin/fairness/report",
        "A report to hand on, with the text that Article 27 of the Digital Services Act asks for",
        FairnessReport,
        Scope.VIEW,
        query=FairnessQuery,
    ),
)
