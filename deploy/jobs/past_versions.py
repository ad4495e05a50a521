"""Asks a version of the model again, of a row in memory: nothing is stored, nobody is told.

A version that answers nobody any more is asked as long as its folder is there and Triton has it.
What trends can be left out: then a version's answer hangs on the row and the moment alone.
"""

import asyncio
import copy
from functools import partial
from typing import NamedTuple

from cachetools import LRUCache
from headwater_client import HeadwaterError

from features.model_server import load_beside
from features.rollout_messages import Rollout, RoutedVersion, Variant
from features.schema import FeatureSchema, read_version
from stream.inference import REST_S, model_servers
from stream.item_views import ItemViews
from stream.recommendations import RankedLists, RecommendationRequest
from stream.recommender import Recommender
from stream.routing import Routes
from stream.settings import WorkerConfig
from stream.trending import sum_lists

_KEPT = 4
# Somebody waits for a page, not for a list: what comes too late is asked again.
_ATTEMPTS = 4
_SOME_TIME_MS = 1_600_000_000_000


class VersionProblemError(HeadwaterError):
    """A version cannot be asked; it says why, and what to do."""


class AskedVersion(NamedTuple):
    """A version that can be asked: with what trends now, and without."""

    number: int
    now: Recommender
    alone: Recommender


class PastVersions:
    """The versions of the live one's repository.

    Args:
        config: with all addresses.
        core: that answers now.
        routes: which versions answer now: beside their folders are those of others.
    """

    def __init__(self, config: WorkerConfig, core: Recommender, routes: Routes) -> None:
        self._config = config
        self._core = core
        self._routes = routes
        self._schema = FeatureSchema(config.features)
        self._servers = model_servers(config.triton)
        # It is never refreshed, and so nothing trends there.
        nothing = copy.copy(core.items.trending)
        nothing.items = sum_lists([], self._schema)
        self._still = ItemViews(core.items.catalogue, nothing, core.items.may_recommend)
        self._opened: LRUCache[str, AskedVersion] = LRUCache(_KEPT)

    async def open(self, version: int) -> AskedVersion:
        """A version, ready to be asked.

        Raises:
            VersionProblemError: it cannot be asked.
        """
        address = self._find_address(version)
        if not await asyncio.to_thread(self._is_ready, version):
            raise VersionProblemError(
                f"version {version} is not loaded in Triton: whoever may operate can load it "
                "beside those that answer: POST /v1/admin/past-versions"
            )
        if address not in self._opened:
            self._opened[address] = await asyncio.to_thread(self._open, version, address)
        return self._opened[address]

    async def load(self, version: int) -> None:
        """Load a version beside those that answer; it stays until the next one goes live.

        Raises:
            VersionProblemError: its folder is gone, or Triton refuses it.
        """
        await asyncio.to_thread(self._load, version, self._find_address(version))

    def _find_address(self, version: int) -> str:
        answering = {each.version.version: each.version.address for each in self._routes.answering}
        if version in answering:
            return answering[version]
        for address in answering.values():
            return f"{address.rstrip('/').rpartition('/')[0]}/{version}"
        raise VersionProblemError("no version is live: train a first one: headwater train")

    def _is_ready(self, version: int) -> bool:
        try:
            for server in self._servers:
                with server.connect() as triton:
                    if not triton.is_ready(version):
                        return False
        except HeadwaterError as error:
            raise VersionProblemError(f"version {version}: {error}") from error
        return True

    def _load(self, version: int, address: str) -> None:
        try:
            for server in self._servers:
                load_beside(
                    server, _route_all(version, address), self._config.worker.model_addresses
                )
        except (HeadwaterError, OSError) as error:
            raise VersionProblemError(f"version {version} cannot be loaded: {error}") from error

    def _open(self, version: int, address: str) -> AskedVersion:
        read = partial(
            read_version,
            contract=self._schema.contract,
            allowed=self._config.worker.model_addresses,
        )
        model = self._config.triton.model
        routes = Routes(model, load=read)
        routed = _route_all(version, address)
        routes.follow(Rollout(model=model, versions=[routed], time=_SOME_TIME_MS))
        if problem := routes.problems.get(Variant.STABLE):
            raise VersionProblemError(
                f"version {version} cannot be read: {problem}: trainer.keep_versions says how many "
                "are kept"
            )
        core = self._core
        return AskedVersion(version, core.ask_as(routes), core.ask_as(routes, self._still))


async def list_items(core: Recommender, request: RecommendationRequest) -> RankedLists:
    """The best items for a request; of what trends, where no version answers.

    Raises:
        ServerError: the store does not answer.
    """
    for attempt in range(_ATTEMPTS):
        (call,) = core.prepare([request])
        lists = await core.execute(call)
        if not lists.failed or attempt == _ATTEMPTS - 1:
            break
        await asyncio.sleep(REST_S)
    return lists


async def rank_items(core: Recommender, request: RecommendationRequest) -> RankedLists:
    """The candidates of a request with their scores; what the version does not know is left out.

    Raises:
        ServerError: the store does not answer.
        VersionProblemError: no version answers.
    """
    for _ in range(_ATTEMPTS):
        (call,) = core.prepare([request])
        lists = await core.rank_candidates(call)
        if not lists.fallback:
            return lists
        if not lists.failed:
            break
        await asyncio.sleep(REST_S)
    raise VersionProblemError(f"no version answers: {lists.failed or 'none is live'}")


def _route_all(version: int, address: str) -> RoutedVersion:
    return RoutedVersion(version=version, variant=Variant.STABLE, share=1.0, address=address)
