"""The serving core: feature rows in, ranked lists out. It knows neither Kafka nor Faust.

Two steps, because rows change while a model computes. `prepare` reads the rows as they are now and
builds the calls; `execute` makes a call and ranks its answer, at any later moment.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, time
from typing import NamedTuple

import xxhash
from headwater_client import Interaction, RecommendedItem
from headwater_client.events import Recommendation, Shadow

from features.columns import CatalogueEntry
from features.inputs import model_inputs, model_outputs, model_tensors
from features.rows import ItemGroup, UserRow
from features.schema import FeatureSchema, Tensors
from features.store import RowStore
from stream import metrics
from stream.catalogue import CatalogueCache, is_available
from stream.inference import CircuitOpenError, InferenceClient, InferenceError, InferenceRequest
from stream.ranking import Ranking, available_items, is_seen, popular_items, rank
from stream.routing import Route, Routes
from stream.row_updates import ItemGroupKey
from stream.settings import WorkerConfig, WorkerSettings
from stream.trending import TrendingIndex, TrendingSource

# The variant of users for whom there is no version.
FALLBACK = "fallback"
POPULAR_ITEMS = "popular-items"
# Places ranked per item shown: a candidate stands twice, and some items are not available.
_SPARE = 4


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
    """

    user_id: str
    time_ms: int
    row: UserRow
    event: Interaction | None = None
    place: EventPlace | None = None


@dataclass(frozen=True, slots=True)
class VersionCall:
    """What one version is sent for the users of a call, and what ranking its answer needs.

    Attributes:
        times_ms: int[B], when each user asks.
        trending: by the version's item indices.
    """

    route: Route
    request: InferenceRequest
    times_ms: Sequence[int]
    trending: TrendingIndex


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
    """

    items: Sequence[list[RecommendedItem]]
    model_version: str
    variant: str = FALLBACK
    rollout_id: str = ""
    failed: str = ""
    latency_ms: float | None = None

    @property
    def fallback(self) -> bool:
        """Whether the lists are what trends, and no model's answer."""
        return self.model_version == POPULAR_ITEMS


@dataclass(frozen=True, slots=True)
class _VersionAnswer:
    """What became of a version's call; `ranking` is None where it failed."""

    route: Route
    ranking: Ranking | None
    latency_ms: float | None
    failed: str = ""

    @property
    def version(self) -> str:
        return str(self.route.version.version)

    def lists(self, items: Sequence[list[RecommendedItem]], model_version: str) -> RankedLists:
        """Lists for the users of this version, whoever made them."""
        return RankedLists(
            items,
            model_version,
            self.route.version.variant,
            self.route.rollout_id,
            self.failed,
            self.latency_ms,
        )


