"""Page "Rollouts": what is tried out, what is known of it, and what can be done with it."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.admin.audit import ActionQuery
from headwater_client.contract import Scope
from headwater_client.operations import Operation

MAX_ACTOR_CHARS = 64
MAX_ROLLOUTS = 1000
ActorName = Annotated[
    str,
    Meta(
        max_length=MAX_ACTOR_CHARS,
        description="who asks, for the history; default: the name of the key",
    ),
]


class SteeringAction(StrEnum):
    """What can be asked of a rollout that is under way."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"


class RolloutSummary(Struct, frozen=True, kw_only=True):
    """A rollout in one row.

    `placement` is set where rules of a placement are tried out: then `candidate` and `stable` are
    revisions of them. `share` is of people who see the candidate, or for whom it runs in shadow
    mode. `reason` and `actor` are those of the newest step. `ended` is missing while it goes on.
    `estimate`, `lower` and `upper` are those of the newest `EvidencePoint`; `margin` is the largest
    loss that is accepted, as a fraction.
    """

    rollout: str
    state: str
    candidate: int
    stable: int
    share: float
    started: int
    reason: str
    actor: str
    placement: str = ""
    ended: int | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None


class RolloutsAnswer(Struct, frozen=True, kw_only=True):
    """Rollouts, newest first. `live` is the version that everyone gets who is in none of them.

    `breaks` says where steps of the history were changed, removed or added by others. `refused` are
    the newest commands that the controller has not carried out, with its reasons.
    """

    live: int | None
    rollouts: list[RolloutSummary]
    breaks: list[str]
    refused: list["RefusedCommand"]


class RefusedCommand(Struct, frozen=True, kw_only=True):
    """A command that changed nothing."""

    time: int
    reason: str


class RolloutsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many rollouts are asked for."""

    limit: Annotated[int, Meta(ge=1, le=MAX_ROLLOUTS)] = 50


class VariantShare(Struct, frozen=True, kw_only=True):
    """A variant: who gets what."""

    variant: str
    version: int
    share: float


class EvidencePoint(Struct, frozen=True, kw_only=True):
    """What was known at one moment: all that was shown and earned until then.

    `estimate` is the logarithm of the canary's reward over the baseline's: .1 is 10 % more, about;
    `lower` and `upper` bound it at every look together. They are missing while nothing was earned,
    as in shadow mode.
    """

    time: int
    share: float
    is_shadow: bool
    shown: float
    events: float
    canary_people: float | None = None
    baseline_people: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None


class RolloutSample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest rollout of a subject, as it moves."""

    rollout: str
    state: str
    sequence: int
    share: float
    point: EvidencePoint | None = None


class RolloutsSample(Struct, frozen=True, kw_only=True):
    """The newest rollout of each subject."""

    rollouts: list[RolloutSample]


class GuardFigures(Struct, frozen=True, kw_only=True):
    """A guard: `baseline` is missing where it has but one figure.

    `problem` says what is wrong; a guard allows for chance, so a figure beyond the `limit` need not
    be one.
    """

    name: str
    canary: float
    limit: float
    baseline: float | None = None
    problem: str = ""


class RatioFigures(Struct, frozen=True, kw_only=True):
    """Numbers that have to be alike: beyond `limit` chance does not explain `chi_squared`."""

    name: str
    canary: float
    baseline: float
    chi_squared: float
    limit: float
    problem: str = ""


class VariantFigures(Struct, frozen=True, kw_only=True):
    """What a variant has shown and earned. `people` is missing where they were not counted."""

    shown: float
    reward: float
    events: float | None
    people: float | None
    requests: int
    failed: int
    fallbacks: int
    clicked: int
    bought: int
    p99_ms: float
    coverage: int


class DecisionFigures(Struct, frozen=True, kw_only=True):
    """The newest decision, be it to go on, and all that it was taken on.

    `replayed_alike`: decided again from these figures it is the same. `of_seen`: lists count that
    people have really seen, by their impressions. `few` says of what there is too little for a
    verdict on reward. `guards_speak` once the canary has had enough requests.
    """

    time: int
    reason: str
    replayed_alike: bool
    of_seen: bool
    drift: float
    canary: VariantFigures
    baseline: VariantFigures
    guards: list[GuardFigures]
    guards_speak: bool
    ratios: list[RatioFigures]
    rules: dict[str, str]
    few: str = ""


