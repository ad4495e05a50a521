"""Page "Placements": the rules of each place, changed, looked at before, replayed and tried out."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.admin.audit import ActionQuery, ActionReason, AuditEntry
from headwater_client.contract import (
    Fallback,
    Limit,
    PlacementAnswer,
    PlacementRules,
    RemovalAnswer,
    RequestContext,
    Scope,
    SegmentAnswer,
    TrialAnswer,
    TrialsAnswer,
)
from headwater_client.events import Id
from headwater_client.operations import Operation
from headwater_client.rules import MAX_FILTER_CHARS

MAX_RULES_CHARS = 100_000
MAX_PREVIEWED = 20
Revision = Annotated[
    int,
    Meta(
        ge=-1,
        description="the revision that the rules were made from, -1 for a new placement: where it "
        "is not the newest any more, nothing is changed",
    ),
]
FilterDraft = Annotated[
    str, Meta(max_length=MAX_FILTER_CHARS, description="what may be in the list; empty: all")
]
MoreRules = Annotated[
    str,
    Meta(
        max_length=MAX_RULES_CHARS,
        description="JSON of the rules besides, such as boosts and pins; empty: none",
    ),
]


class RulesDraft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules of a placement as they stand in an editor, whether they can be used or not."""

    filter: FilterDraft = ""
    limit: Limit | None = None
    fallback: Fallback = Fallback.POPULAR
    more: MoreRules = ""


class WordKind(StrEnum):
    """What a word of the language of filters is."""

    ATTRIBUTE = "attribute"
    """Of items."""
    PERSON = "person"
    """What apps say of people."""
    CONTEXT = "context"
    """What requests bring."""
    SEGMENT = "segment"
    FUNCTION = "function"
    OPERATOR = "operator"
    RULE = "rule"
    """A field of the rules besides the filter."""


class EditorWord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A word that an editor can complete. `values` are some of its own, as filters write them."""

    text: str
    kind: WordKind
    about: str = ""
    values: list[str] = []


class VocabularyAnswer(Struct, frozen=True, kw_only=True):
    """What filters and rules can ask for here. `missing` says what could not be told, and why."""

    words: list[EditorWord]
    missing: list[str]


class RuleFault(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with a draft: in which of its texts, and where.

    `part` is `filter` or `more`; `field` the rule, such as boosts[0].filter. `line` and `column`
    count from 1 in the expression, or in the JSON where that is none. `begin` is where the fault
    begins in the text of `part`, in characters from 0, where that can be told.
    """

    part: str
    field: str
    problem: str
    near: str = ""
    line: int | None = None
    column: int | None = None
    begin: int | None = None


class DraftAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a draft comes to: `rules` where there is no fault.

    `allowed` of `items` are in its filter; missing where that hangs on the person or the request.
    """

    faults: list[RuleFault]
    items: int
    rules: PlacementRules | None = None
    allowed: int | None = None


class PreviewQuery(RulesDraft, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose lists are wanted: by default those of people who have done something of late."""

    people: Annotated[list[Id], Meta(max_length=MAX_PREVIEWED)] = []
    count: Annotated[int, Meta(ge=1, le=MAX_PREVIEWED)] = 5
    context: RequestContext = {}


class PreviewItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place of a list. `other_place` is where the other list has the item, from 1."""

    item_id: str
    title: str = ""
    score: float = 0.0
    placed_by: str = ""
    label: str = ""
    other_place: int | None = None


class PreviewLists(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person's list by the placement's own rules, and by the draft.

    `fault` says why a list could not be made; `fallback` that no version answered.
    """

    person: str
    before: list[PreviewItem]
    after: list[PreviewItem]
    fault: str = ""
    fallback: bool = False


class PreviewAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Lists side by side. `revision` is of the rules of before; missing where there are none."""

    lists: list[PreviewLists]
    faults: list[RuleFault]
    missing: list[str]
    revision: int | None = None


class ReplayQuery(RulesDraft, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the log is replayed: of so many days, so many lists at most."""

    days: Annotated[float, Meta(gt=0, le=365)] = 7.0
    lists: Annotated[int, Meta(ge=1, le=20_000)] = 1000


