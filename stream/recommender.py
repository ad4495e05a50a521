"""The serving core: feature rows in, ranked lists out. It knows neither Kafka nor Faust.

Two steps, because rows change while a model computes. `prepare` reads the rows as they are now and
builds the calls; `execute` makes a call and ranks its answer, at any later moment.
"""

import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter, time
from typing import NamedTuple

import numpy as np
import xxhash
from headwater_client import Interaction, RecommendedItem
from headwater_client.events import Recommendation, Shadow

from features.columns import CatalogueEntry
from features.inputs import model_inputs, model_outputs, model_tensors
from features.rows import ItemGroup, UserRow
from features.schema import PADDING, BoolArray, FeatureSchema, Int64Array, Tensors
from features.store import RowStore
from stream import metrics
from stream.catalogue import AllowedItems, CatalogueCache, is_available
from stream.filtering import ItemFilter
from stream.inference import CircuitOpenError, InferenceClient, InferenceError, InferenceRequest
from stream.ranking import (
    NEVER,
    POPULAR,
    Ranking,
    available_items,
    hide_items,
    hide_seen,
    is_seen,
    popular_at,
    popular_items,
    rank,
    rank_candidates,
)
from stream.routing import Route, Routes
from stream.row_updates import ItemGroupKey
from stream.settings import WorkerConfig, WorkerSettings
from stream.trending import TrendingIndex, TrendingSource

# The variant of users for whom there is no version.
FALLBACK = "fallback"
POPULAR_ITEMS = "popular-items"
# Places ranked per item shown: a candidate stands twice, and some items are not available. Where
# these do not fill a list, all places are ranked.
_SPARE = 4
_EVERY_PLACE = 1 << 30
# Excluded items of a call that is made again, over all its users: 16 MB on the wire.
_MAX_EXCLUDED = 2_000_000


class EventPlace(NamedTuple):
    """Where an event stands in Kafka, and how much of all that a user's row knew with it.

    Attributes:
        sequence: grows with each event that the row absorbs, of whichever topic.
    """

    topic: str
    partition: int
    offset: int
    sequence: int


class RecommendationRequest(NamedTuple):
    """A user to recommend for.

    Attributes:
        time_ms: when the user asks; not before the newest event of the row.
        row: the user's feature row.
        event: the interaction that led to the request, if one did.
        place: of that interaction, where it came by Kafka.
        limit: how many items the list has, at most; None: `worker.top_k`.
        candidates: of who wants these items in order, and no others.
        wanted: which items may be in the list; None: all.
    """

    user_id: str
    time_ms: int
    row: UserRow
    event: Interaction | None = None
    place: EventPlace | None = None
    limit: int | None = None
    candidates: Sequence[str] = ()
    wanted: ItemFilter | None = None


@dataclass(frozen=True, slots=True)
class VersionCall:
    """What one version is sent for the users of a call, and what ranking its answer needs.

    Attributes:
        times_ms: int[B], when each user asks.
        trending: by the version's item indices.
        top_k: how many items the longest list has.
        wanted: which items each user may be shown; None: all.
        is_whole: the candidates are all that these users may be shown, and not what trends.
    """

    route: Route
    request: InferenceRequest
    times_ms: Sequence[int]
    trending: TrendingIndex
    top_k: int = 0
    wanted: Sequence[ItemFilter | None] = ()
    is_whole: bool = False

    def select(self, users: Sequence[int]) -> "VersionCall":
        """The call of some of its users."""
        request = replace(self.request, tensors=_select_rows(self.request.tensors, users))
        return replace(
            self,
            request=request,
            times_ms=[self.times_ms[user] for user in users],
            wanted=[self.wanted[user] for user in users],
        )

    def narrow(self, allowed: BoolArray) -> "VersionCall":
        """The call that is about some items only: bool[N], by the version's indices.

        They are named, or the others are left out: whichever are fewer.
        """
        tensors, users = self.request.tensors, len(self.times_ms)
        chosen, hidden = np.flatnonzero(allowed), np.flatnonzero(~allowed)
        if len(chosen) < len(hidden):
            changed = {"candidate_items": np.tile(chosen, (users, 1))}
        else:
            left_out = [tensors["excluded_items"], np.tile(hidden, (users, 1))]
            changed = {"excluded_items": np.concatenate(left_out, axis=1)}
        request = replace(self.request, tensors={**tensors, **changed})
        return replace(self, request=request, is_whole="candidate_items" in changed)


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """Users of a batch who are answered alike, ready to be executed.

    Attributes:
        shown: the call of their version; None where there is none.
        shadow: the call of a version in shadow mode, whose answer nobody sees.
    """

    requests: Sequence[RecommendationRequest]
    shown: VersionCall | None
    shadow: VersionCall | None = None

    @property
    def on_trial(self) -> bool:
        """Whether the users' version is not the stable one."""
        return self.shown is not None and self.shown.request.on_trial


