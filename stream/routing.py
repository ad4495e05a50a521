"""Which version of the model answers which person: follows the compacted `rollouts` topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import msgspec
import structlog
import xxhash
from confluent_kafka import Consumer, Message

from features.errors import HeadwaterError
from features.events import Rollout, RoutedVersion
from features.kafka import client_config
from features.rollouts import read_all, rollout_in
from features.settings import KafkaSettings
from features.vocabulary import FILE_NAME, Vocabulary, read_vocabulary

log = structlog.get_logger()
_POLL_S = 0.2


@dataclass(frozen=True)
class Route:
    """A version that takes traffic, with its own vocabulary."""

    version: RoutedVersion
    vocabulary: Vocabulary


class Routes:
    """The routes of one model as the newest rollout says.

    Args:
        model: name of the model.
        load: reads the vocabulary of a version from its address.
    """

    def __init__(self, model: str, load: Callable[[str], Vocabulary] = read_vocabulary) -> None:
        self.model = model
        self._load = load
        self._routes: tuple[Route, ...] = ()

    def route(self, user_id: str) -> Route | None:
        """The person's route: the same as long as the shares stay; None without any version."""
        if not self._routes:
            return None
        share = xxhash.xxh3_64_intdigest(f"{self.model}/{user_id}") / 2**64
        for route in self._routes:
            share -= route.version.share
            if share < 0:
                return route
        return self._routes[0]

    def follow(self, rollout: Rollout) -> None:
        """Take over a rollout; vocabularies at hand are kept.

        Raises:
            OSError, ValueError: a vocabulary cannot be read; the routes stay as they are.
        """
        known = {route.version.address: route.vocabulary for route in self._routes}
        self._routes = tuple(
            Route(version, known.get(version.address) or self._vocabulary(version))
            for version in rollout.versions
        )

    def _vocabulary(self, version: RoutedVersion) -> Vocabulary:
        return self._load(f"{version.address.rstrip('/')}/{FILE_NAME}")


class RolloutFollower:
    """Reads `rollouts` from its beginning and keeps `routes` up to date.

    Args:
        settings: Kafka.
        routes: what follows.
    """

    def __init__(self, settings: KafkaSettings, routes: Routes) -> None:
        self._routes = routes
        self._started = asyncio.Event()
        self._consumer = Consumer(
            client_config(settings)
            # Assigned, never subscribed: each worker reads the whole topic, and commits nothing.
            | {"group.id": f"headwater-rollouts-{uuid4()}", "enable.auto.commit": "false"}
        )

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
            if message is not None:
                await asyncio.to_thread(self._take, message)

    def _take(self, message: Message) -> None:
        if (failure := message.error()) is not None:
            log.warning("rollouts_unreadable", error=failure.str())
            return
        try:
            rollout = rollout_in(message, self._routes.model)
            if rollout is None:
                return
            self._routes.follow(rollout)
        except (msgspec.DecodeError, OSError, ValueError, HeadwaterError) as error:
            log.warning("rollout_ignored", offset=message.offset(), error=str(error))
            return
        log.info("rollout", versions={v.variant: (v.version, v.share) for v in rollout.versions})