class RewardEstimate(Struct, frozen=True, kw_only=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class RewardFigures(Struct, frozen=True, kw_only=True):
    """What a place would earn by an estimator, and how much more than by the rules of then."""

    estimator: str
    reward: RewardEstimate
    gain: RewardEstimate


class ReplayAnswer(Struct, frozen=True, kw_only=True):
    """What a draft would have done with the lists of the last days.

    `cannot_say` is why the log does not tell what it would have earned; "" where it does.
    `reproduced` is the share of places that the rules of then give again. `beyond` are places that
    the draft adds. `left_out` are lists that say nothing, by reason.
    """

    faults: list[RuleFault]
    days: float = 0.0
    logged: int = 0
    compared: int = 0
    changed: int = 0
    items_before: int = 0
    items_after: int = 0
    short_before: int = 0
    short_after: int = 0
    reproduced: float = 0.0
    beyond: int = 0
    of_seen: bool = False
    left_out: dict[str, int] = {}
    earned: RewardEstimate | None = None
    estimates: list[RewardFigures] = []
    cannot_say: str = ""


class PlacementFigures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A placement in one row. `trial` is the state of a change that is tried out, "" for none."""

    name: str
    revision: int
    rules: PlacementRules
    trial: str = ""
    trial_share: float = 0.0


class PlacementsOverview(Struct, frozen=True, kw_only=True):
    """The placements and segments. `missing` says what could not be told, and why."""

    placements: list[PlacementFigures]
    segments: list[SegmentAnswer]
    missing: list[str]


class RevisionFigures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revision: `rules` is missing where it has removed the placement.

    `changed` are the fields that it has changed. `ignored` says why it counts for nobody.
    """

    revision: int
    time: int
    rules: PlacementRules | None = None
    changed: list[str] = []
    is_current: bool = False
    ignored: str = ""


class PlacementDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A placement, its revisions as far as Kafka has them still, newest first, and its trials.

    `actions` are those of the console and its API, newest first. `draft` is what an editor begins
    with. `rules` and `revision` are missing where there is no placement of this name now.
    """

    name: str
    draft: RulesDraft
    revisions: list[RevisionFigures]
    trials: TrialsAnswer
    actions: list[AuditEntry]
    missing: list[str]
    rules: PlacementRules | None = None
    revision: int | None = None


class DetailsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of which revision the draft is to be; by default of the newest."""

    revision: Annotated[int, Meta(ge=0)] | None = None


class ChangeQuery(RulesDraft, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules that become the placement's, or that are tried out, and why."""

    reason: ActionReason
    follows: Revision | None = None


OPERATIONS = (
    Operation(
        "list_placement_figures",
        "GET",
        "/v1/admin/placements",
        "The placements and segments, and what is tried out of them",
        PlacementsOverview,
        Scope.VIEW,
    ),
    Operation(
        "list_editor_words",
        "GET",
        "/v1/admin/placements/vocabulary",
        "What filters and rules can ask for here: attributes, functions, segments",
        VocabularyAnswer,
        Scope.VIEW,
    ),
    Operation(
        "describe_placement",
        "GET",
        "/v1/admin/placements/{name}",
        "A placement, its revisions and its trials",
        PlacementDetails,
        Scope.VIEW,
        query=DetailsQuery,
    ),
    Operation(
        "check_draft",
        "POST",
        "/v1/admin/placements/{name}/check",
        "What is wrong with rules, and where",
        DraftAnswer,
        Scope.VIEW,
        RulesDraft,
    ),
    Operation(
        "preview_draft",
        "POST",
        "/v1/admin/placements/{name}/preview",
        "Lists of people by a placement's rules and by others, side by side",
        PreviewAnswer,
        Scope.VIEW,
        PreviewQuery,
    ),
    Operation(
        "replay_draft",
        "POST",
        "/v1/admin/placements/{name}/replay",
        "What other rules would have done with the lists of the last days",
        ReplayAnswer,
        Scope.VIEW,
        ReplayQuery,
    ),
    Operation(
        "change_placement",
        "POST",
        "/v1/admin/placements/{name}/change",
        "Make a placement, or change it whole; it counts at once",
        PlacementAnswer,
        Scope.OPERATE,
        ChangeQuery,
    ),
    Operation(
        "try_draft",
        "POST",
        "/v1/admin/placements/{name}/try",
        "Try rules out on a growing share of people",
        TrialAnswer,
        Scope.OPERATE,
        ChangeQuery,
    ),
    Operation(
        "remove_placement",
        "POST",
        "/v1/admin/placements/{name}/remove",
        "Remove a placement; whoever asks for it is refused from then on",
        RemovalAnswer,
        Scope.OPERATE,
        ActionQuery,
    ),
)
