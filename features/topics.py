"""Topics: names, partitions, retention, and the hashes that name things in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import xxhash
from headwater_client.events import EventType

CLICKS = "clicks"
PURCHASES = "purchases"
ITEMS = "items"
RECOMMENDATIONS = "recommendations"
DEAD_LETTERS = "dead-letters"
ROLLOUTS = "rollouts"

# What people do, by topic. Both have as many partitions and the same key, so that one worker
# gets both topics' partition of a person.
ACTION_TOPICS = {CLICKS: EventType.CLICK, PURCHASES: EventType.PURCHASE}

# librdkafka's name of the Java client's partitioner: whoever sends, a key has one partition.
PARTITIONER = "murmur2_random"

# A dead letter holds a message of Kafka's default limit, 1 MiB, as base64, and says why.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

Hash = NewType("Hash", int)
"""Signed 64-bit xxh3, as Feast's Int64 holds it."""


@dataclass(frozen=True)
class Topic:
    """A topic as it is created.

    `LogAppendTime` where a message's time decides something, so that a replay decides alike: what
    lies in the future, and what was recommended before a click.
    """

    name: str
    partitioned: bool
    config: dict[str, str]


_DAY_MS = 86_400_000
_ARRIVAL = {"message.timestamp.type": "LogAppendTime"}

TOPICS = (
    Topic(CLICKS, True, _ARRIVAL | {"retention.ms": str(30 * _DAY_MS)}),
    Topic(PURCHASES, True, _ARRIVAL | {"retention.ms": str(30 * _DAY_MS)}),
    Topic(ITEMS, True, {"cleanup.policy": "compact"}),
    Topic(RECOMMENDATIONS, True, _ARRIVAL | {"retention.ms": str(_DAY_MS)}),
    Topic(
        DEAD_LETTERS,
        False,
        {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(MAX_MESSAGE_BYTES)},
    ),
    Topic(ROLLOUTS, False, {"cleanup.policy": "compact"}),
)


def hash64(name: str) -> Hash:
    """The signed 64-bit xxh3 of a name: how rows and vocabularies call an item.

    >>> hash64("50")
    5335045575807542852
    """
    unsigned = xxhash.xxh3_64_intdigest(name)
    return Hash(unsigned - (1 << 64) if unsigned >> 63 else unsigned)


def source_hash(topic_id: str, partition: int) -> Hash:
    """Names one partition of one incarnation of a topic: 52 bits, so that a double holds it.

    `topic_id` is the identity that Kafka gives a topic when it is created: offsets of a topic that
    was deleted and made anew start again at 0 and must not be taken for absorbed.
    """
    return Hash(hash64(f"{topic_id}/{partition}") & ((1 << 52) - 1))
