"""Follows the compacted topic `placements`: a change counts without a restart."""

import asyncio

import confluent_kafka

from features.placement_topic import placements_consumer, read_to_end, take_message
from features.placements import PlacementTable
from features.settings import BrokerSettings

_POLL_S = 0.2


class PlacementFollower:
    """Reads all placements, and then what changes.

    Attributes:
        table: the placements that count.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.table = PlacementTable()
        self._settings = settings
        self._consumer: confluent_kafka.Consumer | None = None
        self._started = asyncio.Event()

    async def start(self) -> None:
        """Read all placements.

        Raises:
            ServerError: the topic cannot be read.
        """
        await asyncio.to_thread(self._catch_up)
        self._started.set()

    def _catch_up(self) -> None:
        if self._consumer is not None:
            # The end is told once: after a failure it is read anew.
            self._consumer.close()
        self._consumer = placements_consumer(self._settings)
        for message in read_to_end(self._consumer):
            take_message(self.table, message)

    async def run(self) -> None:
        """Follow for ever, once `start` is done."""
        await self._started.wait()
        assert self._consumer is not None
        while True:
            message = await asyncio.to_thread(self._consumer.poll, _POLL_S)
            if message is not None:
                take_message(self.table, message)

    async def close(self) -> None:
        """Leave Kafka."""
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)
