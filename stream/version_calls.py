"""What a version of the model is sent for the users of a batch, and what it answers.

Rows change while a model computes: a call is built from the rows as they are, and made at any later
moment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from headwater_client import RecommendedItem

from features.inputs import model_tensors
from features.schema import PADDING, BoolArray, FeatureSchema, Int64Array, Tensors
from stream import metrics
from stream.filtering import MAX_POOL, ItemFilter
from stream.inference import CircuitOpenError, InferenceClient, InferenceError, InferenceRequest
from stream.item_views import ItemViews
from stream.ranking import NEVER, Ranking, hide_items, hide_seen, rank, rank_candidates
from stream.recommendations import RankedLists, RecommendationRequest, longest_limit
from stream.routing import Route
from stream.settings import WorkerSettings
from stream.trending import TrendingIndex

_RULES_DEPTH = 100


@dataclass(frozen=True, slots=True)
class VersionCall:
    """What one version is sent for the users of a call, and what ranking its answer needs.

    Attributes:
        times_ms: int[B], when each user asks.
        trending: by the version's item indices.
        top_k: how many items the longest list has.
        depth: how many of a person's items are looked at, at least as many.
        wanted: which items each user may be shown; None: all.
        is_whole: the candidates are all that these users may be shown, and not what trends.
    """

    route: Route
    request: InferenceRequest
    times_ms: Sequence[int]
    trending: TrendingIndex
    top_k: int = 0
    depth: int = 0
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

    def narrow(self, allowed: BoolArray, *, is_named: bool = False) -> "VersionCall":
        """The call that is about some items only: bool[N], by the version's indices.

        They are named, or the others are left out: whichever are fewer.

        Args:
            is_named: they are named, and all of them are looked at: at most `MAX_POOL`.
        """
        tensors, users = self.request.tensors, len(self.times_ms)
        chosen, hidden = np.flatnonzero(allowed), np.flatnonzero(~allowed)
        if is_named or len(chosen) < len(hidden):
            changed = {"candidate_items": np.tile(chosen, (users, 1))}
        else:
            left_out = [tensors["excluded_items"], np.tile(hidden, (users, 1))]
            changed = {"excluded_items": np.concatenate(left_out, axis=1)}
        request = replace(self.request, tensors={**tensors, **changed})
        depth = max(self.depth, MAX_POOL) if is_named else self.depth
        return replace(self, request=request, is_whole="candidate_items" in changed, depth=depth)


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
class ModelAnswer:
    """What became of a version's call; `outputs` is None where it failed."""

    call: VersionCall
    outputs: Tensors | None
    latency_ms: float | None
    failed: str = ""

    @property
    def version(self) -> str:
        """The number of the version, as messages say it."""
        return str(self.call.route.version.version)

    def select(self, users: Sequence[int]) -> "ModelAnswer":
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
            return rank_candidates(outputs, tensors, call.trending, call.times_ms, places)
        return rank(outputs, tensors, call.trending, call.times_ms, places)

    def has_more(self, user: int) -> bool:
        """Whether the version may know more items for a user than it has answered with."""
        if self.outputs is None or self.call.is_whole:
            return False
        return bool(self.outputs["top_scores"][user].min() > NEVER)

    def bound(self, user: int, items: Sequence[RecommendedItem]) -> float:
        """The score that no item passes which is not among these, the user's best by score."""
        least = items[-1].score if len(items) >= self.call.depth else -math.inf
        if self.outputs is not None and self.has_more(user):
            least = max(least, float(self.outputs["top_scores"][user].min()))
        return least

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


class VersionCaller:
    """Builds the calls of versions, and makes them."""

    def __init__(
        self,
        settings: WorkerSettings,
        schema: FeatureSchema,
        items: ItemViews,
        client: InferenceClient,
    ) -> None:
        self._settings = settings
        self._schema = schema
        self._items = items
        self._client = client

    def look_at(self, items: ItemViews) -> "VersionCaller":
        """The same over other views of the items; it has the same connections."""
        return VersionCaller(self._settings, self._schema, items, self._client)

    def make_call(
        self, route: Route, requests: Sequence[RecommendationRequest], *, on_trial: bool
    ) -> VersionCall:
        """Build the call for these users from their rows as they are now.

        Args:
            on_trial: whether the version is not the stable one.
        """
        trending = self._items.find_trending(route)
        times_ms = [request.time_ms for request in requests]
        pools = [find_pool(request, route) for request in requests]
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
        explained = any(request.explained for request in requests)
        inference = InferenceRequest(route.version.version, tensors, on_trial, explained)
        wanted = [request.wanted for request in requests]
        top_k = longest_limit(requests, self._settings.top_k)
        depth = max(top_k, *(_depth_of(request, is_whole) for request in requests))
        return VersionCall(route, inference, times_ms, trending, top_k, depth, wanted, is_whole)

    async def call_version(self, call: VersionCall) -> ModelAnswer:
        """Call a version; a failure is an answer too."""
        variant = call.route.version.variant
        start = perf_counter()
        try:
            outputs, seconds = await self._client.infer(call.request)
            check_indices(outputs, call)
        except InferenceError as error:
            metrics.MODEL_FAILURES.labels(variant).inc(len(call.times_ms))
            was_called = not isinstance(error, CircuitOpenError)
            waited_ms = _count_ms(perf_counter() - start, variant) if was_called else None
            return ModelAnswer(call, None, waited_ms, str(error))
        return ModelAnswer(call, outputs, _count_ms(seconds, variant))

    async def close(self) -> None:
        """Close the connection to Triton."""
        await self._client.close()


def find_pool(request: RecommendationRequest, route: Route | None) -> Int64Array | None:
    """All that a request may be answered with, by a version's indices; None: too many to name."""
    if route is None:
        return None
    if request.candidates:
        return route.vocabulary.indices_of(request.candidates)
    return request.wanted.find_pool(route) if request.wanted else None


def _depth_of(request: RecommendationRequest, is_whole: bool) -> int:
    """How many items the rules of a request choose among.

    Args:
        is_whole: whether the version scores all that may be shown: then it is asked once.
    """
    if request.rules is None:
        return 0
    return MAX_POOL if is_whole and request.rules.raises else _RULES_DEPTH


def _pad(pools: Sequence[Int64Array]) -> Int64Array:
    """Each user's own candidates: int64[B, C], padded."""
    padded = np.full((len(pools), max(map(len, pools))), PADDING, np.int64)
    for user, pool in enumerate(pools):
        padded[user, : len(pool)] = pool
    return padded


def check_indices(outputs: Tensors, call: VersionCall) -> None:
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
