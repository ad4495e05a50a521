"""Page "Models": the versions of the model, where each comes from, and how good it is."""

from enum import StrEnum

from msgspec import Struct

from headwater_client.contract import Scope
from headwater_client.operations import Operation


class VersionState(StrEnum):
    """What becomes of a version now.

    `live`: everyone gets it, or who is not in a rollout. `canary`, `shadow`: it is tried out.
    `loaded`: Triton has it, and nobody gets it. `stored`: it is in the model repository. `kept`: it
    was refused by Triton or by the controller, and can be published later. `refused`: it did not
    pass the gate, and was never stored. `removed`: it is gone. `broken`: its folder cannot be read.
    """

    LIVE = "live"
    CANARY = "canary"
    SHADOW = "shadow"
    LOADED = "loaded"
    STORED = "stored"
    KEPT = "kept"
    REFUSED = "refused"
    REMOVED = "removed"
    BROKEN = "broken"


class JudgedFigures(Struct, frozen=True, kw_only=True):
    """Hit rate and NDCG of held-out events."""

    events: int
    hr_at_10: float
    ndcg_at_10: float
    hr_at_50: float


class CheckFigures(Struct, frozen=True, kw_only=True):
    """One check of the gate; `value` and `limit` are missing where nothing was measured."""

    name: str
    passed: bool
    reason: str
    value: float | None = None
    limit: float | None = None


class VerdictFigures(Struct, frozen=True, kw_only=True):
    """Whether a version passed the gate, and why.

    `beside` is the version that it was set beside; missing: decayed popularity was. `events` were
    held out, of so many `people`.
    """

    passed: bool
    time: int
    events: int
    people: int
    candidate: JudgedFigures
    reference: JudgedFigures
    checks: list[CheckFigures]
    beside: int | None = None


class VersionSummary(Struct, frozen=True, kw_only=True):
    """A version in one row.

    `problem` says why it is broken. `created_time` and the time of the newest event that it has
    learned from are milliseconds since 1970. `held_out` is the NDCG@10 of its training. `passed` is
    the gate's verdict; missing where it was not judged, as a first version is not. `forms` are
    those that it can be served in.
    """

    version: int
    state: VersionState
    problem: str = ""
    created_time: int | None = None
    trained_until: int | None = None
    parent: int | None = None
    windows: list[int] = []
    size_bytes: int | None = None
    held_out: float | None = None
    passed: bool | None = None
    forms: list[str] = []


class QualityFigures(Struct, frozen=True, kw_only=True):
    """Quality of what was live, on a window that nobody had learned from: prequential NDCG@10.

    `popularity` is that of decayed popularity on the same events. `candidate` and `reference` are
    of the events that judged the version made of that window, and of the live one beside it.
    """

    time: int
    version: int
    passed: bool
    events: int
    candidate: float
    reference: float
    live: int | None = None
    foreseen: float | None = None
    popularity: float | None = None


class ModelsAnswer(Struct, frozen=True, kw_only=True):
    """The versions, newest first, and how good they were over time, oldest first.

    `rollout` is what is tried out now, "" for nothing. `missing` says what could not be told, and
    what to do about it.
    """

    live: int | None
    rollout: str
    versions: list[VersionSummary]
    quality: list[QualityFigures]
    missing: list[str]


class EpochFigures(Struct, frozen=True, kw_only=True):
    """An epoch of training: `member` counts the members of an ensemble."""

    epoch: int
    member: int
    held_out: float
    loss: float | None = None


class FileFigures(Struct, frozen=True, kw_only=True):
    """A file of a version."""

    name: str
    size_bytes: int
    sha256: str


class FormFigures(Struct, frozen=True, kw_only=True):
    """A form that a version is, or can be, served in, beside its graph in float32.

    `overlap` is the share of the best 10 that both have; `ndcg` and `graph_ndcg` are NDCG@10 of
    held-out events. `refusal` says why it is not used.
    """

    form: str
    serves: bool
    refusal: str = ""
    overlap: float | None = None
    ndcg: float | None = None
    graph_ndcg: float | None = None


class PartFigures(Struct, frozen=True, kw_only=True):
    """What a part of the score is worth: NDCG@10 of held-out events, and without the part."""

    part: str
    ndcg: float
    without: float


class ModelDetails(Struct, frozen=True, kw_only=True):
    """All that is known of a version.

    `verdict` is missing where the gate did not judge it. `curve` has no epoch where its release did
    not keep them. `parts` is empty where no ablation was measured. `settings` are those that it was
    trained with, by section.
    """

    summary: VersionSummary
    code_revision: str
    architecture: dict[str, str]
    seconds: float | None
    metrics: dict[str, float]
    verdict: VerdictFigures | None
    curve: list[EpochFigures]
    files: list[FileFigures]
    forms: list[FormFigures]
    parts: list[PartFigures]
    settings: dict[str, dict[str, str]]


OPERATIONS = (
    Operation(
        "list_models",
        "GET",
        "/v1/admin/models",
        "The versions of the model, and their quality over time",
        ModelsAnswer,
        Scope.VIEW,
    ),
    Operation(
        "describe_model",
        "GET",
        "/v1/admin/models/{version}",
        "A version: what it comes from, its verdict, curves, files and forms",
        ModelDetails,
        Scope.VIEW,
    ),
)
