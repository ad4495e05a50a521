"""The serving core: feature rows in, ranked lists out. It knows neither Kafka nor Faust.

Two steps, because rows change while a model computes. `prepare` reads the rows as they are now and
builds the calls; `execute` makes a call and ranks its answer, at any later moment.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from time import time

import numpy as np
from headwater_client import RecommendedItem

from features.columns import CatalogueEntry
from features.inputs import model_inputs, model_outputs
from features.rows import ItemGroup
from features.schema import FeatureSchema
from features.store import RowStore
from stream import metrics
from stream.catalogue import CatalogueCache, is_available
from stream.filling import ListFiller, find_short, split
from stream.filtering import ItemFilter
from stream.inference import InferenceClient
from stream.item_views import ItemViews
from stream.list_rules import ListSources
from stream.ranking import EVERY_PLACE, available_items, rank_candidates
from stream.recommendations import (
    POPULAR_ITEMS,
    RankedLists,
    RecommendationRequest,
    count_places,
    longest_limit,
)
from stream.routing import Route, Routes
from stream.row_updates import ItemGroupKey
from stream.settings import WorkerConfig, WorkerSettings
from stream.trending import TrendingSource
from stream.version_calls import InferenceCall, ModelAnswer, VersionCall, VersionCaller, find_pool

# Places ranked per item shown: a candidate stands twice, and some items are not available. Where
# these do not fill a list, all places are ranked.
_SPARE = 4
# Excluded items of a call that is made again, over all its users: 16 MB on the wire.
_MAX_EXCLUDED = 2_000_000

# Who is answered in one call: by which versions, by candidates of their own or not, with the parts
# of scores or not, by rules or not: only these have more items looked at than a list has.
_Alike = tuple[Route | None, Route | None, bool, bool, bool]


class Recommender:
    """Makes ranked lists from feature rows.

    Args:
        versions: calls the versions.
        routes: which version answers whom; may be set directly, or follow the topic `rollouts`.
    """

    def __init__(
        self, settings: WorkerSettings, items: ItemViews, routes: Routes, versions: VersionCaller
    ) -> None:
        self._settings = settings
        self._routes = routes
        self._versions = versions
        self._filler = ListFiller(settings, items)
        self.items = items

    def ask_as(self, routes: Routes, items: ItemViews | None = None) -> "Recommender":
        """The same core by other routes; it asks the same Triton.

        Args:
            items: as which it sees the items; None: as this one does.
        """
        views = items or self.items
        return Recommender(self._settings, views, routes, self._versions.look_at(views))

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
        alike: dict[_Alike, list[RecommendationRequest]] = {}
        for request in requests:
            assignment = self._routes.assign(request.user_id)
            routes = (assignment.shown, assignment.shadow) if assignment else (None, None)
            # Others would be padded to as many candidates.
            has_pool = find_pool(request, routes[0]) is not None
            has_rules = request.rules is not None
            alike.setdefault((*routes, has_pool, request.explained, has_rules), []).append(request)
        return [
            InferenceCall(
                users, self._assigned_call(shown, users), self._assigned_call(shadow, users)
            )
            for (shown, shadow, *_), users in alike.items()
        ]

    def _assigned_call(
        self, route: Route | None, requests: Sequence[RecommendationRequest]
    ) -> VersionCall | None:
        if route is None:
            return None
        stable = self._routes.stable
        on_trial = stable is None or route.version.version != stable.version.version
        return self._versions.make_call(route, requests, on_trial=on_trial)

    async def execute(self, call: InferenceCall) -> RankedLists:
        """Ranked lists by the users' version, else by the stable one, else of popular items.

        A list is full as long as anything is left that the user may be shown. What the version
        cannot fill, popular items do.

        Raises:
            ServerError: the store does not answer.
        """
        lists: list[list[RecommendedItem]] = [[] for _ in call.requests]
        if call.shown is None:
            await self._filler.fill(lists, call.requests, None)
            top_k = longest_limit(call.requests, self._settings.top_k)
            return RankedLists(self._choose(lists, call.requests), POPULAR_ITEMS, top_k=top_k)
        own = await self._versions.call_version(call.shown)
        answer = own if own.outputs else await self._call_stable(call.requests, own)
        if answer is None or not answer.outputs:
            await self._filler.fill(lists, call.requests, call.shown.route)
            route = call.shown.route
            return own.lists(self._choose(lists, call.requests, route), POPULAR_ITEMS)
        lists = await self._list_items(answer)
        await self._add_raised(lists, call.requests, answer)
        await self._filler.fill(lists, call.requests, None)
        route = answer.call.route
        chosen = self._choose(lists, call.requests, route, is_fallback=False)
        return own.lists(chosen, answer.version)

    async def rank_candidates(self, call: InferenceCall) -> RankedLists:
        """The candidates of each request in order, best first; those without a score are left out.

        Where no version answers, those that trend, most popular first.
        """
        own = await self._versions.call_version(call.shown) if call.shown else None
        answer = own if own is None or own.outputs else await self._call_stable(call.requests, own)
        if answer is not None and answer.outputs:
            made = answer.call
            ranking = rank_candidates(
                answer.outputs, made.request.tensors, made.trending, made.times_ms
            )
            lists = [list(ranking.user_items(user)) for user in range(len(call.requests))]
            return (own or answer).lists(lists, answer.version)
        lists = [self._filler.order_by_trend(request) for request in call.requests]
        if own is None:
            return RankedLists(lists, POPULAR_ITEMS)
        return own.lists(lists, POPULAR_ITEMS)

    def recall(self, request: RecommendationRequest, failed: str) -> RankedLists:
        """What trends, out of memory alone: for who cannot wait for a server that is away.

        Args:
            failed: why the user's version is not asked.
        """
        assignment = self._routes.assign(request.user_id)
        top_k = longest_limit([request], self._settings.top_k)
        if request.candidates:
            items = self._filler.order_by_trend(request)
        else:
            items = self._filler.recall(request, top_k)
            route = assignment.shown if assignment else None
            (items,) = self._choose([items], [request], route)
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
        answer = await self._versions.call_version(call)
        items = await self._list_items(answer) if answer.outputs else [[] for _ in call.times_ms]
        return answer.lists(items, answer.version)

    async def _call_stable(
        self, requests: Sequence[RecommendationRequest], failed: ModelAnswer
    ) -> ModelAnswer | None:
        """The stable version's answer in place of another's; None if it is the one that failed."""
        stable = self._routes.stable
        if stable is None or stable.version.version == failed.call.route.version.version:
            return None
        return await self._versions.call_version(
            self._versions.make_call(stable, requests, on_trial=False)
        )

    async def _list_items(self, answer: ModelAnswer) -> list[list[RecommendedItem]]:
        """What a version's users may be shown, full as long as the version knows so many."""
        top_k = answer.call.top_k
        lists = await self._cut(answer, _SPARE * answer.call.depth)
        if short := find_short(lists, top_k):
            await self._refill(lists, short, answer.select(short))
        return lists

    async def _refill(
        self, lists: list[list[RecommendedItem]], short: Sequence[int], answer: ModelAnswer
    ) -> None:
        """Fill short lists from all that a version answered, then by asking it again.

        Args:
            answer: to the users of the short lists.
        """
        for user, items in zip(short, await self._cut(answer, EVERY_PLACE), strict=True):
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
                wanted.mask_by_index(route)
                if wanted
                else await self.items.find_allowed(route).read()
            )
            named = min(np.count_nonzero(allowed), np.count_nonzero(~allowed))
            width = answer.call.request.tensors["excluded_items"].shape[1] + int(named)
            for asked in split(users, max(1, _MAX_EXCLUDED // max(1, width))):
                more = await self._versions.call_version(answer.call.select(asked).narrow(allowed))
                if not more.outputs:
                    return
                for at, items in zip(asked, await self._cut(more, EVERY_PLACE), strict=True):
                    lists[short[at]] = items
                    metrics.SHORT_LISTS.labels("version").inc(len(items) >= top_k)

    async def _cut(self, answer: ModelAnswer, places: int) -> list[list[RecommendedItem]]:
        ranking = answer.rank(places)
        available = await self.items.check(ranking.item_ids())
        return [
            available_items(ranking.user_items(user), available, answer.call.depth)
            for user in range(len(answer.call.times_ms))
        ]

    async def _add_raised(
        self,
        lists: list[list[RecommendedItem]],
        requests: Sequence[RecommendationRequest],
        answer: ModelAnswer,
    ) -> None:
        """Ask a version for what rules raise, where that may be in no list yet."""
        groups: dict[Hashable, tuple[ItemFilter, list[int]]] = {}
        for user, request in enumerate(requests if not answer.call.is_whole else ()):
            rules = request.rules
            places = count_places(request.limit, self._settings.top_k)
            if rules is None or not rules.raises:
                continue
            found = lists[user]
            for raised in rules.find_raised(found, places, answer.bound(user, found)):
                groups.setdefault(raised.key, (raised, []))[1].append(user)
        for raised, users in groups.values():
            mask = raised.mask_by_index(answer.call.route)
            if not mask.any():
                continue
            call = answer.call.select(users).narrow(mask, is_named=raised.is_named)
            more = await self._versions.call_version(call)
            if not more.outputs:
                continue
            for user, items in zip(users, await self._cut(more, EVERY_PLACE), strict=True):
                held = {item.item_id for item in lists[user]}
                lists[user] += [item for item in items if item.item_id not in held]
                lists[user].sort(key=lambda item: -item.score)

    def _choose(
        self,
        lists: Sequence[list[RecommendedItem]],
        requests: Sequence[RecommendationRequest],
        route: Route | None = None,
        *,
        is_fallback: bool = True,
    ) -> list[list[RecommendedItem]]:
        """The lists as long as each request asks, and as its rules will have them.

        A short list is the beginning of a longer one.
        """
        chosen = []
        for items, request in zip(lists, requests, strict=True):
            places = count_places(request.limit, self._settings.top_k)
            if request.rules is None:
                chosen.append(items[:places])
                continue
            trending = self.items.trending.items
            sources = ListSources(request.row, route, trending, is_fallback)
            chosen.append(request.rules.arrange(items, places, sources))
        return chosen

    async def close(self) -> None:
        """Close the connection to Triton."""
        await self._versions.close()


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
    versions = VersionCaller(settings, schema, items, client)
    return Recommender(settings, items, routes, versions)
