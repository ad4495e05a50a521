"""Follows the compacted topic `placements`: a change counts without a restart."""

import asyncio

import confluent_kafka
from headwater_client.topics import PLACEMENTS

from features.kafka import read_to_end, topic_consumer, watch_brokers
from features.placement_topic import PlacementReader
from features.placements import PlacementTable
from features.settings import BrokerSettings

_POLL_S = 0.2


class PlacementFollower:
    """Reads all placements, and then what changes.

    Attributes:
        reader: says which messages count.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.reader = PlacementReader(settings)
        self._settings = settings
        self._consumer: confluent_kafka.Consumer | None = None
        self._started, self._read = asyncio.Event(), asyncio.Condition()

    @property
    def table(self) -> PlacementTable:
        """The placements that count."""
        return self.reader.table

    async def start(self) -> None:
        """Read all placements.

        Raises:
            ServerError: the topic cannot be read.
        """
        if self._started.is_set():
            # Who starts again because something else was away: `run` has the consumer by now.
            return
        await asyncio.to_thread(self._catch_up)
        self._started.set()

    def _catch_up(self) -> None:
        if self._consumer is None:
            self._consumer = topic_consumer(self._settings, PLACEMENTS, watch_brokers())
        for message in read_to_end(self._consumer, PLACEMENTS):
            self.reader.take(message)

    async def run(self) -> None:
        """Follow for ever, once `start` is done."""
        await self._started.wait()
        assert self._consumer is not None
        while True:
            message = await asyncio.to_thread(self._consumer.poll, _POLL_S)
            if message is not None:
                self.reader.take(message)
                async with self._read:
                    self._read.notify_all()

    async def reach(self, revision: int) -> None:
        """Wait until a message was read; whoever waits says for how long."""
        async with self._read:
            await self._read.wait_for(lambda: self.reader.end > revision)

    async def close(self) -> None:
        """Leave Kafka."""
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)
