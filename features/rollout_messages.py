"""The messages of the compacted topic `rollouts`: who gets which version, and its history.

What is tried out is a subject: a model, of which it is another version, or `placement:NAME`, of
which it is other rules. Each kind of message has its own kind of key, so that compaction keeps what
is needed:

    SUBJECT                           `Rollout`: which versions take traffic; the newest counts
    SUBJECT/lease                     `RolloutLease`: a controller watches the rollout
    SUBJECT/history/ROLLOUT/SEQUENCE  `RolloutStep`: one step of a rollout and what it was taken on
    SUBJECT/course/ROLLOUT            `RolloutCourse`: how its evidence went, the newest decision
    SUBJECT/answer/COMMAND            `RolloutAnswer`: what became of a command

`RolloutCommand`, what somebody asks of the controller, has a topic of its own, `rollout-commands`,
so that who may ask need not be allowed to route. One that stands on `rollouts` is of release 0.1.0.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, cast

from headwater_client.contract import PlacementRules
from headwater_client.events import Id, TimestampMs, decode
from msgspec import Meta, Struct, field

# Of everyone, at most: as many people see the baseline.
LARGEST_SHARE = 0.5
MAX_ADDRESS = 2048
MAX_VARIANTS = 8
MAX_SAMPLES = 160
_ROUNDING = 1e-6
_PLACEMENT = re.compile(r"placement:([a-z0-9][a-z0-9_-]{0,63})")


class Variant(StrEnum):
    """The part that a person's version plays in a rollout."""

    STABLE = "stable"
    CANARY = "canary"
    BASELINE = "baseline"
    SHADOW = "shadow"


class RolloutPhase(StrEnum):
    """Where a rollout stands; `stable` where no version is being tried out."""

    STABLE = "stable"
    SHADOW = "shadow"
    RUNNING = "running"
    HOLDING = "holding"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"

    @property
    def is_terminal(self) -> bool:
        """Whether the rollout has ended."""
        return self in (RolloutPhase.PROMOTED, RolloutPhase.ROLLED_BACK)

    @property
    def is_active(self) -> bool:
        """Whether a version is being tried out."""
        return not self.is_terminal and self is not RolloutPhase.STABLE


class RolloutAction(StrEnum):
    """What an operator or a trainer can ask of the controller."""

    START = "start"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"


class RoutedVersion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of a model, or rules of a placement, and the share of people who get it.

    `address` names its folder (with its vocabulary) for any fsspec file system. The version of
    variant `shadow` is asked for that share of people, and its answer is not shown.

    Of a placement `version` is the revision of its rules; of rules that are tried out, and have
    none yet, what it would be at least. `address` names their content, and `rules` are those that
    are tried out.
    """

    version: Annotated[int, Meta(ge=0)]
    variant: Annotated[str, Meta(min_length=1, max_length=64)]
    share: Annotated[float, Meta(ge=0, le=1)]
    address: Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS)]
    rules: PlacementRules | None = None


class Rollout(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which versions of a model take traffic; the newest message of a model counts.

    `model` is the subject: of a placement on trial it is `placement:NAME`.
    `rollout_id` names the trial of a version: whoever follows deals people into variants by it.
    `sequence` counts the trial's steps. `revision` counts the model's routing messages: one that is
    not higher than another that was read is old, wherever it stands. 0: of release 0.1.0.
    """

    model: Id
    versions: Annotated[list[RoutedVersion], Meta(min_length=1, max_length=MAX_VARIANTS)]
    phase: RolloutPhase = field(default=RolloutPhase.STABLE, name="state")
    time: TimestampMs
    rollout_id: Annotated[str, Meta(max_length=256)] = ""
    sequence: Annotated[int, Meta(ge=0)] = 0
    revision: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        names = [each.variant for each in self.versions]
        if len(set(names)) < len(names):
            raise ValueError(f"versions: variants {names}: each may stand once")
        if placement_of(self.model) is None and any(each.version < 1 for each in self.versions):
            raise ValueError("versions: version 0: expected 1 or more")
        shown = sum(each.share for each in self.versions if each.variant != Variant.SHADOW)
        if shown > 1 + _ROUNDING:
            raise ValueError(f"versions: shares add up to {shown:.0%}: at most 100 %")
        for each in self.versions:
            if each.variant in (Variant.CANARY, Variant.BASELINE) and each.share > LARGEST_SHARE:
                raise ValueError(
                    f"versions: share {each.share:.0%} of {each.variant}: at most "
                    f"{LARGEST_SHARE:.0%}"
                )

    def version_for(self, variant: str) -> RoutedVersion | None:
        """The version that a variant gets; None where nobody is in it."""
        return next((each for each in self.versions if each.variant == variant), None)

    @property
    def candidate(self) -> RoutedVersion | None:
        """The version that is tried out; None where none is."""
        return self.version_for(Variant.CANARY) or self.version_for(Variant.SHADOW)

    @property
    def needs_lease(self) -> bool:
        """Whether a controller has to watch it: a version that everyone gets needs nobody."""
        return any(each.variant != Variant.STABLE for each in self.versions)


class RolloutLease(Struct, frozen=True, kw_only=True):
    """A controller watches this rollout; without such a message for a while it is not shown.

    `sequence` counts the leases of a model: one that is not higher than another is old.
    """

    model: Id
    rollout_id: Annotated[str, Meta(max_length=256)]
    sequence: Annotated[int, Meta(ge=1)]
    time: TimestampMs