@dataclass(frozen=True, slots=True)
class RankedLists:
    """A ranked list for each user of a call, in the order of its requests.

    Attributes:
        items: per user, best first, each with its score and reason.
        model_version: which made the lists; `POPULAR_ITEMS` where no model did.
        variant: the users' variant in the rollout; `FALLBACK` without any version.
        rollout_id: of the rollout; "" for none.
        failed: why the variant's own version did not answer; "" where it did.
        latency_ms: how long that version took or was waited for; None where it was not called.
        top_k: how many items a full list has; a request of a smaller limit has a shorter one.
    """

    items: Sequence[list[RecommendedItem]]
    model_version: str
    variant: str = FALLBACK
    rollout_id: str = ""
    failed: str = ""
    latency_ms: float | None = None
    top_k: int = 0

    @property
    def fallback(self) -> bool:
        """Whether the lists are what trends, and no model's answer."""
        return self.model_version == POPULAR_ITEMS


@dataclass(frozen=True, slots=True)
class _VersionAnswer:
    """What became of a version's call; `outputs` is None where it failed."""

    call: VersionCall
    outputs: Tensors | None
    latency_ms: float | None
    failed: str = ""

    @property
    def version(self) -> str:
        return str(self.call.route.version.version)

    def select(self, users: Sequence[int]) -> "_VersionAnswer":
        """The answer to some of its users."""
        outputs = None if self.outputs is None else _select_rows(self.outputs, users)
        return replace(self, call=self.call.select(users), outputs=outputs)

    def rank(self, places: int) -> Ranking:
        """The best places of every user; none where the call failed."""
        call, tensors = self.call, self.call.request.tensors
        outputs = self.outputs or {}
        if any(call.wanted):
            allowed = [each.mask_by_index(call.route) if each else None for each in call.wanted]
            outputs = hide_items(outputs, tensors, allowed)
        if call.is_whole:
            outputs = hide_seen(outputs, tensors)
            return rank_candidates(outputs, tensors, call.trending, call.times_ms)
        return rank(outputs, tensors, call.trending, call.times_ms, places)

    def has_more(self, user: int) -> bool:
        """Whether the version may know more items for a user than it has answered with."""
        if self.outputs is None or self.call.is_whole:
            return False
        return bool(self.outputs["top_scores"][user].min() > NEVER)

    def lists(self, items: Sequence[list[RecommendedItem]], model_version: str) -> RankedLists:
        """Lists for the users of this version, whoever made them."""
        return RankedLists(
            items,
            model_version,
            self.call.route.version.variant,
            self.call.route.rollout_id,
            self.failed,
            self.latency_ms,
            self.call.top_k,
        )


def _select_rows(tensors: Tensors, users: Sequence[int]) -> Tensors:
    return {name: array[users] for name, array in tensors.items()}


