"""The fast loop: a batch of events becomes features, and features become recommendations.

While the model thinks about one batch (`stream.pipeline`), the next one is absorbed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faust.types import EventT
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import EventError, decode

from features.topics import Hash
from stream import metrics
from stream.asking import Request
from stream.failures import retry_while_unavailable, send_to_dead_letter
from stream.pipeline import Pipeline, stage
from stream.producer import RecommendationProducer
from stream.recommender import Recommender
from stream.routing import RolloutFollower
from stream.row_updates import ConsumerRecord, RowChanges, RowUpdater
from stream.trending import TrendingSource


class FastLoop:
    """Handles batches of interactions.

    Args:
        sources: the source hash of each topic and partition.
    """

    def __init__(
        self,
        absorber: RowUpdater,
        answerer: Recommender,
        trends: TrendingSource,
        follower: RolloutFollower,
        delivery: RecommendationProducer,
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
            async for attempt in retry_while_unavailable():
                with attempt:
                    absorbed = await self._absorber.apply(arrived)
        self._trends.touch(absorbed.groups)
        groups = self._answerer.groups(_requests(arrived, absorbed))
        await self._pipeline.start(groups, events)

    async def _prepare(self) -> None:
        """Before the first answer: which version to ask, and what trends."""
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._follower.start()
                await self._trends.refresh()
        self._ready = True

    async def _arrived(self, events: Sequence[EventT[bytes]]) -> list[ConsumerRecord]:
        """The events decoded; those that break the contract become dead letters."""
        arrived = []
        for event in events:
            try:
                arrived.append(self._decoded(event))
            except EventError as error:
                await send_to_dead_letter(event, error, self._delivery)
        metrics.count_events(events)
        return arrived

    def _decoded(self, event: EventT[bytes]) -> ConsumerRecord:
        message = event.message
        topic, partition = message.topic, message.partition
        kind = EVENT_TYPES.of_topic(topic).struct
        decoded = decode(kind, message.value, int(message.timestamp * 1000))
        source = self._sources[topic, partition]
        return ConsumerRecord(decoded, f"{topic}_{partition}", source, message.offset)


def _requests(arrived: Sequence[ConsumerRecord], absorbed: RowChanges) -> list[Request]:
    """One request a person, for the last of the batch's events."""
    last = {event.user_id: event for event, *_ in arrived}
    return [Request(event, absorbed.users[user_id]) for user_id, event in last.items()]
