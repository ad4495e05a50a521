"""The fast loop: a batch of events becomes features, and features become recommendations.

While the model computes on one batch (`stream.pipeline`), the rows of the next one are updated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faust.types import EventT
from headwater_client import EVENT_TYPES, EventError, decode

from features.store import RowStore
from features.topics import Hash
from stream import metrics
from stream.catalogue import ItemUpdate, parse_item, write_items
from stream.delivery import Commits, RecommendationProducer
from stream.failures import retry_while_unavailable
from stream.pipeline import Pipeline, stage
from stream.recommender import RecommendationRequest, Recommender
from stream.rollout_follower import RolloutFollower
from stream.row_updates import ConsumerRecord, RowChanges, RowUpdater


class RecordDecoder:
    """Decodes messages; those that break the contract become dead letters.

    Args:
        sources: the source hash of each topic and partition.
    """

    def __init__(
        self, sources: Mapping[tuple[str, int], Hash], producer: RecommendationProducer
    ) -> None:
        self._sources = sources
        self._producer = producer

    async def interactions(self, events: Sequence[EventT[bytes]]) -> list[ConsumerRecord]:
        """The interactions of a batch, in its order."""
        records = []
        for event in events:
            try:
                records.append(self._decode(event))
            except EventError as error:
                await self._producer.send_to_dead_letter(event, error)
        metrics.count_events(event.message.topic for event in events)
        return records

    def _decode(self, event: EventT[bytes]) -> ConsumerRecord:
        message = event.message
        topic, partition = message.topic, message.partition
        kind = EVENT_TYPES.spec_of_topic(topic).struct
        decoded = decode(kind, message.value, int(message.timestamp * 1000))
        source = self._sources[topic, partition]
        return ConsumerRecord(decoded, f"{topic}_{partition}", source, message.offset)

    async def item_updates(self, events: Sequence[EventT[bytes]]) -> dict[str, ItemUpdate]:
        """The newest message of each item of a batch, by item_id."""
        newest: dict[str, ItemUpdate] = {}
        for event in events:
            message = event.message
            try:
                item_id, item = parse_item(message.key, message.value)
            except EventError as error:
                await self._producer.send_to_dead_letter(event, error)
            else:
                source = self._sources[message.topic, message.partition]
                time_ms = int(message.timestamp * 1000)
                newest[item_id] = ItemUpdate(item, source, message.offset, time_ms)
        metrics.count_events(event.message.topic for event in events)
        return newest


class FastLoop:
    """Handles batches of interactions."""

    def __init__(
        self,
        decoder: RecordDecoder,
        updater: RowUpdater,
        recommender: Recommender,
        follower: RolloutFollower,
        pipeline: Pipeline,
    ) -> None:
        self._decoder = decoder
        self._updater = updater
        self._recommender = recommender
        self._follower = follower
        self._pipeline = pipeline
        self._ready = False

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Apply a batch to the rows, and let it be answered while the next one is applied.

        Raises:
            StoreRestartedError: what was read since the last commit has to be read again.
            Exception: any other failure; one of an answer ends the process.
        """
        if not self._ready:
            await self._start()
        metrics.BATCH_EVENTS.observe(len(events))
        records = await self._decoder.interactions(events)
        with stage("absorb"):
            async for attempt in retry_while_unavailable():
                with attempt:
                    changes = await self._updater.apply(records)
        self._recommender.record(changes.groups)
        calls = self._recommender.prepare(_requests(records, changes))
        await self._pipeline.start(calls, events)

    async def _start(self) -> None:
        """Before the first answer: which version to call, and what trends."""
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._follower.start()
                await self._recommender.start()
        self._ready = True


def _requests(
    records: Sequence[ConsumerRecord], changes: RowChanges
) -> list[RecommendationRequest]:
    """One request per user, for the last of the batch's events.

    A user asks at the newest event of the row, which an event that arrives late is not.
    """
    last = {event.user_id: event for event, *_ in records}
    requests = []
    for user_id, event in last.items():
        row = changes.users[user_id]
        time_ms = max(event.timestamp, row.reference_ms)
        requests.append(RecommendationRequest(user_id, time_ms, row, event))
    return requests


class CatalogueWriter:
    """Handles batches of item messages: the newest message of an item becomes its row."""

    def __init__(self, store: RowStore, decoder: RecordDecoder, commits: Commits) -> None:
        self._store = store
        self._decoder = decoder
        self._commits = commits

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Write the rows of a batch of item messages."""
        updates = await self._decoder.item_updates(events)
        async for attempt in retry_while_unavailable():
            with attempt:
                await write_items(self._store, updates)
        self._commits.mark_done(events)
