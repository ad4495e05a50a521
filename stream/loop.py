"""The fast loop: a batch of events becomes features, and features become recommendations.

While the model thinks about one batch (`stream.pipeline`), the next one is absorbed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faust.types import EventT
from headwater_client.events import ACTIONS, EventError, decode

from features.topics import ACTION_TOPICS, Hash
from stream import metrics
from stream.absorption import Absorbed, Absorber, Arrived
from stream.answering import Answerer
from stream.asking import Request
from stream.delivery import Delivery
from stream.pipeline import Pipeline, stage
from stream.refusing import refuse
from stream.retrying import patiently
from stream.routing import RolloutFollower
from stream.trend_lists import TrendLists


class FastLoop:
    """Handles batches of clicks and purchases.

    Args:
        sources: the source hash of each topic and partition.
    """

    def __init__(
        self,
        absorber: Absorber,
        answerer: Answerer,
        trends: TrendLists,
        follower: RolloutFollower,
        delivery: Delivery,
        pipeline: Pipeline,
        sources: Mapping[tuple[str, int], Hash],
    ) -> None:
        self._absorber = absorber
        self._answerer = answerer
        self._trends = trends
        self._follower = follower
        self._ready = False
        self._delivery = delivery
        self._pipeline = pipeline
        self._sources = sources

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Absorb a batch, and answer it while the next one is absorbed.

        Raises:
            StoreRestartedError: what was read since the last commit has to be read again.
            Exception: any other failure; one of an answer ends the process.
        """
        if not self._ready:
            await self._prepare()
        metrics.BATCH_EVENTS.observe(len(events))
        arrived = await self._arrived(events)
        with stage("absorb"):
            async for attempt in patiently():
                with attempt:
                    absorbed = await self._absorber.absorb(arrived)
        self._trends.touch(absorbed.groups)
        groups = self._answerer.groups(_requests(arrived, absorbed))
        await self._pipeline.start(groups, events)

    async def _prepare(self) -> None:
        """Before the first answer: which version to ask, and what trends."""
        async for attempt in patiently():
            with attempt:
                await self._follower.start()
                await self._trends.refresh()
        self._ready = True

    async def _arrived(self, events: Sequence[EventT[bytes]]) -> list[Arrived]:
        """The events decoded; those that break the contract become dead letters."""
        arrived = []
        for event in events:
            try:
                arrived.append(self._decoded(event))
            except EventError as error:
                await refuse(event, error, self._delivery)
        metrics.count_events(events)
        return arrived

    def _decoded(self, event: EventT[bytes]) -> Arrived:
        message = event.message
        topic, partition = message.topic, message.partition
        kind = ACTIONS[ACTION_TOPICS[topic]]
        decoded = decode(kind, message.value, int(message.timestamp * 1000))
        source = self._sources[topic, partition]
        return Arrived(decoded, f"{topic}_{partition}", source, message.offset)


def _requests(arrived: Sequence[Arrived], absorbed: Absorbed) -> list[Request]:
    """One request a person, for the last of the batch's events."""
    last = {event.user_id: event for event, *_ in arrived}
    return [Request(event, absorbed.users[user_id]) for user_id, event in last.items()]