@dataclass(frozen=True)
class ItemViews:
    """A process's view of the items, read from the store and cached for a moment.

    Attributes:
        may_recommend: which entries of the catalogue may be recommended.
    """

    catalogue: CatalogueCache
    trending: TrendingSource
    may_recommend: Callable[[CatalogueEntry], bool] = is_available


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
        self._exclude_seen = bool(schema.seen_by)
        self._trending_indices: dict[str, TrendingIndex] = {}
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
        alike: dict[tuple[Route | None, Route | None], list[RecommendationRequest]] = {}
        for request in requests:
            assignment = self._routes.assign(request.user_id)
            routes = (assignment.shown, assignment.shadow) if assignment else (None, None)
            alike.setdefault(routes, []).append(request)
        return [
            InferenceCall(
                users, self._assigned_call(shown, users), self._assigned_call(shadow, users)
            )
            for (shown, shadow), users in alike.items()
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
        tensors = model_tensors(
            [request.row for request in requests],
            times_ms,
            route.vocabulary,
            self._schema,
            candidates=trending.indices[: self._settings.trending_candidates],
        )
        request = InferenceRequest(route.version.version, tensors, on_trial)
        return VersionCall(route, request, times_ms, trending)

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

        Raises:
            ServerError: the store does not answer.
        """
        if call.shown is None:
            return RankedLists(await self._rank_popular(call.requests), POPULAR_ITEMS)
        own = await self._call_version(call.shown)
        answer = own if own.ranking else await self._call_stable(call.requests, own)
        if answer is None or answer.ranking is None:
            return own.lists(await self._rank_popular(call.requests), POPULAR_ITEMS)
        return own.lists(await self._cut(answer.ranking, len(call.requests)), answer.version)

    async def execute_shadow(self, call: VersionCall) -> RankedLists:
        """What a version in shadow mode would have shown; empty lists where it failed.

        Raises:
            ServerError: the store does not answer.
        """
        answer = await self._call_version(call)
        if answer.ranking is None:
            return answer.lists([[] for _ in call.times_ms], answer.version)
        return answer.lists(await self._cut(answer.ranking, len(call.times_ms)), answer.version)

    async def _call_version(self, call: VersionCall) -> _VersionAnswer:
        """Call a version and rank what it answers; a failure is an answer too."""
        route, variant = call.route, call.route.version.variant
        start = perf_counter()
        try:
            outputs, seconds = await self._client.infer(call.request)
            _check_indices(outputs, call)
        except InferenceError as error:
            metrics.MODEL_FAILURES.labels(variant).inc(len(call.times_ms))
            was_called = not isinstance(error, CircuitOpenError)
            waited_ms = _count_ms(perf_counter() - start, variant) if was_called else None
            return _VersionAnswer(route, None, waited_ms, str(error))
        latency_ms = _count_ms(seconds, variant)
        places = _SPARE * self._settings.top_k
        ranking = rank(outputs, call.request.tensors, call.trending, call.times_ms, places)
        return _VersionAnswer(route, ranking, latency_ms)

    async def _call_stable(
        self, requests: Sequence[RecommendationRequest], failed: _VersionAnswer
    ) -> _VersionAnswer | None:
        """The stable version's answer in place of another's; None if it is the one that failed."""
        stable = self._routes.stable
        if stable is None or stable.version.version == failed.route.version.version:
            return None
        return await self._call_version(self._version_call(stable, requests, on_trial=False))

    async def _cut(self, ranking: Ranking, users: int) -> list[list[RecommendedItem]]:
        available = await self._availability(ranking.item_ids())
        return [
            available_items(ranking.user_items(user), available, self._settings.top_k)
            for user in range(users)
        ]

    async def _rank_popular(
        self, requests: Sequence[RecommendationRequest]
    ) -> list[list[RecommendedItem]]:
        newest_ms = max(request.time_ms for request in requests)
        items = popular_items(self.items.trending.items, newest_ms, self._settings.fallback_items)
        available = await self._availability(item.item_id for item in items)
        return [
            available_items(self._unseen(items, request.row), available, self._settings.top_k)
            for request in requests
        ]

    def _unseen(self, items: Iterable[RecommendedItem], row: UserRow) -> Iterable[RecommendedItem]:
        if not self._exclude_seen:
            return items
        return (item for item in items if not is_seen(row, item.item_id))

    async def _availability(self, item_ids: Iterable[str]) -> dict[str, bool]:
        entries = await self.items.catalogue.get(item_ids)
        return {name: self.items.may_recommend(entry) for name, entry in entries.items()}

    async def close(self) -> None:
        """Close the connection to Triton."""
        await self._client.close()


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
        messages.append(
            Recommendation(
                recommendation_id=recommendation_id(event),
                user_id=event.user_id,
                event_id=event.event_id,
                items=items,
                model_version=ranked.model_version,
                variant=ranked.variant,
                event_time=event.timestamp,
                produced_time=now_ms,
                fallback=ranked.fallback,
                rollout_id=ranked.rollout_id,
                failed=ranked.failed,
                latency_ms=ranked.latency_ms,
                **place,
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
