"""Fills lists that no version fills: with what trends, then with anything that may be shown."""

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from headwater_client import RecommendedItem

from features.rows import UserRow
from stream import metrics
from stream.item_views import ItemViews
from stream.ranking import POPULAR, available_items, is_seen, popular_at, popular_items
from stream.recommendations import RecommendationRequest, longest_limit
from stream.routing import Route
from stream.settings import WorkerSettings


class ListFiller:
    """Fills lists until they are full, or nothing is left that may be shown."""

    def __init__(self, settings: WorkerSettings, items: ItemViews) -> None:
        self._settings = settings
        self._items = items

    async def fill(
        self,
        lists: Sequence[list[RecommendedItem]],
        requests: Sequence[RecommendationRequest],
        route: Route | None,
    ) -> None:
        """Fill lists with what trends, then with anything that a version knows.

        Args:
            route: of a version that did not answer; None where one did, or there is none.
        """
        top_k = longest_limit(requests, self._settings.top_k)
        short = find_short(lists, top_k)
        if not short:
            return
        left = [user for user in short if not requests[user].wanted]
        chunks = self._popular_chunks(requests, route)
        while left and (popular := await anext(chunks, None)) is not None:
            available = await self._items.check(item.item_id for item in popular)
            for user in left:
                self._extend(lists[user], requests[user].row, popular, available, top_k)
            left = [user for user in left if len(lists[user]) < top_k]
        for user in short:
            for popular in self._wanted_chunks(requests[user], top_k - len(lists[user])):
                available = await self._items.check(item.item_id for item in popular)
                self._extend(lists[user], requests[user].row, popular, available, top_k)
                if len(lists[user]) >= top_k:
                    break
        missing = len([user for user in short if len(lists[user]) < top_k])
        metrics.SHORT_LISTS.labels("popular").inc(len(short) - missing)
        metrics.SHORT_LISTS.labels("nothing").inc(missing)

    def recall(self, request: RecommendationRequest, top_k: int) -> list[RecommendedItem]:
        """What trends and is allowed, out of memory alone."""
        items: list[RecommendedItem] = []
        chunks = (
            self._wanted_chunks(request, top_k)
            if request.wanted
            else self._trending_chunks(request.time_ms)
        )
        for popular in chunks:
            if len(items) >= top_k:
                break
            available = self._items.recall(item.item_id for item in popular)
            self._extend(items, request.row, popular, available, top_k)
        return items

    def order_by_trend(self, request: RecommendationRequest) -> list[RecommendedItem]:
        """A request's candidates that trend, most popular first."""
        wanted = set(request.candidates)
        trending = self._items.trending.items
        popular = popular_items(trending, request.time_ms, len(trending.item_ids))
        return [item for item in popular if item.item_id in wanted]

    async def _popular_chunks(
        self, requests: Sequence[RecommendationRequest], route: Route | None
    ) -> AsyncIterator[list[RecommendedItem]]:
        """What trends, most popular first; then what a version knows."""
        for popular in self._trending_chunks(max(request.time_ms for request in requests)):
            yield popular
        if route is not None:
            names, allowed = route.vocabulary.item_ids, await self._items.find_allowed(route).read()
            known = [names[item] for item in np.flatnonzero(allowed).tolist()]
            size = self._settings.fallback_items
            for start in range(0, len(known), size):
                yield [RecommendedItem(name, 0.0, POPULAR) for name in known[start : start + size]]

    def _trending_chunks(self, time_ms: int) -> Iterator[list[RecommendedItem]]:
        trending, size = self._items.trending.items, self._settings.fallback_items
        for start in range(0, len(trending.item_ids), size):
            yield popular_items(trending, time_ms, size, start)

    def _wanted_chunks(
        self, request: RecommendationRequest, places: int
    ) -> Iterator[list[RecommendedItem]]:
        """What a request's filter allows: what trends, most popular first, then all else."""
        if request.wanted is None or places <= 0:
            return
        trending, size = self._items.trending.items, self._settings.fallback_items
        allowed = np.flatnonzero(request.wanted.allow(trending.item_ids)).tolist()
        for some in split(allowed, size):
            yield popular_at(trending, request.time_ms, some)
        popular = set(trending.item_ids)
        rest = (name for name in request.wanted.allowed_ids() if name not in popular)
        while names := list(islice(rest, size)):
            yield [RecommendedItem(name, 0.0, POPULAR) for name in names]

    @staticmethod
    def _extend(
        items: list[RecommendedItem],
        row: UserRow,
        more: Iterable[RecommendedItem],
        available: Mapping[str, bool],
        top_k: int,
    ) -> None:
        """Fill a list; its scores still fall, though those of popular items are counts."""
        held = {item.item_id for item in items}
        lowest = items[-1].score if items else math.inf
        others = (item for item in _unseen(more, row) if item.item_id not in held)
        places = top_k - len(items)
        items += [
            RecommendedItem(item.item_id, min(item.score, lowest), item.reason)
            for item in available_items(others, available, places)
        ]


def _unseen(items: Iterable[RecommendedItem], row: UserRow) -> Iterable[RecommendedItem]:
    if not row.seen:
        return items
    return (item for item in items if not is_seen(row, item.item_id))


def split(users: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Users in their order, at most so many at a time."""
    return (users[start : start + most] for start in range(0, len(users), most))


def find_short(lists: Sequence[Sequence[RecommendedItem]], top_k: int) -> list[int]:
    """Which lists have fewer items."""
    return [user for user, items in enumerate(lists) if len(items) < top_k]
