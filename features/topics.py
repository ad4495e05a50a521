"""Topics as they are created and must be; and the hashes that name things in rows."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

import xxhash
from headwater_client import topics
from headwater_client.event_types import EVENT_TYPES

Hash = NewType("Hash", int)
"""Signed 64-bit xxh3, as Feast's Int64 holds it."""


@dataclass(frozen=True)
class Topic:
    """A topic as it is created, and what it must be where it exists.

    `LogAppendTime` where a message's time decides something, so that a replay decides alike: what
    lies in the future, and what was recommended before a click.

    Attributes:
        partitioned: whether it has as many partitions as `kafka.partitions` says, else 1.
        config: what it is created with.
        any_partitions: whether another number of partitions harms nothing.
        least_retention_ms: messages that go sooner may be missed; 0: they may.
    """

    name: str
    partitioned: bool
    config: dict[str, str]
    any_partitions: bool = False
    least_retention_ms: int = 0


_MURMUR, _UINT32 = 0x5BD1E995, 0xFFFF_FFFF
_DAY_MS = 86_400_000
_ARRIVAL = {"message.timestamp.type": "LogAppendTime"}
_COMPACTED = {"cleanup.policy": "compact"}

EVENTS_KEPT_DAYS = 30
_EVENTS = _ARRIVAL | {"retention.ms": str(EVENTS_KEPT_DAYS * _DAY_MS)}
_OTHER_TOPICS = (
    Topic(topics.ITEMS, True, _COMPACTED),
    Topic(topics.PEOPLE, True, _COMPACTED),
    # What is sent on to a member is in no other topic: it is there for as long as events are.
    Topic(topics.IDENTITIES, True, _EVENTS, least_retention_ms=_DAY_MS),
    Topic(
        topics.RECOMMENDATIONS,
        True,
        _ARRIVAL | {"retention.ms": str(_DAY_MS)},
        least_retention_ms=_DAY_MS // 8,
    ),
    # So far back one can ask what other rules would have earned.
    Topic(
        topics.SERVED,
        True,
        _ARRIVAL | {"retention.ms": str(7 * _DAY_MS)},
        least_retention_ms=_DAY_MS // 8,
    ),
    Topic(
        topics.DEAD_LETTERS,
        False,
        {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(topics.MAX_MESSAGE_BYTES)},
        any_partitions=True,
        least_retention_ms=_DAY_MS,
    ),
    # Leases are written all the time: without an hour's segments they would lie there for a week.
    Topic(topics.ROLLOUTS, False, _COMPACTED | {"segment.ms": str(_DAY_MS // 24)}),
    Topic(topics.PLACEMENTS, False, _COMPACTED),
    # Who has changed what, for ever: each message names the digest of the one before it.
    Topic(topics.AUDIT, False, {"retention.ms": "-1"}),
    # A command is refused 30 s after the broker took it, whatever its sender's clock says.
    Topic(topics.ROLLOUT_COMMANDS, False, _ARRIVAL | {"retention.ms": str(_DAY_MS)}),
)
# Kafka's own default, about. No message of Headwater is larger: a dead letter is cut to fit.
LEAST_MESSAGE_BYTES = 1_048_576


def list_topics() -> tuple[Topic, ...]:
    """Every topic of Headwater: those of the registered event types first."""
    events = (Topic(name, True, _EVENTS, False, _DAY_MS) for name in EVENT_TYPES.all_topics)
    return (*events, *_OTHER_TOPICS)


def topic_faults(topic: Topic, found: Mapping[str, str]) -> Iterator[str]:
    """What breaks an argument of docs/explanation/exactly-once.md in a topic that exists.

    Args:
        found: its configuration; what Kafka does not tell is taken for right.

    Yields:
        a line for each, with what sets it right.
    """
    for name, wanted in ({"cleanup.policy": "delete"} | topic.config).items():
        has, why = found.get(name, wanted), _WHY.get((name, wanted))
        if why and has != wanted:
            yield f"{name} is {has}: {why}: {_alter(topic, name, wanted)}"
    if int(found.get(_MAX_BYTES, LEAST_MESSAGE_BYTES)) < LEAST_MESSAGE_BYTES:
        yield (
            f"{_MAX_BYTES} is {found[_MAX_BYTES]}: a message that is larger would stop its "
            f"partition: {_alter(topic, _MAX_BYTES, LEAST_MESSAGE_BYTES)}"
        )


def topic_weaknesses(topic: Topic, found: Mapping[str, str]) -> Iterator[str]:
    """What makes a loss more likely in a topic that exists, likewise."""
    retention_ms = int(found.get("retention.ms", -1))
    if 0 <= retention_ms < topic.least_retention_ms:
        yield (
            f"retention.ms is {retention_ms}: a process that is down for longer misses messages: "
            f"set {topic.least_retention_ms} or more"
        )
    if topic.least_retention_ms and int(found.get("retention.bytes", -1)) >= 0:
        yield (
            f"retention.bytes is {found['retention.bytes']}: what comes in a busy hour may go "
            "before it is read: set retention.ms only"
        )
    if found.get("unclean.leader.election.enable") == "true":
        yield "unclean.leader.election.enable is true: what was acknowledged may be lost: unset it"


_MAX_BYTES = "max.message.bytes"
_WHY = {
    ("message.timestamp.type", "LogAppendTime"): (
        "when a message arrived would be what its sender says, and one wrong clock decides for all"
    ),
    ("cleanup.policy", "compact"): "what has not changed for long would be forgotten",
    ("cleanup.policy", "delete"): "only a key's newest message would be kept",
}


def _alter(topic: Topic, name: str, value: object) -> str:
    return (
        f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} "
        f"--add-config {name}={value}"
    )


@lru_cache(maxsize=65_536)
def partition_of(user_id: str, partitions: int) -> int:
    """The partition that a person's events and recommendations belong to.

    It is that of Kafka's Java client for this key: 32-bit MurmurHash2, as its `Utils.murmur2`.

    >>> [partition_of(name, 12) for name in ("ann", "bob")]
    [2, 6]
    """
    key = user_id.encode()
    words, rest = divmod(len(key), 4)
    value = 0x9747B28C ^ len(key)
    for (word,) in struct.iter_unpack("<I", key[: 4 * words]):
        mixed = word * _MURMUR & _UINT32
        mixed = (mixed ^ mixed >> 24) * _MURMUR & _UINT32
        value = value * _MURMUR & _UINT32 ^ mixed
    if rest:
        value = (value ^ int.from_bytes(key[4 * words :], "little")) * _MURMUR & _UINT32
    value = (value ^ value >> 13) * _MURMUR & _UINT32
    return ((value ^ value >> 15) & 0x7FFF_FFFF) % partitions


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
