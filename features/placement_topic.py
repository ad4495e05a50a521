"""Placements and segments on a compacted topic: the newest of a name counts, a tombstone ends it.

A placement's revision is the offset of its message: whoever changes one, and from where, revisions
grow, and nobody hands them out.
"""

from contextlib import closing

import structlog
from confluent_kafka import Message
from headwater_client import EventError, decode, encode
from headwater_client.contract import PlacementRules, SegmentRules
from headwater_client.topics import PLACEMENTS

from features import kafka
from features.placements import (
    SEGMENT_PREFIX,
    PlacementTable,
    check_placement,
    check_segment,
    segment_key,
)
from features.rules.errors import RuleError
from features.settings import BrokerSettings

log = structlog.get_logger()


def take_message(table: PlacementTable, message: Message) -> None:
    """Take a message into a table; one that cannot be read is said, and changes nothing."""
    if message.error() is not None:
        return
    key, value = message.key() or b"", message.value()
    name = key if isinstance(key, str) else key.decode(errors="replace")
    raw = value.encode() if isinstance(value, str) else value
    try:
        _take(table, name, raw, message.offset() or 0)
    except (EventError, RuleError) as error:
        log.warning("placement_ignored", placement=name[:64], reason=str(error))


def _take(table: PlacementTable, key: str, raw: bytes | None, revision: int) -> None:
    if key.startswith(SEGMENT_PREFIX):
        name = key.removeprefix(SEGMENT_PREFIX)
        segment = None if raw is None else decode(SegmentRules, raw)
        if segment is not None:
            check_segment(name, segment)
        table.take_segment(name, segment, revision)
        return
    placement = None if raw is None else decode(PlacementRules, raw)
    if placement is not None:
        check_placement(key, placement)
    table.take(key, placement, revision)


def read_placements(settings: BrokerSettings) -> PlacementTable:
    """All placements, as they are now.

    Raises:
        ServerError: the topic cannot be read.
    """
    table = PlacementTable()
    with closing(kafka.topic_consumer(settings, PLACEMENTS)) as consumer:
        for message in kafka.read_to_end(consumer, PLACEMENTS):
            take_message(table, message)
    return table


class PlacementView:
    """The placements as they are now, for one thread.

    Attributes:
        table: the placements that count, as of the last `refresh`.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.table = PlacementTable()
        self._consumer = kafka.topic_consumer(settings, PLACEMENTS)
        self._is_read = False

    def refresh(self) -> None:
        """Take in what has changed: the first time all that there is, then what has come since.

        Raises:
            ServerError: the topic cannot be read.
        """
        if not self._is_read:
            for message in kafka.read_to_end(self._consumer, PLACEMENTS):
                take_message(self.table, message)
            self._is_read = True
        while (changed := self._consumer.poll(0)) is not None:
            take_message(self.table, changed)

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()


def write_placement(settings: BrokerSettings, name: str, placement: PlacementRules | None) -> int:
    """Write a placement, or that there is none any more; its revision.

    Raises:
        EventError, RuleError: it could not be used.
        ServerError: Kafka does not take it.
    """
    if placement is not None:
        check_placement(name, placement)
    value = None if placement is None else encode(placement)
    return kafka.write_message(settings, PLACEMENTS, name, value)


def write_segment(settings: BrokerSettings, name: str, segment: SegmentRules | None) -> int:
    """Write a segment, or that there is none any more; its revision. As `write_placement`."""
    if segment is not None:
        check_segment(name, segment)
    value = None if segment is None else encode(segment)
    return kafka.write_message(settings, PLACEMENTS, segment_key(name), value)
