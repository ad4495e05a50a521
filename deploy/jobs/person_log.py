"""What the log has of one person: what they did, who they became, and the lists that they got.

All of a person is in one partition of each topic, so that is all that is read, and not more of it
than a bound. What Kafka has no longer is taken from windows, where there are some.

    windows   |- 1 -|- 2 -|- 3 -|- 4 -|
    Kafka                 |- - - - - - - - -|    of the person's partition
    read      |---------->|---------------->|
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import confluent_kafka
from confluent_kafka import Message, TopicPartition
from headwater_client import EVENT_TYPES, DeadLetter, EventError, HeadwaterError, decode, topics
from headwater_client.events import Recommendation
from headwater_client.kafka import unreachable

from deploy.settings import Settings
from features import kafka
from features.events import EventReader
from features.schema import FeatureSchema
from features.topics import Hash, partition_of, source_hash
from stream.identities import IdentityReader, IdentityRecord
from stream.row_updates import ConsumerRecord
from trainer.windows.store import WindowManifest, WindowStore

Source = tuple[str, int]
Record = ConsumerRecord | IdentityRecord
ANSWER_S = 15.0


class ReadingBounds(NamedTuple):
    """How much of the log one question may read.

    Attributes:
        events: messages of each topic of events, the newest.
        lists: messages of each topic of lists, the newest.
        windows: the newest.
        longest_s: seconds that a topic's part may take.
    """

    events: int = 1_000_000
    lists: int = 50_000
    windows: int = 500
    longest_s: float = 60.0


# For who may wait.
ALL = ReadingBounds(sys.maxsize, sys.maxsize, sys.maxsize, 3600.0)


@dataclass(frozen=True)
class PersonLog:
    """What changes one person's row.

    Attributes:
        records: each source's in its order; of several sources by when they arrived.
        missing: in words, what was before and could not be read; empty where it is all there.
    """

    records: Sequence[Record]
    missing: Sequence[str] = ()


class LoggedRecommendation(NamedTuple):
    """A list as the log has it, where it stands, and when Kafka took it."""

    told: Recommendation
    topic: str
    partition: int
    offset: int
    time_ms: int


@dataclass(frozen=True)
class SentLists:
    """Lists that a person got.

    Attributes:
        lists: the newest first.
        since_ms: by topic, of which time the oldest message is that was looked at; None where the
            topic has none since the moment that was asked for.
    """

    lists: Sequence[LoggedRecommendation]
    since_ms: Mapping[str, int | None] = field(default_factory=dict)


class _Range(NamedTuple):
    """Offsets of a partition that are read: from `start` on, up to `end`; Kafka has `first`."""

    first: int
    start: int
    end: int


class PersonLogReader:
    """Reads what the log has of one person at a time.

    Args:
        settings: where Kafka and the windows are.
        sources: what rows call each partition.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Mapping[Source, Hash],
        bounds: ReadingBounds = ReadingBounds(),  # noqa: B008 (frozen)
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._bounds = bounds
        self._partitions = settings.kafka.partitions
        self._events = EventReader(settings.events)
        self._identities = IdentityReader(
            FeatureSchema(settings.features), self._events.check_person
        )

    def read_log(self, person: str) -> PersonLog:
        """All that the log has of what changes a person's row.

        Raises:
            ServerError: Kafka does not answer.
        """
        own = partition_of(person, self._partitions)
        names = (*EVENT_TYPES.topics, topics.IDENTITIES)
        places = [(name, own) for name in names if (name, own) in self._sources]
        bounds = kafka.partition_bounds(self._settings.kafka, places)
        ranges = {
            place: _Range(first, max(first, end - self._bounds.events), end)
            for place, (first, end) in bounds.items()
        }
        records = [
            record
            for message in self._read(ranges, person.encode())
            if (record := self._decode(message)) is not None
        ]
        older, missing = self._read_windows(person, ranges)
        # Stable: what one source says at one moment stays in its order.
        ordered = sorted([*older, *records], key=attrgetter("arrived_ms"))
        return PersonLog(_keep_offsets_ascending(ordered), missing)

    def _decode(self, message: Message) -> Record | None:
        """A record as a worker reads it; None for what it refuses: that is a dead letter."""
        topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset()
        source = self._sources[topic, partition]
        time_ms = message.timestamp()[1]
        arrived_ms = self._events.arrival_ms(time_ms)
        raw = message.value()
        value = raw.encode() if isinstance(raw, str) else raw
        try:
            if topic == topics.IDENTITIES:
                key = message.key() or b""
                told, event = self._identities.read(
                    key.encode() if isinstance(key, str) else key, value
                )
                return IdentityRecord(told, source, offset or 0, arrived_ms, event)
            found = self._events.read(topic, value, time_ms)
        except EventError:
            return None
        return ConsumerRecord(found, f"{topic}_{partition}", source, offset or 0, arrived_ms)

    def _read_windows(
        self, person: str, ranges: Mapping[Source, _Range]
    ) -> tuple[list[ConsumerRecord], list[str]]:
        """What is before the ranges, out of windows; and in words what is not there either."""
        wanted = {place: each.start for place, each in ranges.items() if each.start > 0}
        if not wanted:
            return [], []
        try:
            return self._gather(WindowStore(self._settings.windows_address), person, wanted)
        except HeadwaterError as error:
            return [], [f"{_name_ranges(wanted)}, and windows cannot be read: {error}"]

    def _gather(
        self, store: WindowStore, person: str, wanted: Mapping[Source, int]
    ) -> tuple[list[ConsumerRecord], list[str]]:
        numbers, missing = store.numbers(), list[str]()
        if not numbers:
            return [], [f"{_name_ranges(wanted)}, and there are no windows"]
        last = _find_last_needed(store, numbers, wanted)
        needed = [number for number in numbers if number <= last]
        if numbers[0] != 1 or len(needed) > self._bounds.windows:
            needed = needed[-self._bounds.windows :]
            missing.append(f"windows before number {needed[0]} were not read")
        found = []
        for number in needed:
            window = store.read(number, person)
            sources = _sources_of(window.manifest)
            for row in window.rows:
                place = row.topic, row.partition
                if row.offset >= wanted.get(place, 0):
                    continue
                source, column = sources[place], f"{row.topic}_{row.partition}"
                found.append(
                    ConsumerRecord(row.event, column, source, row.offset, row.event.timestamp)
                )
        short = {
            place: start
            for place, start in wanted.items()
            if place[0] != topics.IDENTITIES and _resume(store.manifest(last), place) < start
        }
        if short:
            missing.append(f"{_name_ranges(short)}, and windows have not come so far")
        if any(topic == topics.IDENTITIES for topic, _ in wanted):
            missing.append("what was said before of who became whom is gone")
        # Within a source by its offsets; windows are by event time.
        found.sort(key=attrgetter("source", "offset"))
        return found, missing

    def read_lists(self, person: str, since_ms: int, most: int | None) -> SentLists:
        """The newest lists that a person got since a moment.

        Args:
            most: lists, at most; None: all.

        Raises:
            ServerError: Kafka does not answer.
        """
        own = partition_of(person, self._partitions)
        ranges = self._ranges_since([(name, own) for name in _LISTS], since_ms)
        found, since = list[LoggedRecommendation](), dict[str, int | None]()
        for message in self._read(ranges, None):
            since.setdefault(message.topic() or "", message.timestamp()[1])
            if message.key() == person.encode() and (told := _decode_list(message)) is not None:
                found.append(told)
        found.sort(key=attrgetter("time_ms", "offset"), reverse=True)
        return SentLists(found[:most], {name: since.get(name) for name in _LISTS})

    def read_letters(self, person: str) -> list[DeadLetter]:
        """The messages of a person that were refused, in order.

        Raises:
            ServerError: Kafka does not answer.
        """
        name = topics.DEAD_LETTERS
        try:
            with closing(self._connect()) as consumer:
                partitions = consumer.list_topics(name, ANSWER_S).topics[name].partitions
        except confluent_kafka.KafkaException as error:
            raise unreachable(error) from error
        places = [(name, number) for number in partitions]
        bounds = kafka.partition_bounds(self._settings.kafka, places)
        ranges = {place: _Range(first, first, end) for place, (first, end) in bounds.items()}
        found = []
        for message in self._read(ranges, person.encode()):
            with suppress(EventError):
                found.append(decode(DeadLetter, message.value()))
        return sorted(found, key=attrgetter("refused_time"))

    def read_newest_lists(self, most: int) -> list[LoggedRecommendation]:
        """The newest lists of all people, the newest first: a few of each partition.

        Raises:
            ServerError: Kafka does not answer.
        """
        places = [(name, n) for name in _LISTS for n in range(self._partitions)]
        bounds = kafka.partition_bounds(self._settings.kafka, places)
        ranges = {
            place: _Range(first, max(first, end - most), end)
            for place, (first, end) in bounds.items()
        }
        found = [told for m in self._read(ranges, None) if (told := _decode_list(m)) is not None]
        return sorted(found, key=attrgetter("time_ms"), reverse=True)

    def _ranges_since(self, places: Sequence[Source], since_ms: int) -> dict[Source, _Range]:
        bounds = kafka.partition_bounds(self._settings.kafka, places)
        with closing(self._connect()) as consumer:
            asked = [TopicPartition(*place, since_ms) for place in places]
            starts = kafka.ask_offsets(consumer, asked, ANSWER_S)
        ranges = {}
        for each in starts:
            first, end = bounds[each.topic, each.partition]
            # Below 0: nothing has come since.
            since = end if each.offset < 0 else each.offset
            start = max(first, since, end - self._bounds.lists)
            ranges[each.topic, each.partition] = _Range(first, start, end)
        return ranges

    def _connect(self) -> confluent_kafka.Consumer:
        return kafka.topic_consumer(self._settings.kafka, "headwater-console")

    def _read(self, ranges: Mapping[Source, _Range], key: bytes | None) -> Iterator[Message]:
        """The messages of some ranges; of one key alone, where it is named.

        Raises:
            ServerError: Kafka does not answer, or takes too long.
        """
        reaches = {place: (each.start, each.end) for place, each in ranges.items()}
        for message in kafka.read_ranges(self._connect, reaches, ANSWER_S, self._bounds.longest_s):
            if key in (None, message.key()):
                yield message


