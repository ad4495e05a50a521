"""The verdict on a version: a check for each way in which it can be bad. Pure."""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct

from trainer.gate.measured import GateMeasurements
from trainer.gate.quality import probability_worse
from trainer.metrics import RankingMetrics, ndcg, ranking_metrics
from trainer.settings import GateSettings

WINDOW = "window"
# What a version has from its events.
OF_MODEL = ("quality", "finite", "norms", "coverage")


class GateCheck(Struct, frozen=True):
    """One check; `value` and `limit` are None where there is nothing to measure or compare with."""

    name: str
    passed: bool
    reason: str
    value: float | None = None
    limit: float | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether a version may leave the trainer, and why.

    Attributes:
        live: the version that it was set beside; None: decayed popularity was.
        time_ms: when it was measured.
        events: held out, of so many people.
        candidate, reference: figures on those.
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
    )


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
