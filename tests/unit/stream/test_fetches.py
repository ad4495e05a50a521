"""Tests for what a worker's fetches ask for; brokers are tests/integration's and tests/faults'."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.protocol.admin import ListGroupsRequest
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchResponse_v4

from stream.fetches import (
    BUSY_MIN_BYTES,
    BUSY_WAIT_MS,
    IDLE_MIN_BYTES,
    IDLE_WAIT_MS,
    QUIET_AFTER_S,
    QUIET_EVERY_S,
    FetchSender,
)

CLICKS = [("clicks", 0), ("clicks", 1)]
ITEMS = [("items", 0), ("items", 1)]
ALL = CLICKS + ITEMS


def make_fetch(partitions: Sequence[tuple[str, int]]) -> FetchRequest:
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for topic, partition in partitions:
        topics.setdefault(topic, []).append((partition, 0, 1_048_576))
    return FetchRequest(BUSY_WAIT_MS, BUSY_MIN_BYTES, 52_428_800, 1, list(topics.items()))


@dataclass
class Broker:
    """What a sender sends to; the partitions in `busy` have a message each time.

    Attributes:
        asked: the partitions of the newest fetch.
        wait: its wait in ms, and the bytes that end it.
    """

    busy: set[tuple[str, int]] = field(default_factory=set)
    held: bool = False
    now_s: float = 1_000.0
    asked: list[tuple[str, int]] = field(default_factory=list)
    wait: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.sender = FetchSender(self.send, lambda: self.held, lambda: self.now_s)

    async def send(self, node_id: int, request: Any, **_: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return request
        built = request.build(FetchRequest_v4)
        self.asked = [(topic, one[0]) for topic, named in built.topics for one in named]
        self.wait = (built.max_wait_time, built.min_bytes)
        return FetchResponse_v4(
            0,
            [
                (topic, [(partition, 0, 1, 1, [], b"m" * ((topic, partition) in self.busy))])
                for topic, partition in self.asked
            ],
        )

    def fetch(
        self,
        partitions: Sequence[tuple[str, int]] = tuple(ALL),
        after_s: float = BUSY_WAIT_MS / 1000,
        node: int = 1,
    ) -> list[tuple[str, int]]:
        """Fetch of these partitions; returns which were asked."""
        self.now_s += after_s
        asyncio.run(self.sender(node, make_fetch(partitions)))
        return self.asked


def test_quiet_partitions_are_asked_now_and_then_while_others_are_busy() -> None:
    broker = Broker(busy={CLICKS[1]})
    assert broker.fetch() == ALL
    assert broker.fetch() == [CLICKS[1]]
    assert broker.wait == (BUSY_WAIT_MS, BUSY_MIN_BYTES)
    assert broker.fetch(after_s=QUIET_EVERY_S) == ALL


def test_a_partition_is_quiet_only_after_a_while() -> None:
    broker = Broker(busy=set(CLICKS))
    broker.fetch()
    broker.busy = {CLICKS[0]}
    steps = round(QUIET_AFTER_S / 0.04)
    asked = [broker.fetch(after_s=0.04) for _ in range(steps + 2)]
    assert all(CLICKS[1] in one for one in asked[: steps - 1])
    assert [CLICKS[0]] in asked[steps - 1 :]


def test_of_nothing_the_first_message_ends_the_wait() -> None:
    broker = Broker()
    broker.fetch()
    assert broker.fetch() == ALL
    assert broker.wait == (IDLE_WAIT_MS, IDLE_MIN_BYTES)
    broker.busy = {CLICKS[0]}
    broker.fetch()
    assert broker.fetch() == [CLICKS[0]]
    assert broker.wait == (BUSY_WAIT_MS, BUSY_MIN_BYTES)


def test_what_waits_here_keeps_the_wait_short() -> None:
    """A fetch does not name what is paused, and what is resumed meanwhile would wait as long."""
    broker = Broker(held=True)
    broker.fetch(ITEMS)
    assert broker.fetch(ITEMS) == ITEMS
    assert broker.wait == (BUSY_WAIT_MS, BUSY_MIN_BYTES)


def test_a_fetch_of_nothing_but_quiet_partitions_is_sent() -> None:
    broker = Broker(busy={CLICKS[0]})
    broker.fetch()
    assert broker.fetch([CLICKS[1], *ITEMS]) == [CLICKS[1], *ITEMS]


def test_each_broker_is_asked_by_what_it_brought_itself() -> None:
    broker = Broker(busy={CLICKS[0]})
    broker.fetch(CLICKS, node=1)
    broker.fetch(ITEMS, node=2)
    broker.fetch(ITEMS, node=2)
    assert broker.wait == (IDLE_WAIT_MS, IDLE_MIN_BYTES)
    assert broker.fetch(CLICKS, node=1) == [CLICKS[0]]


def test_other_requests_are_sent_as_they_are() -> None:
    request = ListGroupsRequest()
    assert asyncio.run(Broker().sender(1, request)) is request