_LISTS = (topics.RECOMMENDATIONS, topics.SERVED)


def _decode_list(message: Message) -> LoggedRecommendation | None:
    raw = message.value()
    try:
        told = decode(Recommendation, raw.encode() if isinstance(raw, str) else raw)
    except EventError:
        # Who may write there may write anything.
        return None
    place = message.topic() or "", message.partition() or 0, message.offset() or 0
    return LoggedRecommendation(told, *place, message.timestamp()[1])


def _keep_offsets_ascending(records: Sequence[Record]) -> list[Record]:
    """The records so that each source's are in its order, whatever the clocks have said."""
    by_source: dict[Hash, Iterator[Record]] = {}
    for source in {record.source for record in records}:
        own = [record for record in records if record.source == source]
        by_source[source] = iter(sorted(own, key=attrgetter("offset")))
    return [next(by_source[record.source]) for record in records]


def _find_last_needed(
    store: WindowStore, numbers: Sequence[int], wanted: Mapping[Source, int]
) -> int:
    """The first window by which all is settled that is wanted; the newest where none is."""
    low, high = 0, len(numbers) - 1
    covers = partial(_covers, store, wanted)
    while low < high:
        middle = (low + high) // 2
        if covers(numbers[middle]):
            high = middle
        else:
            low = middle + 1
    return numbers[low]


def _covers(store: WindowStore, wanted: Mapping[Source, int], number: int) -> bool:
    manifest = store.manifest(number)
    events = ((place, at) for place, at in wanted.items() if place[0] != topics.IDENTITIES)
    return all(_resume(manifest, place) >= start for place, start in events)


def _resume(manifest: WindowManifest, place: Source) -> int:
    found = (each for each in manifest.progress.positions if each.source == place)
    return next((each.resume for each in found), 0)


def _sources_of(manifest: WindowManifest) -> dict[Source, Hash]:
    """What rows call the partitions of a window: of a topic that was made anew it is another."""
    return {
        each.source: source_hash(each.topic_id, each.partition)
        for each in manifest.progress.positions
    }


def _name_ranges(starts: Mapping[Source, int]) -> str:
    places = ", ".join(f"{topic}/{n} before {at}" for (topic, n), at in sorted(starts.items()))
    return f"Kafka has no longer, or was not read: {places}"
