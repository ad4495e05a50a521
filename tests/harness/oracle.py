"""What the rows must be, computed from the log itself by the definition of each feature.

Nothing here uses the code under test but for names and hashes: sums over events, not recurrences.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from headwater_client.event_types import CLICK, PURCHASE

from deploy.settings import Settings
from features.kafka import client_config
from features.topics import hash64


@dataclass(frozen=True)
class Logged:
    """One message of the log that keeps the contract."""

    topic: str
    partition: int
    offset: int
    user_id: str
    item_id: str
    event_id: str
    time_ms: int


def read_topic(settings: Settings, topic: str, partitions: int) -> list[tuple[int, int, bytes]]:
    """(partition, offset, value) of every message of a topic."""
    consumer = Consumer(
        client_config(settings.kafka)
        | {
            "group.id": "oracle",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            # The end is told once a fetch comes back empty: by default after half a second.
            "fetch.wait.max.ms": "20",
            "log_level": "0",
        }
    )
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
    found: list[tuple[int, int, bytes]] = []
    # Offsets say not how many there are: compaction and transactions leave gaps.
    unread = set(range(partitions))
    while unread:
        message = consumer.poll(60)
        assert message is not None, f"{topic}: partitions {unread} cannot be read to their end"
        if (error := message.error()) is None:
            found.append((message.partition(), message.offset(), message.value()))
        else:
            assert error.code() == KafkaError._PARTITION_EOF, error
            unread.discard(message.partition())
    consumer.close()
    return found


def read_log(
    settings: Settings, refused: frozenset[tuple[str, int, int]] = frozenset()
) -> list[Logged]:
    """All clicks and purchases, each event once, in the order of each partition."""
    first: dict[tuple[str, str], Logged] = {}
    for topic in (CLICK.topic, PURCHASE.topic):
        for partition, offset, value in sorted(
            read_topic(settings, topic, settings.kafka.partitions), key=lambda m: m[:2]
        ):
            if (topic, partition, offset) in refused:
                continue
            event = json.loads(value)
            logged = Logged(
                topic,
                partition,
                offset,
                event["user_id"],
                event["item_id"],
                event["event_id"],
                event["timestamp"],
            )
            first.setdefault((topic, logged.event_id), logged)
    return list(first.values())


def decayed_sums(
    times_ms: Sequence[int], reference_ms: int, half_lives: Sequence[float]
) -> list[float]:
    """Sum of 2^-(age / half-life) over the events, for each half-life, as of the reference."""
    ages = reference_ms - np.asarray(times_ms, np.float64)
    return [float(np.sum(2.0 ** (-ages / half_life))) for half_life in half_lives]


def by(log: Sequence[Logged], *names: str) -> Mapping[tuple[object, ...], list[Logged]]:
    """The events grouped by some of their fields."""
    groups: dict[tuple[object, ...], list[Logged]] = defaultdict(list)
    for event in log:
        groups[tuple(getattr(event, name) for name in names)].append(event)
    return groups


def expected_counters(
    events: Sequence[Logged], half_lives: Sequence[float]
) -> tuple[int, list[float]]:
    """(reference, counters) of one person: clicks, then purchases."""
    reference = max(event.time_ms for event in events)
    counters: list[float] = []
    for topic in (CLICK.topic, PURCHASE.topic):
        times = [event.time_ms for event in events if event.topic == topic]
        counters += decayed_sums(times, reference, half_lives)
    return reference, counters


def expected_history(events: Sequence[Logged], length: int) -> list[tuple[int, int, int]]:
    """The newest events of one person: (time, type, item)."""
    kinds = {CLICK.topic: 1, PURCHASE.topic: 2}
    return sorted((e.time_ms, kinds[e.topic], hash64(e.item_id)) for e in events)[-length:]
