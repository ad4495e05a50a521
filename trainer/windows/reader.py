"""Reads topics from given offsets on, all partitions in one process."""

import time
from collections.abc import Collection, Iterable, Mapping

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from headwater_client.errors import EventError, ServerError
from headwater_client.events import Interaction, Item, decode_item
from headwater_client.kafka import unreachable
from headwater_client.topics import ITEMS

from features.events import EventReader
from features.kafka import ask_bounds, is_end, watched_config
from features.positions import PositionError
from features.settings import BrokerSettings
from trainer.windows.assembler import OffsetTracker, Position, Source

BATCH = 500
WAIT_S = 0.2
FETCH_WAIT_MS = 100
ANSWER_S = 15.0
log = structlog.get_logger()


class MessageReader:
    """A consumer that is told where to begin: it takes part in no group, and only reports to one.

    Args:
        kafka: where Kafka is.
        group: the consumer group that offsets are reported to.
        topics: what to read, all partitions of it.

    Attributes:
        was_cut_off: a connection has broken since who reads has set it back: told before anything
            is read by a new one.

    Raises:
        ServerError: Kafka does not answer, or a topic is missing.
    """

    def __init__(self, kafka: BrokerSettings, group: str, topics: Collection[str]) -> None:
        self._group = group
        self._consumer = Consumer(
            {
                **watched_config(kafka),
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                # The end of a partition is told: it then holds event time up no longer.
                "enable.partition.eof": True,
                # Told once a fetch comes back empty; whatever else is asked waits for that, too.
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "error_cb": self._note_error,
                "log_level": "0",
            }
        )
        # A connection has broken: whoever answers at the address now may be another cluster.
        self.was_cut_off = False
        try:
            self.sources = [source for topic in topics for source in self._partitions(topic)]
        except BaseException:
            self._consumer.close()
            raise

    def bounds(self, sources: Iterable[Source]) -> dict[Source, tuple[int, int]]:
        """The first offset that Kafka has of each, and the one after the last.

        Raises:
            ServerError: Kafka does not answer.
        """
        return ask_bounds(self._consumer, sources, ANSWER_S)

    def check(self, settled: Mapping[Source, OffsetTracker]) -> None:
        """Compare what is settled with what Kafka has, and take out what it has no longer.

        Raises:
            ServerError: Kafka has less than was read from it: new messages would be taken for
                settled ones.
        """
        for (topic, partition), first in self.check_ends(settled).items():
            tracker = settled[topic, partition]
            is_new = tracker.next == 0
            gone = tracker.gone_before(first)
            if gone and not is_new:
                log.warning("events_gone", topic=topic, partition=partition, events=gone)

    def check_ends(self, settled: Mapping[Source, OffsetTracker]) -> dict[Source, int]:
        """Compare what is settled with the ends of what Kafka has; the first offsets that it has.

        Raises:
            ServerError: Kafka has less than was read from it.
        """
        bounds = self.bounds(settled)
        for (topic, partition), (_, end) in bounds.items():
            if end < (read := settled[topic, partition].next):
                raise PositionError(
                    f"Kafka: {topic}/{partition} ends at offset {end}, but windows have it up to "
                    f"{read}: Kafka has lost messages: set another windows.address"
                )
        return {source: first for source, (first, _) in bounds.items()}

    def start(self, offsets: Mapping[Source, int]) -> None:
        """Begin to read."""
        self._consumer.assign(
            [TopicPartition(*source, offset) for source, offset in offsets.items()]
        )

    def read(self, wait_s: float = WAIT_S) -> Iterable[Message]:
        """What has arrived, and the ends of partitions (`is_end`); nothing after a short wait.

        Raises:
            ServerError: a partition cannot be read.
        """
        messages = self._consumer.consume(BATCH, wait_s)
        for message in messages:
            error = message.error()
            if error is not None and not is_end(message):
                raise ServerError(f"Kafka: {message.topic()}: {error.str()}")
        return messages

    def report(self, positions: Iterable[Position]) -> None:
        """Tell Kafka how far windows have come, for those who watch the lag."""
        offsets = [
            TopicPartition(*each.source, each.resume)
            for each in positions
            if each.source in self.sources
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("offsets_not_reported", group=self._group, reason=error.args[0].str())

    def backlog(self) -> "Backlog":
        """What Kafka has by now, to be told of each message that is read."""
        return Backlog(self.bounds(self.sources))

    def close(self) -> None:
        """End reading."""
        self._consumer.close()

    def _note_error(self, error: KafkaError) -> None:
        """What librdkafka heals by itself: a broker that is away."""
        self.was_cut_off = True
        log.warning("kafka_away", reason=error.str())

    def _partitions(self, topic: str) -> list[Source]:
        try:
            known = self._consumer.list_topics(topic, ANSWER_S).topics[topic]
        except KafkaException as error:
            raise unreachable(error) from error
        if known.error is not None:
            raise ServerError(f"Kafka: {topic}: {known.error.str()}")
        return [(topic, partition) for partition in sorted(known.partitions)]


class Backlog:
    """What Kafka had at a moment: where reading ends though more arrives.

    Args:
        bounds: of each partition, as of `MessageReader.bounds`.
    """

    def __init__(self, bounds: Mapping[Source, tuple[int, int]]) -> None:
        self.starts = {source: first for source, (first, _) in bounds.items()}
        self.total = sum(end - first for first, end in bounds.values())
        self.ends = {source: end for source, (_, end) in bounds.items()}
        self._unread = dict(self.ends)

    def saw(self, message: Message) -> None:
        """A message, or the end of a partition, was read."""
        source = source_of(message)
        # The end is told where no message is: of what was compacted away, and of nothing at all.
        if is_end(message) or (message.offset() or 0) + 1 >= self._unread.get(source, 0):
            self._unread.pop(source, None)

    @property
    def is_read(self) -> bool:
        """Whether all of it was read."""
        return not self._unread


def source_of(message: Message) -> Source:
    """Where a message comes from."""
    return message.topic() or "", message.partition() or 0


def read_event(message: Message, reader: EventReader) -> Interaction:
    """The event of a message.

    Raises:
        EventError: it breaks the contract, or does not count.
    """
    return reader.read(message.topic() or "", message.value(), message.timestamp()[1])


def log_refused(message: Message, error: EventError) -> None:
    """Say which message breaks the contract, and how; the worker keeps it as a dead letter."""
    log.warning(
        "event_refused",
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        reason=f"{error.field}: {error.expected}",
    )


GROUP = "headwater-trainer"
log = structlog.get_logger()


class CatalogueReader:
    """Reads `items` from its beginning on; to be closed.

    Raises:
        ServerError: Kafka does not answer, or the topic is missing.
    """

    def __init__(self, kafka: BrokerSettings) -> None:
        self._reader = MessageReader(kafka, GROUP, [ITEMS])
        self._unread = set(self._reader.sources)
        self._found: dict[str, Item] = {}
        self._reader.start(dict.fromkeys(self._reader.sources, 0))

    def news(self) -> list[Item]:
        """What was said last of each item since the last call; the first time, of all of them.

        A removed item is not told of: workers leave it out of what they recommend.

        Raises:
            ServerError: a partition cannot be read.
        """
        until = time.monotonic() + ANSWER_S
        while True:
            # Once all is read, what comes later is fetched before anyone asks for it.
            messages = list(self._reader.read(WAIT_S if self._unread else 0.0))
            for message in messages:
                self._take(message)
            # Not until nothing comes: in a busy catalogue something always does.
            if not self._unread:
                found, self._found = list(self._found.values()), {}
                return found
            if messages:
                until = time.monotonic() + ANSWER_S
            elif time.monotonic() > until:
                raise ServerError(f"Kafka: topic {ITEMS}: no answer in {ANSWER_S:.0f} s")

    def keep_up(self) -> None:
        """Read what has come, for the next `news`: what nobody reads waits in the client's memory.

        Raises:
            ServerError: a partition cannot be read.
        """
        for message in self._reader.read(0.0):
            self._take(message)

    def close(self) -> None:
        """End reading."""
        self._reader.close()

    def _take(self, message: Message) -> None:
        if is_end(message):
            self._unread.discard(source_of(message))
            return
        self._unread.add(source_of(message))
        if message.value() is not None:
            try:
                # Workers say what had to be cut.
                item = decode_item(message.value())[0]
                self._found[item.item_id] = item
            except EventError as error:
                # Workers keep it as a dead letter.
                log.warning("item_refused", offset=message.offset(), reason=str(error))
