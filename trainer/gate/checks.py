"""The verdict on a version: a check for each way in which it can be bad. Pure. M events.

Verdicts are kept beside the version, and in a log of all, refused ones too.
"""

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import structlog
from headwater_client.errors import DataError
from msgspec import Struct

from features.schema import Float64Array, Int64Array
from trainer.metrics import RankingMetrics, draw_people, ndcg, ranking_metrics
from trainer.settings import GateSettings

WINDOW = "window"
# What a version has from its events.
OF_MODEL = ("quality", "finite", "norms", "coverage")


@dataclass(frozen=True)
class MethodRanking:
    """What one method made of the held-out events.

    Attributes:
        ranks: float64[M], of the right items; infinite for a missed one.
        items: how many different items were among the best 10 of a request.
    """

    ranks: Float64Array
    items: int


@dataclass(frozen=True)
class WeightGrowth:
    """The weight matrix that grew most beside the live version's, and by which factor."""

    matrix: str
    factor: float


@dataclass(frozen=True)
class Foresight:
    """What the live version made of the whole new window, before anyone learned from it.

    Attributes:
        people: int64[M], whose each of its events is, in any numbering.
        live, popularity: float64[M], ranks of the right items; of popularity that fades.
    """

    people: Int64Array
    live: Float64Array
    popularity: Float64Array


@dataclass(frozen=True)
class GateMeasurements:
    """A candidate beside the live version, or beside decayed popularity where none is live.

    Attributes:
        live: the number of the live version, None where there is none.
        people: int64[M], whose each held-out event is, in any numbering.
        catalogue: how many items there are.
        foresight: None without a live version or a window.
        growth: None without a live version of the same shape.
        mismatch: how the graph differs from the model; None where it does not.
        latency_ms: of the graph for a batch; None where it differs, and was not run.
        live_latency_ms: in turns with that; None also without a live version.
        without: NDCG@10 of the candidate without one part of its scores, by the part.
    """

    version: int
    live: int | None
    time_ms: int
    people: Int64Array
    candidate: MethodRanking
    reference: MethodRanking
    catalogue: int
    foresight: Foresight | None
    broken_weights: int
    broken_scores: int
    growth: WeightGrowth | None
    mismatch: str | None
    latency_ms: float | None
    live_latency_ms: float | None
    without: Mapping[str, float] = field(default_factory=dict)


class GateCheck(Struct, frozen=True):
    """One check; `value` and `limit` are None where there is nothing to measure or compare with."""

    name: str
    passed: bool
    reason: str
    value: float | None = None
    limit: float | None = None