class RolloutStep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a rollout: what it led to, who took it and why, and what it was taken on.

    Attributes:
        rollout: as it stands after the step.
        actor: `controller`, or the name of who asked for it.
        snapshot: the rollout's state after the step, with the versions it compares.
        inputs: the state before, the figures and the rules; deciding again gives the same. A step
            that somebody asked for has the rules only.
        previous: SHA-256 of the step before it, as its value stands in the topic, so that a change
            of either is seen; "" for the first one, and for those of release 0.1.0.
    """

    rollout: Rollout
    actor: Annotated[str, Meta(min_length=1, max_length=256)]
    reason: str
    command_id: str = ""
    snapshot: dict[str, Any] = field(default_factory=dict, name="state")
    inputs: dict[str, Any] = {}
    previous: Annotated[str, Meta(max_length=64)] = ""


class EvidenceSample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was known of a rollout at one moment: all that it had shown and earned until then.

    Attributes:
        share: of people who saw the canary, or for whom the candidate ran in shadow mode.
        is_shadow: whether nobody saw the candidate: it is the stable version that earned.
        shown, events: recommendations, and events that earned a reward, of both variants together.
        canary_people, baseline_people: who got recommendations, about; None: not known.
        estimate: logarithm of the canary's reward over the baseline's; None: nothing is earned.
        error: its standard error.
        lower, upper: the bounds of its confidence sequence, at the error rates of the rules.
    """

    time: TimestampMs
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    is_shadow: bool = False
    shown: float = 0.0
    events: float = 0.0
    canary_people: float | None = None
    baseline_people: float | None = None
    estimate: float | None = None
    error: float | None = None
    lower: float | None = None
    upper: float | None = None


class RolloutCourse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the evidence of a rollout went. The newest message of a rollout has all of it.

    Attributes:
        time: when it was decided last, in milliseconds since 1970.
        samples: oldest first, spread over the rollout's time; more are thinned out.
        reason: of the newest decision, be it to go on.
        inputs: that this decision was taken on, as a step has them: the state, figures and rules.
    """

    model: Id
    rollout_id: Annotated[str, Meta(max_length=256)]
    time: TimestampMs
    samples: Annotated[list[EvidenceSample], Meta(max_length=MAX_SAMPLES)] = []
    reason: str = ""
    inputs: dict[str, Any] = {}


class RolloutCommand(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody asks of the controller; `signature` shows that they have the admin token.

    `rollout_id` and `sequence` say which rollout is meant, and how far it was when they looked.
    `rules` are those to try out, where the subject is a placement.
    """

    command_id: Id
    model: Id
    action: RolloutAction
    actor: Annotated[str, Meta(min_length=1, max_length=256)]
    reason: Annotated[str, Meta(min_length=1, max_length=1024)]
    time: TimestampMs
    version: Annotated[int, Meta(ge=1)] | None = None
    address: Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS)] | None = None
    signature: str = ""
    rollout_id: Annotated[str, Meta(max_length=256)] = ""
    sequence: Annotated[int, Meta(ge=0)] | None = None
    rules: PlacementRules | None = None


class RolloutAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a command; one that is refused changes nothing."""

    command_id: Id
    accepted: bool
    reason: str
    time: TimestampMs


def placement_subject(name: str) -> str:
    """What the topic calls a placement on trial.

    >>> placement_subject("cart")
    'placement:cart'
    """
    return f"placement:{name}"


def placement_of(subject: str) -> str | None:
    """The placement's name, where the subject is one; else None."""
    found = _PLACEMENT.fullmatch(subject)
    return found[1] if found else None


def history_key(rollout: Rollout) -> str:
    """The key of the step that led to this."""
    return f"{rollout.model}/history/{rollout.rollout_id}/{rollout.sequence:06}"


def course_key(model: str, rollout_id: str) -> str:
    """The key of a rollout's course."""
    return f"{model}/course/{rollout_id}"


def lease_key(model: str) -> str:
    """The key of the lease of a model's rollout."""
    return f"{model}/lease"


def command_key(model: str, command_id: str) -> str:
    """The key of a command."""
    return f"{model}/command/{command_id}"


def answer_key(model: str, command_id: str) -> str:
    """The key of its answer."""
    return f"{model}/answer/{command_id}"


_KINDS: dict[str, type[Struct]] = {
    "": Rollout,
    "lease": RolloutLease,
    "history": RolloutStep,
    "course": RolloutCourse,
    "command": RolloutCommand,
    "answer": RolloutAnswer,
}
RolloutMessage = (
    Rollout | RolloutLease | RolloutStep | RolloutCourse | RolloutCommand | RolloutAnswer
)


class RolloutRecord(NamedTuple):
    """A message of the topic as it was found.

    Attributes:
        is_trusted: it bears our signature, or none is asked for.
        digest: SHA-256 of its value, in hexadecimal.
    """

    message: RolloutMessage
    is_trusted: bool
    digest: str


def decode_rollout_message(key: str, value: bytes, model: str) -> RolloutMessage | None:
    """A message of the topic; None if it is of another subject, or of a kind not known here.

    Raises:
        EventError: the value breaks the contract; names the field.
    """
    if key != model and not key.startswith(f"{model}/"):
        return None
    kind = key[len(model) + 1 :].split("/", 1)[0]
    struct = _KINDS.get(kind)
    return cast("RolloutMessage", decode(struct, value)) if struct else None
