"""Topics as they are created: partitions, retention; and the hashes that name things in rows."""

from dataclasses import dataclass
from typing import NewType

import xxhash
from headwater_client import topics
from headwater_client.event_types import EVENT_TYPES

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

_EVENTS = _ARRIVAL | {"retention.ms": str(30 * _DAY_MS)}
_OTHER_TOPICS = (
    Topic(topics.ITEMS, True, {"cleanup.policy": "compact"}),
    Topic(topics.RECOMMENDATIONS, True, _ARRIVAL | {"retention.ms": str(_DAY_MS)}),
    Topic(
        topics.DEAD_LETTERS,
        False,
        {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(topics.MAX_MESSAGE_BYTES)},
    ),
    Topic(topics.ROLLOUTS, False, {"cleanup.policy": "compact"}),
)


def list_topics() -> tuple[Topic, ...]:
    """Every topic of Headwater: those of the registered event types first."""
    return (*(Topic(name, True, _EVENTS) for name in EVENT_TYPES.topics), *_OTHER_TOPICS)


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