class VerdictCase(Struct, frozen=True, kw_only=True):
    """The verdict, if the canary's true effect on reward is this one.

    `case`: `estimate`, as it looks now; `equal`, no effect; `harm`, a fifth less. `effect` is a
    fraction of the baseline's reward: .1 is 10 % more.
    """

    case: str
    effect: float
    verdict: str
    days: float


class OutlookFigures(Struct, frozen=True, kw_only=True):
    """How long a verdict takes at today's traffic.

    `events_a_day` that earn a reward, if everyone were in one of both variants. `design_effect`:
    how much larger the variance is than that of as many independent events; people are alike to
    themselves. `bound_days`: no method finds an equal canary no worse than by the margin sooner, as
    a standard error is at least 2 / sqrt(events). `assumes` says what has to stay as it is.
    """

    events_a_day: float
    design_effect: float
    bound_days: float
    cases: list[VerdictCase]
    assumes: list[str]


class StepFigures(Struct, frozen=True, kw_only=True):
    """A step of the history, and what it was taken on.

    `replayed_alike` is missing where somebody asked for it, and so nothing was decided; `problem`
    says what cannot be read.
    """

    sequence: int
    time: int
    state: str
    share: float
    actor: str
    reason: str
    replayed_alike: bool | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    problem: str = ""


class RolloutDetails(Struct, frozen=True, kw_only=True):
    """All that is known of a rollout.

    `margin` is the largest loss that is accepted, as a fraction. `steps` of the machine are the
    `shares`. `actions` are those that its state allows. `watched` is when a controller said last
    that it watches. `decision` is missing where nothing was decided on figures, `outlook` while
    nothing was earned or once there is a verdict; `no_outlook` says why.
    """

    summary: RolloutSummary
    variants: list[VariantShare]
    sequence: int
    actions: list[SteeringAction]
    margin: float | None
    shares: list[float]
    watched: int | None
    evidence: list[EvidencePoint]
    history: list[StepFigures]
    breaks: list[str]
    decision: DecisionFigures | None = None
    outlook: OutlookFigures | None = None
    no_outlook: str = ""


class StartQuery(ActionQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that is to be tried out."""

    version: Annotated[int, Meta(ge=1)]
    actor: ActorName = ""


class SteerRolloutQuery(ActionQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a rollout.

    `sequence` is the step that was seen: a `promote` or `resume` of a rollout that has moved on
    since is refused. Missing: the one that it is at.
    """

    action: SteeringAction
    actor: ActorName = ""
    sequence: Annotated[int, Meta(ge=0)] | None = None


class CommandAnswer(Struct, frozen=True, kw_only=True):
    """What the controller did: it has acted by the time of this answer."""

    command_id: str
    outcome: str
    time: int


OPERATIONS = (
    Operation(
        "list_rollouts",
        "GET",
        "/v1/admin/rollouts",
        "Rollouts of versions and of placements' rules, newest first",
        RolloutsAnswer,
        Scope.VIEW,
        query=RolloutsQuery,
    ),
    Operation(
        "start_rollout",
        "POST",
        "/v1/admin/rollouts",
        "Try a version out: load it, and give it a growing share of people while figures allow",
        CommandAnswer,
        Scope.OPERATE,
        StartQuery,
    ),
    Operation(
        "describe_rollout",
        "GET",
        "/v1/admin/rollouts/{rollout}",
        "A rollout: its evidence over time, guards, the newest decision and its inputs, history",
        RolloutDetails,
        Scope.VIEW,
    ),
    Operation(
        "steer_rollout",
        "POST",
        "/v1/admin/rollouts/{rollout}",
        "Promote, roll back, pause or resume a rollout",
        CommandAnswer,
        Scope.OPERATE,
        SteerRolloutQuery,
    ),
)
