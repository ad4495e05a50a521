"""Asks one version about a batch of people, and ranks what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy.typing as npt
from headwater_client.events import Interaction

from features.inputs import model_tensors
from features.rows import UserRow
from features.schema import FeatureSchema
from stream import metrics
from stream.inference import CircuitOpenError, InferenceClient, InferenceError, InferenceResponse
from stream.ranking import Ranking, rank
from stream.routing import Route
from stream.settings import WorkerSettings
from stream.trending import TrendingIndex, TrendingSource

Arrays = Mapping[str, npt.NDArray[Any]]
# Places looked at for each one shown: a candidate stands twice, and some items cannot be had.
_SPARE = 4


class Request(NamedTuple):
    """A person to answer: after which event, and the row as that batch left it."""

    event: Interaction
    row: UserRow

    @property
    def time_ms(self) -> int:
        """When the person asks: at the newest event, which a late one is not."""
        return max(self.event.timestamp, self.row.reference_ms)


@dataclass(frozen=True, slots=True)
class Question:
    """What one version is asked about some people.

    Attributes:
        on_trial: the version is not the stable one.
    """

    route: Route
    on_trial: bool
    requests: Sequence[Request]
    times_ms: Sequence[int]
    tensors: Arrays
    table: TrendingIndex


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a question.

    Attributes:
        ranking: None where the version has failed.
        latency_ms: how long it took or was waited for; None where it was not asked.
        failed: why there is no ranking.
    """

    route: Route
    ranking: Ranking | None
    latency_ms: float | None
    failed: str = ""

    @property
    def version(self) -> str:
        """The version that was asked, as recommendations name it."""
        return str(self.route.version.version)


class Asker:
    """Makes the question to a version, and asks it."""

    def __init__(
        self,
        settings: WorkerSettings,
        schema: FeatureSchema,
        trends: TrendingSource,
        scorer: InferenceClient,
    ) -> None:
        self._settings = settings
        self._schema = schema
        self._trends = trends
        self._scorer = scorer
        self._tables: dict[str, TrendingIndex] = {}

    def question(self, route: Route, requests: Sequence[Request], *, on_trial: bool) -> Question:
        """What to ask a version, from people's rows as they are now."""
        table = self._table(route)
        times_ms = [request.time_ms for request in requests]
        tensors = model_tensors(
            [request.row for request in requests],
            times_ms,
            route.vocabulary,
            self._schema,
            candidates=table.indices[: self._settings.trending_candidates],
        )
        return Question(route, on_trial, requests, times_ms, tensors, table)

    def _table(self, route: Route) -> TrendingIndex:
        """The trends by this version's indices, made anew when the trends are."""
        table = self._tables.get(route.version.address)
        if table is None or table.trends is not self._trends.trends:
            self._tables = {
                a: t for a, t in self._tables.items() if t.trends is self._trends.trends
            }
            table = self._tables[route.version.address] = TrendingIndex(
                self._trends.trends, route.vocabulary
            )
        return table

    async def ask(self, question: Question) -> Asked:
        """Ask a version; one that fails is an answer too."""
        route, variant = question.route, question.route.version.variant
        start = perf_counter()
        try:
            outputs, seconds = await self._scored(question)
        except InferenceError as error:
            metrics.MODEL_FAILURES.labels(variant).inc(len(question.requests))
            asked = not isinstance(error, CircuitOpenError)
            waited_ms = _observed(perf_counter() - start, variant) if asked else None
            return Asked(route, None, waited_ms, str(error))
        latency_ms = _observed(seconds, variant)
        ranking = rank(
            outputs,
            question.tensors,
            question.table,
            route.vocabulary,
            question.times_ms,
            _SPARE * self._settings.top_k,
        )
        return Asked(route, ranking, latency_ms)

    async def _scored(self, question: Question) -> InferenceResponse:
        version = question.route.version.version
        scored = await self._scorer.score(version, question.tensors, on_trial=question.on_trial)
        if question.on_trial:
            _check_indices(scored.outputs, question)
        return scored


def _check_indices(outputs: Arrays, question: Question) -> None:
    """A graph that is not of its vocabulary must not end the worker.

    Raises:
        ScoringError: an item or a past event that there is not.
    """
    length = question.tensors["item_indices"].shape[1]
    for name, least, below in (
        ("top_items", 0, len(question.route.vocabulary)),
        ("top_explained_by", -1, length),
        ("candidate_explained_by", -1, length),
    ):
        array = outputs[name]
        if array.size and not (least <= array.min() and array.max() < below):
            version = question.route.version.version
            raise InferenceError(f"version {version}: {name} names what there is not")


def _observed(seconds: float, variant: str) -> float:
    """Milliseconds, counted."""
    metrics.MODEL_REQUEST_SECONDS.labels(variant).observe(seconds)
    return round(1000 * seconds, 3)