@dataclass(frozen=True)
class ItemViews:
    """A process's view of the items, read from the store and cached for a moment.

    Attributes:
        may_recommend: which entries of the catalogue may be recommended.
    """

    catalogue: CatalogueCache
    trending: TrendingSource
    may_recommend: Callable[[CatalogueEntry], bool] = is_available

    async def check(self, item_ids: Iterable[str]) -> dict[str, bool]:
        """Whether each item may be recommended.

        Raises:
            ServerError: the store does not answer.
        """
        return self._allow(await self.catalogue.get(item_ids))

    def recall(self, item_ids: Iterable[str]) -> dict[str, bool]:
        """Whether each item might be recommended when it was looked up last; no server is asked."""
        return self._allow(self.catalogue.recall(item_ids))

    def _allow(self, entries: Mapping[str, CatalogueEntry]) -> dict[str, bool]:
        return {name: self.may_recommend(entry) for name, entry in entries.items()}


class Recommender:
    """Makes ranked lists from feature rows.

    Args:
        routes: which version answers whom; may be set directly, or follow the topic `rollouts`.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        schema: FeatureSchema,
        items: ItemViews,
        routes: Routes,
        client: InferenceClient,
    ) -> None:
        self._settings = settings
        self._schema = schema
        self._routes = routes
        self._client = client
        self._trending_indices: dict[str, TrendingIndex] = {}
        self._allowed_items: dict[str, AllowedItems] = {}
        self.items = items

    async def start(self) -> None:
        """Read what trends, before the first request.

        Raises:
            ServerError: the store does not answer.
        """
        await self.items.trending.refresh()

    async def run(self) -> None:
        """Keep the view of what trends up to date, for ever."""
        await self.items.trending.run()

    def record(self, groups: Mapping[ItemGroupKey, ItemGroup]) -> None:
        """Take note of item counters that have changed: what trends is made from them."""
        self.items.trending.record(groups)

    def answers_since_ms(self) -> float:
        """When an event must have arrived, at least, for somebody to wait for its answer."""
        return 1000 * (time() - self._settings.answer_within_s)

    def prepare(self, requests: Iterable[RecommendationRequest]) -> list[InferenceCall]:
        """Build the calls for these users from their rows as they are now.

        Later changes of a row do not affect its call. Only where something has to stand in for a
        version that failed, the row is read again.
        """
        alike: dict[tuple[Route | None, Route | None, bool], list[RecommendationRequest]] = {}
        for request in requests:
            assignment = self._routes.assign(request.user_id)
            routes = (assignment.shown, assignment.shadow) if assignment else (None, None)
            # Others would be padded to as many candidates.
            has_pool = _find_pool(request, routes[0]) is not None
            alike.setdefault((*routes, has_pool), []).append(request)
        return [
            InferenceCall(
                users, self._assigned_call(shown, users), self._assigned_call(shadow, users)
            )
            for (shown, shadow, _), users in alike.items()
        ]

    def _assigned_call(
        self, route: Route | None, requests: Sequence[RecommendationRequest]
    ) -> VersionCall | None:
        if route is None:
            return None
        stable = self._routes.stable
        on_trial = stable is None or route.version.version != stable.version.version
        return self._version_call(route, requests, on_trial=on_trial)

    def _version_call(
        self, route: Route, requests: Sequence[RecommendationRequest], *, on_trial: bool
    ) -> VersionCall:
        trending = self._trending_index(route)
        times_ms = [request.time_ms for request in requests]
        pools = [_find_pool(request, route) for request in requests]
        own = [pool for pool in pools if pool is not None]
        tensors = model_tensors(
            [request.row for request in requests],
            times_ms,
            route.vocabulary,
            self._schema,
            candidates=trending.indices[: self._settings.trending_candidates],
        )
        is_whole = len(own) == len(requests)
        if is_whole:
            tensors["candidate_items"] = _pad(own)
        inference = InferenceRequest(route.version.version, tensors, on_trial)
        wanted = [request.wanted for request in requests]
        top_k = self._longest(requests)
        return VersionCall(route, inference, times_ms, trending, top_k, wanted, is_whole)

    def _longest(self, requests: Iterable[RecommendationRequest]) -> int:
        """How many items the longest list of these requests has."""
        return max(request.limit or self._settings.top_k for request in requests)

    def _shorten(
        self,
        lists: Sequence[list[RecommendedItem]],
        requests: Sequence[RecommendationRequest],
    ) -> list[list[RecommendedItem]]:
        """The lists as long as each request asks: a short list is the beginning of a longer one."""
        return [
            items[: request.limit or self._settings.top_k]
            for items, request in zip(lists, requests, strict=True)
        ]

    def _trending_index(self, route: Route) -> TrendingIndex:
        """The trends by this version's indices, built again when the trends are."""
        address, items = route.version.address, self.items.trending.items
        index = self._trending_indices.get(address)
        if index is None or index.items is not items:
            current = {a: i for a, i in self._trending_indices.items() if i.items is items}
            index = current[address] = TrendingIndex(items, route.vocabulary)
            self._trending_indices = current
        return index

    async def execute(self, call: InferenceCall) -> RankedLists:
        """Ranked lists by the users' version, else by the stable one, else of popular items.

        A list is full as long as anything is left that the user may be shown. What the version
        cannot fill, popular items do.

        Raises:
            ServerError: the store does not answer.
        """
        lists: list[list[RecommendedItem]] = [[] for _ in call.requests]
        if call.shown is None:
            await self._add_popular(lists, call.requests, None)
            top_k = self._longest(call.requests)
            return RankedLists(self._shorten(lists, call.requests), POPULAR_ITEMS, top_k=top_k)
        own = await self._call_version(call.shown)
        answer = own if own.outputs else await self._call_stable(call.requests, own)
        if answer is None or not answer.outputs:
            await self._add_popular(lists, call.requests, call.shown.route)
            return own.lists(self._shorten(lists, call.requests), POPULAR_ITEMS)
        lists = await self._list_items(answer)
        await self._add_popular(lists, call.requests, None)
        return own.lists(self._shorten(lists, call.requests), answer.version)

    async def rank_candidates(self, call: InferenceCall) -> RankedLists:
        """The candidates of each request in order, best first; those without a score are left out.

        Where no version answers, those that trend, most popular first.
        """
        own = await self._call_version(call.shown) if call.shown else None
        answer = own if own is None or own.outputs else await self._call_stable(call.requests, own)
        if answer is not None and answer.outputs:
            made = answer.call
            ranking = rank_candidates(
                answer.outputs, made.request.tensors, made.trending, made.times_ms
            )
            lists = [list(ranking.user_items(user)) for user in range(len(call.requests))]
            return (own or answer).lists(lists, answer.version)
        lists = [self._order_by_trend(request) for request in call.requests]
        if own is None:
            return RankedLists(lists, POPULAR_ITEMS)
        return own.lists(lists, POPULAR_ITEMS)

    def _order_by_trend(self, request: RecommendationRequest) -> list[RecommendedItem]:
        wanted = set(request.candidates)
        trending = self.items.trending.items
        popular = popular_items(trending, request.time_ms, len(trending.item_ids))
        return [item for item in popular if item.item_id in wanted]

    def recall(self, request: RecommendationRequest, failed: str) -> RankedLists:
        """What trends, out of memory alone: for who cannot wait for a server that is away.

        Args:
            failed: why the user's version is not asked.
        """
        assignment = self._routes.assign(request.user_id)
        top_k, items = self._longest([request]), list[RecommendedItem]()
        if request.candidates:
            items = self._order_by_trend(request)
        chunks = (
            self._wanted_chunks(request, top_k)
            if request.wanted
            else self._trending_chunks(request.time_ms)
        )
        for popular in chunks:
            if request.candidates or len(items) >= top_k:
                break
            available = self.items.recall(item.item_id for item in popular)
            self._extend(items, request.row, popular, available, top_k)
        if assignment is None:
            return RankedLists([items], POPULAR_ITEMS, failed=failed, top_k=top_k)
        route = assignment.shown
        variant, rollout_id = route.version.variant, route.rollout_id
        return RankedLists([items], POPULAR_ITEMS, variant, rollout_id, failed, None, top_k)

    async def execute_shadow(self, call: VersionCall) -> RankedLists:
        """What a version in shadow mode would have shown; empty lists where it failed.

        Raises:
            ServerError: the store does not answer.
        """
        answer = await self._call_version(call)
        items = await self._list_items(answer) if answer.outputs else [[] for _ in call.times_ms]
        return answer.lists(items, answer.version)

    async def _call_version(self, call: VersionCall) -> _VersionAnswer:
        """Call a version and rank what it answers; a failure is an answer too."""
        variant = call.route.version.variant
        start = perf_counter()
        try:
            outputs, seconds = await self._client.infer(call.request)
            _check_indices(outputs, call)
        except InferenceError as error:
            metrics.MODEL_FAILURES.labels(variant).inc(len(call.times_ms))
            was_called = not isinstance(error, CircuitOpenError)
            waited_ms = _count_ms(perf_counter() - start, variant) if was_called else None
            return _VersionAnswer(call, None, waited_ms, str(error))
        return _VersionAnswer(call, outputs, _count_ms(seconds, variant))

    async def _call_stable(
        self, requests: Sequence[RecommendationRequest], failed: _VersionAnswer
    ) -> _VersionAnswer | None:
        """The stable version's answer in place of another's; None if it is the one that failed."""
        stable = self._routes.stable
        if stable is None or stable.version.version == failed.call.route.version.version:
            return None
        return await self._call_version(self._version_call(stable, requests, on_trial=False))

    async def _list_items(self, answer: _VersionAnswer) -> list[list[RecommendedItem]]:
        """What a version's users may be shown, full as long as the version knows so many."""
        top_k = answer.call.top_k
        lists = await self._cut(answer, _SPARE * top_k)
        if short := _find_short(lists, top_k):
            await self._refill(lists, short, answer.select(short))
        return lists

    async def _refill(
        self, lists: list[list[RecommendedItem]], short: Sequence[int], answer: _VersionAnswer
    ) -> None:
        """Fill short lists from all that a version answered, then by asking it again.

        Args:
            answer: to the users of the short lists.
        """
        for user, items in zip(short, await self._cut(answer, _EVERY_PLACE), strict=True):
            lists[user] = items
        top_k = answer.call.top_k
        left = [at for at, user in enumerate(short) if len(lists[user]) < top_k]
        again = [at for at in left if answer.has_more(at)]
        if not again:
            return
        groups: dict[ItemFilter | None, list[int]] = {}
        for at in again:
            groups.setdefault(answer.call.wanted[at], []).append(at)
        for wanted, users in groups.items():
            route = answer.call.route
            allowed = (
                wanted.mask_by_index(route) if wanted else await self._find_allowed(route).read()
            )
            named = min(np.count_nonzero(allowed), np.count_nonzero(~allowed))
            width = answer.call.request.tensors["excluded_items"].shape[1] + int(named)
            for asked in _split(users, max(1, _MAX_EXCLUDED // max(1, width))):
                more = await self._call_version(answer.call.select(asked).narrow(allowed))
                if not more.outputs:
                    return
                for at, items in zip(asked, await self._cut(more, _EVERY_PLACE), strict=True):
                    lists[short[at]] = items
                    metrics.SHORT_LISTS.labels("version").inc(len(items) >= top_k)

    def _find_allowed(self, route: Route) -> AllowedItems:
        """Which of a version's items may be recommended; a version that went is forgotten."""
        address = route.version.address
        if address not in self._allowed_items:
            known = self._trending_indices
            kept = {name: view for name, view in self._allowed_items.items() if name in known}
            self._allowed_items = kept | {address: AllowedItems(route.vocabulary, self.items.check)}
        return self._allowed_items[address]

    async def _cut(self, answer: _VersionAnswer, places: int) -> list[list[RecommendedItem]]:
        ranking = answer.rank(places)
        available = await self.items.check(ranking.item_ids())
        return [
            available_items(ranking.user_items(user), available, answer.call.top_k)
            for user in range(len(answer.call.times_ms))
        ]

    async def _add_popular(
        self,
        lists: Sequence[list[RecommendedItem]],
        requests: Sequence[RecommendationRequest],
        route: Route | None,
    ) -> None:
        """Fill lists with what trends, then with anything that a version knows.

        Args:
            route: of a version that did not answer; None where one did, or there is none.
        """
        top_k = self._longest(requests)
        short = _find_short(lists, top_k)
        if not short:
            return
        left = [user for user in short if not requests[user].wanted]
        chunks = self._popular_chunks(requests, route)
        while left and (popular := await anext(chunks, None)) is not None:
            available = await self.items.check(item.item_id for item in popular)
            for user in left:
                self._extend(lists[user], requests[user].row, popular, available, top_k)
            left = [user for user in left if len(lists[user]) < top_k]
        for user in short:
            for popular in self._wanted_chunks(requests[user], top_k - len(lists[user])):
                available = await self.items.check(item.item_id for item in popular)
                self._extend(lists[user], requests[user].row, popular, available, top_k)
                if len(lists[user]) >= top_k:
                    break
        missing = len([user for user in short if len(lists[user]) < top_k])
        metrics.SHORT_LISTS.labels("popular").inc(len(short) - missing)
        metrics.SHORT_LISTS.labels("nothing").inc(missing)

    async def _popular_chunks(
        self, requests: Sequence[RecommendationRequest], route: Route | None
    ) -> AsyncIterator[list[RecommendedItem]]:
        """What trends, most popular first; then what a version knows."""
        for popular in self._trending_chunks(max(request.time_ms for request in requests)):
            yield popular
        if route is not None:
            names, allowed = route.vocabulary.item_ids, await self._find_allowed(route).read()
            known = [names[item] for item in np.flatnonzero(allowed).tolist()]
            size = self._settings.fallback_items
            for start in range(0, len(known), size):
                yield [RecommendedItem(name, 0.0, POPULAR) for name in known[start : start + size]]

    def _trending_chunks(self, time_ms: int) -> Iterator[list[RecommendedItem]]:
        trending, size = self.items.trending.items, self._settings.fallback_items
        for start in range(0, len(trending.item_ids), size):
            yield popular_items(trending, time_ms, size, start)

    def _wanted_chunks(
        self, request: RecommendationRequest, places: int
    ) -> Iterator[list[RecommendedItem]]:
        """What a request's filter allows: what trends, most popular first, then all else."""
        if request.wanted is None or places <= 0:
            return
        trending, size = self.items.trending.items, self._settings.fallback_items
        allowed = np.flatnonzero(request.wanted.allow(trending.item_ids)).tolist()
        for some in _split(allowed, size):
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

    async def close(self) -> None:
        """Close the connection to Triton."""
        await self._client.close()


def _find_pool(request: RecommendationRequest, route: Route | None) -> Int64Array | None:
    """All that a request may be answered with, by a version's indices; None: too many to name."""
    if route is None:
        return None
    if request.candidates:
        return route.vocabulary.indices_of(request.candidates)
    return request.wanted.find_pool(route) if request.wanted else None


def _pad(pools: Sequence[Int64Array]) -> Int64Array:
    """Each user's own candidates: int64[B, C], padded."""
    padded = np.full((len(pools), max(map(len, pools))), PADDING, np.int64)
    for user, pool in enumerate(pools):
        padded[user, : len(pool)] = pool
    return padded


def _unseen(items: Iterable[RecommendedItem], row: UserRow) -> Iterable[RecommendedItem]:
    if not row.seen:
        return items
    return (item for item in items if not is_seen(row, item.item_id))


def _split(users: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Users in their order, at most so many at a time."""
    return (users[start : start + most] for start in range(0, len(users), most))


def _find_short(lists: Sequence[Sequence[RecommendedItem]], top_k: int) -> list[int]:
    return [user for user, items in enumerate(lists) if len(items) < top_k]


def _check_indices(outputs: Tensors, call: VersionCall) -> None:
    """A graph that does not fit its vocabulary must not end the process, nor name wrong items.

    Raises:
        InferenceError: the outputs name an item or a past event that does not exist, or are of
            other candidates.
    """
    length = call.request.tensors["item_indices"].shape[1]
    asked = call.request.tensors["candidate_items"].shape
    for name in ("candidate_scores", "candidate_explained_by"):
        if outputs[name].shape != asked:
            raise InferenceError(
                f"version {call.request.version}: {name}: {outputs[name].shape} for {asked}"
            )
    for name, least, below in (
        ("top_items", 0, len(call.route.vocabulary)),
        ("top_explained_by", -1, length),
        ("candidate_explained_by", -1, length),
    ):
        array = outputs[name]
        if array.size and not (least <= array.min() and array.max() < below):
            version = call.request.version
            raise InferenceError(f"version {version}: {name} names what there is not")


def _count_ms(seconds: float, variant: str) -> float:
    """Count a call's time; the milliseconds."""
    metrics.MODEL_REQUEST_SECONDS.labels(variant).observe(seconds)
    return round(1000 * seconds, 3)


def make_recommender(
    config: WorkerConfig,
    store: RowStore,
    routes: Routes,
    may_recommend: Callable[[CatalogueEntry], bool] = is_available,
) -> Recommender:
    """The serving core on a store and a Triton: neither Kafka nor Faust is needed.

    In short, for a user's `row` and a `rollout` that is known without Kafka:

        routes = Routes(config.triton.model, FeatureSchema(config.features).contract)
        routes.follow(rollout)
        recommender = make_recommender(config, store, routes)
        await recommender.start()
        for call in recommender.prepare([RecommendationRequest("ann", now_ms, row)]):
            lists = await recommender.execute(call)

    Args:
        config: with the address of Triton; of Kafka only the number of partitions is used.
    """
    settings, schema = config.worker, FeatureSchema(config.features)
    trending = TrendingSource(
        store,
        schema,
        config.kafka.partitions,
        settings.trending_items,
        settings.trends_refresh_s,
    )
    catalogue = CatalogueCache(store, settings.catalogue_refresh_s)
    client = InferenceClient(config.triton, model_inputs(schema), model_outputs(schema))
    items = ItemViews(catalogue, trending, may_recommend)
    return Recommender(settings, schema, items, routes, client)


def make_recommendations(
    requests: Sequence[RecommendationRequest], ranked: RankedLists
) -> list[Recommendation]:
    """A message for each request.

    Raises:
        ValueError: a request has no event: a message names the event that led to it.
    """
    now_ms = int(time() * 1000)
    messages = []
    for request, items in zip(requests, ranked.items, strict=True):
        event = request.event
        if event is None:
            raise ValueError(f"request of {request.user_id!r}: a recommendation needs an event")
        place = request.place._asdict() if request.place else {}
        # Also where the version answered, and nothing that it knows may be shown to this user.
        fallback = ranked.fallback or all(item.reason == POPULAR for item in items)
        messages.append(
            Recommendation(
                recommendation_id=recommendation_id(event),
                user_id=event.user_id,
                event_id=event.event_id,
                items=items,
                model_version=POPULAR_ITEMS if fallback else ranked.model_version,
                variant=ranked.variant,
                event_time=event.timestamp,
                produced_time=now_ms,
                fallback=fallback,
                rollout_id=ranked.rollout_id,
                failed=ranked.failed,
                latency_ms=ranked.latency_ms,
                **place,
                missing=max(0, ranked.top_k - len(items)),
            )
        )
    return messages


def make_shadows(ranked: RankedLists) -> list[Shadow]:
    """What a version in shadow mode would have shown, for each user."""
    return [
        Shadow(
            model_version=ranked.model_version,
            items=[item.item_id for item in items],
            score=items[0].score if items else None,
            latency_ms=ranked.latency_ms,
            failed=ranked.failed,
        )
        for items in ranked.items
    ]


def recommendation_id(event: Interaction) -> str:
    """Names the answer to an event: the same whenever the event is answered again."""
    named = f"{event.user_id}\0{event.event_id}"
    if named.count("\0") > 1:
        # Ids may hold what stands between them: then it is said first how long one is.
        named = f"\0{len(event.user_id)}\0{named}"
    return xxhash.xxh3_128_hexdigest(named)
