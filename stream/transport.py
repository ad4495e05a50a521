"""How Faust fetches, and who gets which partition: neither is among its settings."""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faust.transport.drivers import aiokafka as driver

# A fetch waits at the broker for new messages, and only of those partitions of which none are at
# hand: with Faust's 1,500 ms a message of another partition would wait as long.
FETCH_MAX_WAIT_MS = 10
# And until then it gathers: a steady trickle would otherwise cost a fetch an event.
FETCH_MIN_BYTES = 16 * 1024


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that consumes."""

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS  # noqa: SLF001
        consumer._fetch_min_bytes = FETCH_MIN_BYTES  # noqa: SLF001
        # By range, one worker gets the same partition of clicks and of purchases, and so a person.
        consumer._partition_assignment_strategy = (RangePartitionAssignor,)  # noqa: SLF001
        return consumer


class Consumer(driver.Consumer):
    """The consumer that uses it."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):
    """Faust's aiokafka transport with that consumer."""

    Consumer = Consumer
