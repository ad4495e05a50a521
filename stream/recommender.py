"""Turns changed rows into recommendations: the model's answer, or what trends when it has none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import xxhash
from headwater_client.events import Interaction, Recommendation, RecommendedItem, Shadow

from features.rows import UserRow
from features.schema import FeatureSchema
from features.store import RowStore
from stream.asking import Asked, Asker, Question, Request
from stream.catalogue import CatalogueCache, catalogue_read
from stream.ranking import available_items, is_taken, popular_items
from stream.routing import Route, Routes
from stream.settings import WorkerSettings
from stream.trending import TrendingSource

# The variant of people for whom there is no version.
FALLBACK = "fallback"
POPULAR_ITEMS = "popular-items"


@dataclass(frozen=True, slots=True)
class Group:
    """People of a batch who are answered alike.

    Attributes:
        own: what their version is asked; None where there is none.
        shadow: what a version is asked besides, unseen.
    """

    requests: Sequence[Request]
    own: Question | None
    shadow: Question | None = None

    @property
    def on_trial(self) -> bool:
        """Whether these people's version is one that nobody relies on yet."""
        return self.own is not None and self.own.on_trial


class Recommender:
    """Makes recommendations for a batch of people."""

    def __init__(
        self,
        settings: WorkerSettings,
        schema: FeatureSchema,
        store: RowStore,
        catalogue: CatalogueCache,
        trends: TrendingSource,
        routes: Routes,
        asker: Asker,
    ) -> None:
        self._settings = settings
        self._store = store
        self._catalogue = catalogue
        self._trends = trends
        self._routes = routes
        self._asker = asker
        self._exclude_seen = bool(schema.seen_by)

    def groups(self, requests: Iterable[Request]) -> list[Group]:
        """What to ask for these people, from their rows as they are now.

        The next batch may change a row while the model thinks: what a person takes then is left out
        of the answer to that event.
        """
        alike: dict[tuple[Route | None, Route | None], list[Request]] = {}
        for request in requests:
            routing = self._routes.assign(request.event.user_id)
            routes = (routing.shown, routing.shadow) if routing else (None, None)
            alike.setdefault(routes, []).append(request)
        return [
            Group(people, self._question(shown, people), self._question(shadow, people))
            for (shown, shadow), people in alike.items()
        ]

    def _question(self, route: Route | None, requests: Sequence[Request]) -> Question | None:
        if route is None:
            return None
        stable = self._routes.stable
        on_trial = stable is None or route.version.version != stable.version.version
        return self._asker.question(route, requests, on_trial=on_trial)

    async def answer(self, group: Group) -> list[Recommendation]:
        """The recommendations for a group, by its version, else the stable one, else popularity.

        Raises:
            ServerError: the store does not answer.
        """
        if group.own is None:
            return await self._fallback(group.requests, None)
        own = await self._asker.ask(group.own)
        shown = own if own.ranking else await self._instead(group.requests, own)
        if shown is None or (ranking := shown.ranking) is None:
            return await self._fallback(group.requests, own)
        available = await self._available(ranking.item_ids())
        people = map(ranking.person, range(len(group.requests)))
        return self._recommend(group.requests, people, available, own, shown.version)

    async def _instead(self, requests: Sequence[Request], own: Asked) -> Asked | None:
        """What the stable version answers for another one; None if that is the one that failed."""
        stable = self._routes.stable
        if stable is None or stable.version.version == own.route.version.version:
            return None
        return await self._asker.ask(self._asker.question(stable, requests, on_trial=False))

    async def shadows(self, question: Question) -> list[Shadow]:
        """What the version that is asked unseen would have recommended, for each person.

        Raises:
            ServerError: the store does not answer.
        """
        asked = await self._asker.ask(question)
        if (ranking := asked.ranking) is None:
            none = Shadow(
                model_version=asked.version, latency_ms=asked.latency_ms, failed=asked.failed
            )
            return [none] * len(question.requests)
        available = await self._available(ranking.item_ids())
        return [
            _shadow(available_items(ranking.person(at), available, self._settings.top_k), asked)
            for at in range(len(question.requests))
        ]

    async def _fallback(
        self, requests: Sequence[Request], own: Asked | None
    ) -> list[Recommendation]:
        """What trends, marked as such: the model is away, or there is none yet."""
        newest = max(request.time_ms for request in requests)
        items = popular_items(self._trends.trends, newest, self._settings.fallback_items)
        available = await self._available(item.item_id for item in items)
        people = (self._not_taken(items, request.row) for request in requests)
        return self._recommend(requests, people, available, own, POPULAR_ITEMS)

    def _recommend(
        self,
        requests: Sequence[Request],
        people: Iterable[Iterable[RecommendedItem]],
        available: Mapping[str, bool],
        own: Asked | None,
        version: str,
    ) -> list[Recommendation]:
        now_ms = int(time.time() * 1000)
        return [
            Recommendation(
                recommendation_id=recommendation_id(request.event),
                user_id=request.event.user_id,
                event_id=request.event.event_id,
                items=available_items(items, available, self._settings.top_k),
                model_version=version,
                variant=own.route.version.variant if own else FALLBACK,
                event_time=request.event.timestamp,
                produced_time=now_ms,
                fallback=version == POPULAR_ITEMS,
                rollout_id=own.route.rollout_id if own else "",
                failed=own.failed if own else "",
                latency_ms=own.latency_ms if own else None,
            )
            for request, items in zip(requests, people, strict=True)
        ]

    def _not_taken(
        self, items: Iterable[RecommendedItem], row: UserRow
    ) -> Iterable[RecommendedItem]:
        if not self._exclude_seen:
            return items
        return (item for item in items if not is_taken(row, item.item_id))

    async def _available(self, item_ids: Iterable[str]) -> Mapping[str, bool]:
        """Whether each item can be had; shelves not at hand are read in one call."""
        shelves = self._catalogue.get_cached(item_ids)
        reads = [catalogue_read(name) for name, shelf in shelves.items() if shelf is None]
        for read, stored in zip(reads, await self._store.read(reads), strict=True):
            shelves[read.entity_id] = self._catalogue.put(read, stored)
        return {name: shelf is None or shelf.available for name, shelf in shelves.items()}


def _shadow(items: Sequence[RecommendedItem], asked: Asked) -> Shadow:
    return Shadow(
        model_version=asked.version,
        items=[item.item_id for item in items],
        score=items[0].score if items else None,
        latency_ms=asked.latency_ms,
    )


def recommendation_id(event: Interaction) -> str:
    """Names the answer to an event: the same whenever the event is answered again."""
    return xxhash.xxh3_128_hexdigest(f"{event.user_id}\0{event.event_id}")
