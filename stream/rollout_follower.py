"""Follows the compacted topic `rollouts`: routes are always those of the newest rollout."""

import asyncio

import structlog
from confluent_kafka import Message
from headwater_client import HeadwaterError

from features.rollout_messages import Rollout
from features.rollouts import is_end, read_all, rollout_message_in, rollouts_consumer
from features.settings import BrokerSettings
from stream.routing import Routes

log = structlog.get_logger()
_POLL_S = 0.2
_FETCH_WAIT_MS = 500


class RolloutFollower:
    """Reads `rollouts` from its beginning and keeps `routes` up to date.

    Args:
        settings: where Kafka is.
        routes: what is kept up to date.
    """

    def __init__(self, settings: BrokerSettings, routes: Routes) -> None:
        self._routes = routes
        self._started = asyncio.Event()
        # Only the topic's end is told that much later, once at the start; messages come at once.
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
            self._follow(message)

    async def run(self) -> None:
        """Follow for ever, once `start` is done."""
        await self._started.wait()
        while True:
            message = await asyncio.to_thread(self._consumer.poll, _POLL_S)
            if message is not None and not is_end(message):
                await asyncio.to_thread(self._follow, message)

    def _follow(self, message: Message) -> None:
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
