"""Turns changed rows into recommendations: the model's answer, or what trends when it has none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt
import xxhash

from features.events import Click, Purchase, Recommendation, RecommendedItem
from features.inputs import model_tensors
from features.rows import Layout, UserRow
from features.store import RowStore
from stream.catalogue import Catalogue, reading
from stream.ranking import allowed, has_taken, popular, ranked
from stream.routing import Route, Routes
from stream.scoring import Scorer, ScoringError
from stream.settings import WorkerSettings
from stream.trend_lists import TrendLists
from stream.trending import TrendTable

FALLBACK = "fallback"
POPULAR_ITEMS = "popular-items"
# Places looked at for each one shown: a candidate stands twice, and some items cannot be had.
_SPARE = 4


class Request(NamedTuple):
    """A person to answer: after which event, and the row as that batch left it."""

    event: Click | Purchase
    row: UserRow

    @property
    def time_ms(self) -> int:
        """When the person asks: at the newest event, which a late one is not."""
        return max(self.event.timestamp, self.row.reference_ms)


@dataclass(frozen=True, slots=True)
class Question:
    """What one version is asked for the people whose route it is."""

    route: Route
    requests: Sequence[Request]
    times_ms: Sequence[int]
    tensors: Mapping[str, npt.NDArray[Any]]
    table: TrendTable


@dataclass(frozen=True, slots=True)
class Batch:
    """The people of a batch: by version, and those for whom there is none."""

    questions: Sequence[Question]
    unrouted: Sequence[Request]


class Answerer:
    """Makes recommendations for a batch of people."""

    def __init__(
        self,
        settings: WorkerSettings,
        layout: Layout,
        store: RowStore,
        catalogue: Catalogue,
        trends: TrendLists,
        routes: Routes,
        scorer: Scorer,
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._store = store
        self._catalogue = catalogue
        self._trends = trends
        self._routes = routes
        self._scorer = scorer
        self._exclude_taken = bool(layout.takes)
        self._tables: dict[str, TrendTable] = {}

    def batch(self, requests: Iterable[Request]) -> Batch:
        """What to ask for these people, from their rows as they are now.

        The next batch may change a row while the model thinks; of that only what was taken shows:
        it is left out of the answer too.
        """
        routed: dict[str, tuple[Route, list[Request]]] = {}
        unrouted: list[Request] = []
        for request in requests:
            routing = self._routes.routing(request.event.user_id)
            if routing is None:
                unrouted.append(request)
            else:
                route = routing.shown
                routed.setdefault(route.version.variant, (route, []))[1].append(request)
        return Batch([self._question(*each) for each in routed.values()], unrouted)

    async def answer(self, batch: Batch) -> list[Recommendation]:
        """The recommendations for a batch.

        Raises:
            ServerError: the store does not answer.
        """
        answers = [rec for question in batch.questions for rec in await self._ask(question)]
        return answers + await self._fallback(batch.unrouted)

    def _question(self, route: Route, requests: Sequence[Request]) -> Question:
        table = self._table(route)
        times_ms = [request.time_ms for request in requests]
        tensors = model_tensors(
            [request.row for request in requests],
            times_ms,
            route.vocabulary,
            self._layout,
            candidates=table.indices[: self._settings.trending_candidates],
            exclude_taken=self._exclude_taken,
        )
        return Question(route, requests, times_ms, tensors, table)

    def _table(self, route: Route) -> TrendTable:
        """The trends by this version's indices, made anew when the trends are."""
        table = self._tables.get(route.version.address)
        if table is None or table.trends is not self._trends.trends:
            self._tables = {
                a: t for a, t in self._tables.items() if t.trends is self._trends.trends
            }
            table = self._tables[route.version.address] = TrendTable(
                self._trends.trends, route.vocabulary
            )
        return table

    async def _ask(self, question: Question) -> list[Recommendation]:
        version = question.route.version
        try:
            outputs = await self._scorer.score(version.version, question.tensors)
        except ScoringError:
            return await self._fallback(question.requests)
        ranking = ranked(
            outputs,
            question.tensors,
            question.table,
            question.route.vocabulary,
            question.times_ms,
            _SPARE * self._settings.top_k,
            self._exclude_taken,
        )
        available = await self._available(ranking.item_ids())
        people = (ranking.person(at, r.row) for at, r in enumerate(question.requests))
        return self._recommend(
            question.requests, people, available, str(version.version), version.variant
        )

    async def _fallback(self, requests: Sequence[Request]) -> list[Recommendation]:
        """What trends, marked as such: the model is away, or there is none yet."""
        if not requests:
            return []
        newest = max(request.time_ms for request in requests)
        items = popular(self._trends.trends, newest, self._settings.fallback_items)
        available = await self._available(item.item_id for item in items)
        people = (self._not_taken(items, request.row) for request in requests)
        return self._recommend(requests, people, available, POPULAR_ITEMS, FALLBACK)

    def _recommend(
        self,
        requests: Sequence[Request],
        people: Iterable[Iterable[RecommendedItem]],
        available: Mapping[str, bool],
        version: str,
        variant: str,
    ) -> list[Recommendation]:
        now_ms = int(time.time() * 1000)
        return [
            Recommendation(
                recommendation_id=recommendation_id(request.event),
                user_id=request.event.user_id,
                event_id=request.event.event_id,
                items=allowed(items, available, self._settings.top_k),
                model_version=version,
                variant=variant,
                event_time=request.event.timestamp,
                produced_time=now_ms,
                fallback=variant == FALLBACK,
            )
            for request, items in zip(requests, people, strict=True)
        ]

    def _not_taken(
        self, items: Iterable[RecommendedItem], row: UserRow
    ) -> Iterable[RecommendedItem]:
        if not self._exclude_taken:
            return items
        return (item for item in items if not has_taken(row, item.item_id))

    async def _available(self, item_ids: Iterable[str]) -> Mapping[str, bool]:
        """Whether each item can be had; shelves not at hand are read in one call."""
        shelves = self._catalogue.at_hand(item_ids)
        reads = [reading(name) for name, shelf in shelves.items() if shelf is None]
        for read, stored in zip(reads, await self._store.read(reads), strict=True):
            shelves[read.entity_id] = self._catalogue.learn(read, stored)
        return {name: shelf is None or shelf.available for name, shelf in shelves.items()}


def recommendation_id(event: Click | Purchase) -> str:
    """Names the answer to an event: the same whenever the event is answered again."""
    return xxhash.xxh3_128_hexdigest(f"{event.user_id}\0{event.event_id}")
