"""Which version of the model answers which person: follows the compacted `rollouts` topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import xxhash
from confluent_kafka import Message
from headwater_client.errors import HeadwaterError

from features.rollout_messages import LARGEST_SHARE, Rollout, RoutedVersion, Variant
from features.rollouts import is_end, read_all, rollout_message_in, rollouts_consumer
from features.settings import KafkaSettings
from features.vocabulary import FILE_NAME, Vocabulary, read_vocabulary

log = structlog.get_logger()
_POLL_S = 0.2
_FETCH_WAIT_MS = 500


@dataclass(frozen=True, eq=False)
class Route:
    """A version that takes traffic, with its own vocabulary; one object a version and rollout.

    Attributes:
        rollout_id: of the trial that this is part of; "" for none.
    """

    version: RoutedVersion
    vocabulary: Vocabulary
    rollout_id: str = ""


@dataclass(frozen=True)
class Assignment:
    """How one person is answered: by whom, and who is asked besides, unseen."""

    shown: Route
    shadow: Route | None = None


class Routes:
    """The routes of one model as the newest rollout says.

    A person's place between 0 and 1 is a hash of person, model and rollout. The canary has the
    places from 0 on, its baseline those from the middle on: as shares grow people join them, and
    nobody leaves.

    Args:
        model: name of the model.
        load: reads the vocabulary of a version from its address.
    """

    def __init__(self, model: str, load: Callable[[str], Vocabulary] = read_vocabulary) -> None:
        self.model = model
        self._load = load
        # Replaced whole, by another thread.
        self._routes: dict[str, Route] = {}

    @property
    def stable(self) -> Route | None:
        """The version that a rollout relies on; None without any version."""
        return self._routes.get(Variant.STABLE)

    def assign(self, user_id: str) -> Assignment | None:
        """How a person is answered: the same as long as the shares stay; None without a version."""
        routes = self._routes
        stable = routes.get(Variant.STABLE)
        if stable is None:
            return None
        if len(routes) == 1:
            return Assignment(stable)
        place = bucket_of(self.model, stable.rollout_id, user_id)
        if (canary := _held(routes.get(Variant.CANARY), place)) is not None:
            return Assignment(canary)
        baseline = _held(routes.get(Variant.BASELINE), place - LARGEST_SHARE)
        if baseline is not None:
            return Assignment(baseline)
        return Assignment(stable, _held(routes.get(Variant.SHADOW), place))

    def follow(self, rollout: Rollout) -> None:
        """Take over a rollout; vocabularies at hand are kept.

        Raises:
            OSError, ValueError: a vocabulary cannot be read, or no version is stable; the routes
                stay as they are.
        """
        if rollout.version_for(Variant.STABLE) is None:
            raise ValueError("versions: none is stable: one has to be")
        known = {route.version.address: route.vocabulary for route in self._routes.values()}
        self._routes = {
            version.variant: Route(
                version,
                known.get(version.address) or self._vocabulary(version),
                rollout.rollout_id,
            )
            for version in rollout.versions
        }

    def _vocabulary(self, version: RoutedVersion) -> Vocabulary:
        return self._load(f"{version.address.rstrip('/')}/{FILE_NAME}")


def _held(route: Route | None, place: float) -> Route | None:
    """The route, if a place counted from its first one is among its own."""
    return route if route is not None and 0 <= place < route.version.share else None


def bucket_of(model: str, rollout_id: str, user_id: str) -> float:
    """Where a person stands in a rollout: from 0 up to 1, the same for whoever asks.

    >>> 0 <= place_of("temporal_llm", "r1", "ann") < 1
    True
    """
    return xxhash.xxh3_64_intdigest(f"{model}/{rollout_id}/{user_id}") / 2**64


class RolloutFollower:
    """Reads `rollouts` from its beginning and keeps `routes` up to date.

    Args:
        settings: Kafka.
        routes: what follows.
    """

    def __init__(self, settings: KafkaSettings, routes: Routes) -> None:
        self._routes = routes
        self._started = asyncio.Event()
        # A message comes at once in any case: only the topic's end, at the start, is told later.
        self._consumer = rollouts_consumer(settings, {"fetch.wait.max.ms": str(_FETCH_WAIT_MS)})

    async def start(self) -> None:
        """Read what is there, so that the first recommendation has its model.

        Raises:
            ServerError: the topic cannot be read.
        """
        await asyncio.to_thread(self._catch_up)
        self._started.set()

    def _catch_up(self) -> None:
        for message in read_all(self._consumer):
            self._take(message)

    async def run(self) -> None:
        """Follow for ever, once started."""
        await self._started.wait()
        while True:
            message = await asyncio.to_thread(self._consumer.poll, _POLL_S)
            if message is not None and not is_end(message):
                await asyncio.to_thread(self._take, message)

    def _take(self, message: Message) -> None:
        if (failure := message.error()) is not None:
            log.warning("rollouts_unreadable", error=failure.str())
            return
        rollout = rollout_message_in(message, self._routes.model)
        if not isinstance(rollout, Rollout):
            return
        try:
            self._routes.follow(rollout)
        except (OSError, ValueError, HeadwaterError) as error:
            log.warning("rollout_ignored", offset=message.offset(), error=str(error))
            return
        log.info(
            "rollout",
            rollout_id=rollout.rollout_id,
            state=rollout.phase,
            versions={v.variant: (v.version, v.share) for v in rollout.versions},
        )