class ForesightMetrics(Struct, frozen=True):
    """Prequential quality: NDCG@10 of a window before anyone had learned from it.

    Attributes:
        live, popularity: of the live version, and of popularity that fades.
    """

    events: int
    live: float
    popularity: float


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether a version may leave the trainer, and why.

    Attributes:
        live: the version that it was set beside; None: decayed popularity was.
        time_ms: when it was measured.
        events: held out, of so many people.
        candidate, reference: figures on those.
        foresight: of the new window; None without a live version, and in verdicts of release 0.2.0.
        without: NDCG@10 of the candidate where one part of its scores is left out, by the part: an
            ablation, not trained anew.
    """

    version: int
    live: int | None
    time_ms: int
    passed: bool
    events: int
    people: int
    candidate: RankingMetrics
    reference: RankingMetrics
    checks: list[GateCheck]
    foresight: ForesightMetrics | None = None
    without: dict[str, float] = {}

    @property
    def doubts_window(self) -> bool:
        """Whether the events themselves are what stops it."""
        return any(check.name == WINDOW and not check.passed for check in self.checks)

    @property
    def doubts_model(self) -> bool:
        """Whether what it learned is worse, and not only what runs it."""
        return any(check.name in OF_MODEL and not check.passed for check in self.checks)

    @property
    def refusals(self) -> list[str]:
        """Why it is stopped, a line a check."""
        return [f"{check.name}: {check.reason}" for check in self.checks if not check.passed]


def verdict(measured: GateMeasurements, settings: GateSettings) -> Verdict:
    """What the numbers say under these limits; all checks are made, whichever fails."""
    checks = [
        _quality(measured, settings),
        _finite(measured),
        _norms(measured, settings),
        _coverage(measured, settings),
        _latency(measured, settings),
        _parity(measured),
        _window(measured, settings),
    ]
    return Verdict(
        version=measured.version,
        live=measured.live,
        time_ms=measured.time_ms,
        passed=all(check.passed for check in checks),
        events=len(measured.people),
        people=len(np.unique(measured.people)),
        candidate=ranking_metrics(measured.candidate.ranks),
        reference=ranking_metrics(measured.reference.ranks),
        checks=checks,
        foresight=_foresight_metrics(measured.foresight),
        without=dict(measured.without),
    )


def _foresight_metrics(found: Foresight | None) -> ForesightMetrics | None:
    if found is None or not len(found.people):
        return None
    means = (float(ndcg(ranks).mean()) for ranks in (found.live, found.popularity))
    return ForesightMetrics(len(found.people), *means)


def _quality(measured: GateMeasurements, settings: GateSettings) -> GateCheck:
    events = len(measured.people)
    if events < settings.min_events:
        why = f"{events} held-out events, fewer than {settings.min_events}: nothing is concluded"
        return GateCheck("quality", False, why)
    ours, theirs = ndcg(measured.candidate.ranks), ndcg(measured.reference.ranks)
    sure = probability_worse(ours, theirs, measured.people, settings.margin)
    why = (
        f"NDCG@10 {ours.mean():.4f}, {_reference(measured)} {theirs.mean():.4f}: below "
        f"{1 - settings.margin:.0%} of that in {sure:.1%} of draws"
    )
    return GateCheck("quality", sure < settings.confidence, why, sure, settings.confidence)


def _finite(measured: GateMeasurements) -> GateCheck:
    weights, scores = measured.broken_weights, measured.broken_scores
    why = f"{weights} weights and {scores} scores are no finite numbers"
    return GateCheck("finite", not weights + scores, why, weights + scores, 0)


def _norms(measured: GateMeasurements, settings: GateSettings) -> GateCheck:
    if measured.growth is None:
        return GateCheck("norms", True, "no live version to compare with")
    factor, limit = measured.growth.factor, settings.max_growth
    why = f"{measured.growth.matrix} has {factor:.3g} times the live version's norm"
    return GateCheck("norms", factor <= limit, why, factor, limit)


def _coverage(measured: GateMeasurements, settings: GateSettings) -> GateCheck:
    ours = measured.candidate.items / measured.catalogue
    theirs = measured.reference.items / measured.catalogue
    limit = settings.min_coverage * theirs
    why = f"{ours:.2%} of the catalogue in the best 10, {_reference(measured)} {theirs:.2%}"
    return GateCheck("coverage", ours >= limit, why, ours, limit)


def _latency(measured: GateMeasurements, settings: GateSettings) -> GateCheck:
    ours, theirs = measured.latency_ms, measured.live_latency_ms
    slowest = math.inf if theirs is None else settings.max_slowdown * theirs
    limit = min(settings.max_latency_ms, slowest)
    if ours is None:
        return GateCheck("latency", False, "not run: see parity", None, limit)
    beside = "" if theirs is None else f", the live version {theirs:.2f} ms"
    return GateCheck("latency", ours <= limit, f"{ours:.2f} ms a batch{beside}", ours, limit)


def _parity(measured: GateMeasurements) -> GateCheck:
    why = measured.mismatch or "the graph answers as the model does"
    return GateCheck("parity", measured.mismatch is None, why)


def _window(measured: GateMeasurements, settings: GateSettings) -> GateCheck:
    """Learning from garbage cannot be seen on garbage: nothing is right there."""
    found = measured.foresight
    if found is None or len(found.people) < settings.min_events:
        return GateCheck(WINDOW, True, "no live version, or too few new events to ask it about")
    ours, theirs = ndcg(found.live), ndcg(found.popularity)
    doubt = probability_worse(ours, theirs, found.people, 0.0)
    why = (
        f"live version {measured.live} foresaw it with NDCG@10 {ours.mean():.4f}, decayed "
        f"popularity {theirs.mean():.4f}: below that in {doubt:.1%} of draws"
    )
    return GateCheck(WINDOW, doubt <= settings.max_doubt, why, doubt, settings.max_doubt)


def _reference(measured: GateMeasurements) -> str:
    return "decayed popularity" if measured.live is None else f"live version {measured.live}"


def probability_worse(
    candidate: Float64Array, reference: Float64Array, people: Int64Array, margin: float
) -> float:
    """How sure it is that the candidate is worse by more than a margin: a share of draws.

    People are drawn with all their events, as often as there are people: a paired bootstrap (P.
    Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004).

    Args:
        candidate, reference: float64[M], the gain of each event.
        people: int64[M], whose each is.
        margin: a share of the reference's mean gain.

    >>> ours, theirs = np.array([0.0, 0.5, 0.5, 0.5]), np.array([0.5, 0.5, 0.5, 0.5])
    >>> probability_worse(ours, theirs, np.arange(4), margin=0.0) > 0.6
    True
    >>> probability_worse(theirs, ours, np.arange(4), margin=0.0)
    0.0
    """
    if not len(people):
        return 0.0
    who, draws = draw_people(people)
    ahead = np.bincount(who, candidate - (1 - margin) * reference)
    return float((ahead[draws].sum(1) < 0).mean())


EVALUATION = "evaluation.json"
VERDICTS = "verdicts.jsonl"

log = structlog.get_logger()


def encode_verdict(verdict: Verdict) -> bytes:
    """What `evaluation.json` beside a version holds; numbers that are none are null."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=2)


def record_verdict(verdict: Verdict, path: Path) -> None:
    """Add a line to the log of verdicts, and say what came out.

    Raises:
        DataError: the log cannot be written; it is as it was.
    """
    try:
        _append(path, msgspec.json.encode(verdict) + b"\n")
    except OSError as error:
        raise DataError(
            f"{path}: the verdict on version {verdict.version} cannot be written: "
            f"{error.strerror}: make room, or let the folder be written"
        ) from error
    if verdict.passed:
        log.info("version_passed", version=verdict.version, live=verdict.live)
    else:
        log.warning(
            "version_refused", version=verdict.version, live=verdict.live, why=verdict.refusals
        )


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) == len(line):
            return
        # A disk that became full took a part.
        file.truncate(before)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
