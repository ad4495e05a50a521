"""Consumes recommendations and interactions, and keeps a rollout's counters in the store.

The counters are rows of the feature store, one a partition, with the offsets absorbed in the same
conditional write. So nothing is counted twice, whoever dies when, and a second writer is noticed.

Feedback rows as columns of the Feast view `rollout_feedback`, and back.

V variants, one after another in every column, ordered by name.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicPartition
from headwater_client.errors import EventError, ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, Recommendation, decode
from headwater_client.kafka import unreachable
from headwater_client.topics import RECOMMENDATIONS, SERVED
from prometheus_client import Gauge

from deploy.rollout.commands import FencedError
from deploy.rollout.feedback.counters import (
    COUNTERS,
    ITEM_BITS,
    PEOPLE_BITS,
    FeedbackRow,
    Placement,
    VariantCounters,
    empty_counts,
    sum_rows,
)
from deploy.rollout.feedback.ledger import FeedbackMessage, FeedbackScope, Ledger, TimeOrderedMerge
from features.columns import (
    Columns,
    DamagedRowError,
    ReadingRow,
    Stored,
    decode_columns,
    encode_columns,
)
from features.events import EventReader, current_ms
from features.kafka import ask_bounds, ask_offsets, client_config, is_end, watched_config
from features.settings import BrokerSettings, EventSettings
from features.store import FEEDBACK, VERSION, RowRead, RowStore, RowWrite, set_aside
from features.topics import Hash, partition_of

__all__ = ["VERSION", "decode_feedback", "encode_feedback"]


def encode_feedback(row: FeedbackRow) -> Columns:
    """The columns of a row."""
    names = sorted(row.counters)
    variants = [row.counters[name] for name in names]
    return encode_columns(
        FEEDBACK,
        {
            "variants": names,
            "shown": _join(variant.shown for variant in variants),
            "reward": _join(variant.reward for variant in variants),
            "counts": _join([variant.counts[name] for name in COUNTERS] for variant in variants),
            "latencies": _join(variant.latencies.tolist() for variant in variants),
            "scores": _join(variant.scores.tolist() for variant in variants),
            "items": _join_bitmaps(variants),
            "until_ms": row.until_ms,
            "offsets": _join(sorted(row.offsets.items())),
        },
    )


def decode_feedback(stored: Stored) -> FeedbackRow:
    """The row of what `encode_feedback` wrote; an empty one where nothing is stored.

    Counters that an older release did not have are 0; those of a newer one are left out.

    Raises:
        DamagedRowError: something else is stored.
    """
    if stored["offsets"] is None:
        return FeedbackRow({}, {})
    with ReadingRow():
        return _row_of(decode_columns(FEEDBACK, stored))


def _row_of(values: Mapping[str, Any]) -> FeedbackRow:
    names = values["variants"] or []
    shown, reward, counts, latencies, scores = (
        _split(values[name] or (), names)
        for name in ("shown", "reward", "counts", "latencies", "scores")
    )
    bits = _split(np.unpackbits(np.frombuffer(values["items"] or b"", np.uint8)), names)
    # A row of an older release has no people.
    width = ITEM_BITS + PEOPLE_BITS
    if names and bits.shape[1] not in (ITEM_BITS, width):
        raise ValueError(f"items: {bits.shape[1]} bits of each variant")
    bits = np.pad(bits, ((0, 0), (0, width - bits.shape[1]))).astype(np.bool_)
    counters = {
        name: VariantCounters(
            shown=shown[index],
            reward=reward[index],
            counts=empty_counts() | dict(zip(COUNTERS, counts[index].tolist(), strict=False)),
            latencies=latencies[index],
            scores=scores[index],
            items=bits[index, :ITEM_BITS].copy(),
            people=bits[index, ITEM_BITS:].copy(),
        )
        for index, name in enumerate(names)
    }
    pairs = values["offsets"]
    sources = (Hash(source) for source in pairs[::2])
    offsets = dict(zip(sources, pairs[1::2], strict=True))
    row = FeedbackRow(counters, offsets, values["until_ms"] or 0)
    # Columns of another width cannot be added up.
    sum_rows([row])
    return row


def _join_bitmaps(variants: Sequence[VariantCounters]) -> bytes:
    """Of each variant the items, then the people; without those where none were counted."""
    bitmaps = [np.stack([variant.items for variant in variants])] if variants else []
    if any(variant.people.any() for variant in variants):
        bitmaps.append(np.stack([variant.people for variant in variants]))
    return np.packbits(np.concatenate(bitmaps, axis=1)).tobytes() if bitmaps else b""


def _split(flat: Iterable[float], names: Sequence[str]) -> npt.NDArray[Any]:
    """A flat column as a row for each variant, [V, ...]."""
    values = np.asarray(flat)
    return values.reshape(len(names), -1) if names else values.reshape(0, 0)


def _join(rows: Iterable[Iterable[float]]) -> list[float]:
    return list(chain.from_iterable(rows))


# At the end of a topic, a message older than this has been fetched.
SETTLED_MS = 500
# Beyond that, clocks that differ are told of; and what is measured is not believed.
CLOCKS_DIFFER_MS = 1_000
MAX_LEAD_MS = 60_000
TELL_S = 60.0
CLOCK_LEAD = Gauge(
    "headwater_rollout_clock_lead_seconds",
    "How far the controller's clock is ahead of the brokers', with the shortest way of a message",
)
FETCH_WAIT_MS = 50
POLL_S = 0.1
# Of each partition, for `sample_placement`.
_SAMPLED = 500
MAX_MESSAGES = 2000
ANSWER_S = 10.0
# What people were given: after an event, and by the API.
_LISTS = (RECOMMENDATIONS, SERVED)
log = structlog.get_logger()


class ClockLead:
    """How far this process's clock is ahead of the broker's, by messages that have just arrived.

    Each is a moment under way, so the least of several differences is nearest to the clocks' own.

    >>> lead = ClockLead()
    >>> for way_ms in (40, 25, 900):
    ...     lead.measure(message_ms=1_000_000, now_ms=1_002_000 + way_ms)
    >>> lead.ms
    2025
    """

    def __init__(self) -> None:
        self._newest: deque[int] = deque(maxlen=100)

    def measure(self, message_ms: int, now_ms: int) -> None:
        """Take in a message that was not there a moment ago."""
        self._newest.append(now_ms - message_ms)

    @property
    def ms(self) -> int:
        """The lead in milliseconds; 0 while nothing has arrived."""
        return max(-MAX_LEAD_MS, min(MAX_LEAD_MS, min(self._newest, default=0)))


@dataclass
class _Partition:
    """A ledger, the messages that wait for their turn, and the row's version in the store."""

    ledger: Ledger
    merge: TimeOrderedMerge[FeedbackMessage]
    version: bytes | None
    changed: bool = False


class FeedbackConsumer:
    """Counts one rollout, for as long as it lasts.

    Args:
        sources: the source hash of each topic and partition.
        events: which events count.

    Attributes:
        scope: which rollout it counts, and how.
    """

    def __init__(
        self,
        kafka: BrokerSettings,
        store: RowStore,
        sources: Mapping[tuple[str, int], Hash],
        scope: FeedbackScope,
        events: EventSettings = EventSettings(),  # noqa: B008 (frozen)
    ) -> None:
        self.scope = scope
        self._events = EventReader(events)
        self._store = store
        self._sources = sources
        self._at_end: set[tuple[str, int]] = set()
        self._lead, self._told_s = ClockLead(), -TELL_S
        self._partitions: dict[int, _Partition] = {}
        self._consumer = Consumer(
            watched_config(kafka)
            | {
                # Assigned, never subscribed: the rows say from where it continues.
                "group.id": f"headwater-feedback-{scope.rollout_id}",
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": str(FETCH_WAIT_MS),
                "log_level": "0",
            }
        )

    async def start(self) -> None:
        """Read the rows, and go back one credit window before what they have absorbed.

        Raises:
            ServerError: the store or Kafka does not answer.
        """
        numbers = sorted({number for topic, number in self._sources if topic == RECOMMENDATIONS})
        names = [self._row_name(number) for number in numbers]
        reads = [RowRead(FEEDBACK, name, FEEDBACK.columns) for name in names]
        stored = await self._store.read(reads)
        for number, read, columns in zip(numbers, reads, stored, strict=True):
            try:
                row = decode_feedback(columns)
            except DamagedRowError as error:
                # What it had counted is counted anew, from what the topics still have.
                await set_aside(self._store, read, columns, error)
                row = FeedbackRow({}, {})
            merge = TimeOrderedMerge[FeedbackMessage](list_topics())
            self._partitions[number] = _Partition(Ledger(self.scope, row), merge, columns[VERSION])
        self._consumer.assign(self._start_offsets(numbers))

    def _start_offsets(self, numbers: list[int]) -> list[TopicPartition]:
        """Where each partition is read from: one credit window before what was absorbed last.

        Nothing of this rollout was shown before it began, by whichever clock.
        """
        rows = {number: self._partitions[number].ledger.row for number in numbers}
        # A message of a time to come would let all before it be passed over.
        until_ms = {number: min(row.until_ms, current_ms()) for number, row in rows.items()}
        started_ms = self.scope.started_ms - MAX_LEAD_MS
        since_ms = {
            number: max(started_ms, until_ms[number] - self.scope.window_ms) for number in numbers
        }
        times = [TopicPartition(topic, n, since_ms[n]) for topic in list_topics() for n in numbers]
        # Where nothing is so new Kafka says "the end", which is further on once it is asked for
        # messages: what arrives in between would be passed over.
        places = [TopicPartition(each.topic, each.partition, OFFSET_END) for each in times]
        ends = ask_offsets(self._consumer, places, ANSWER_S)
        offsets = ask_offsets(self._consumer, times, ANSWER_S)
        for partition, end in zip(offsets, ends, strict=True):
            if partition.offset < 0:
                partition.offset = end.offset
        return offsets

    def absorb(self, timeout_s: float) -> None:
        """Count the messages that have arrived since.

        Raises:
            ServerError: Kafka cannot be read.
        """
        for message in self._consumer.consume(MAX_MESSAGES, timeout_s):
            self._add(message)
        self._advance_watermarks()
        for partition in self._partitions.values():
            for feedback in partition.merge.pop_ready():
                partition.ledger.apply(feedback)
                partition.changed = True

    def _add(self, message: Message) -> None:
        topic, number = message.topic() or "", message.partition() or 0
        if is_end(message):
            self._at_end.add((topic, number))
            return
        if (error := message.error()) is not None:
            raise ServerError(f"Kafka: {topic}: {error.str()}")
        time_ms = self._events.arrival_ms(message.timestamp()[1])
        if (topic, number) in self._at_end:
            self._at_end.remove((topic, number))
            self._lead.measure(time_ms, current_ms())
        source, offset = self._sources[topic, number], message.offset() or 0
        entry = FeedbackMessage(source, offset, time_ms, self._decode(topic, message))
        self._partitions[number].merge.add(topic, time_ms, entry)

    def _decode(self, topic: str, message: Message) -> Interaction | Recommendation | None:
        """What a message says; None where it breaks the contract, as workers see it too."""
        raw = message.value() or b""
        try:
            if topic in _LISTS:
                return decode(Recommendation, raw)
            return self._events.read(topic, raw, message.timestamp()[1])
        except EventError:
            return None

    def _advance_watermarks(self) -> None:
        """A topic that was read to its end holds no unread message older than a moment.

        By the broker's clock, as far as it can be known: a click would else go before the
        recommendation that led to it, and earn nothing.
        """
        lead_ms = self._lead.ms
        settled_ms = current_ms() - lead_ms - SETTLED_MS
        CLOCK_LEAD.set(lead_ms / 1000)
        if abs(lead_ms) >= CLOCKS_DIFFER_MS and time.monotonic() - self._told_s >= TELL_S:
            self._told_s = time.monotonic()
            log.warning("clocks_differ", ahead_of_kafka_s=lead_ms / 1000, remedy="set NTP up")
        for topic, number in self._at_end:
            self._partitions[number].merge.advance_watermark(topic, settled_ms)

    async def flush(self) -> None:
        """Write the rows that have changed.

        Raises:
            FencedError: somebody else has written one: this controller no longer leads.
            ServerError: the store does not answer.
        """
        changed = {n: partition for n, partition in self._partitions.items() if partition.changed}
        now_ms = current_ms()
        columns = {n: encode_feedback(partition.ledger.row) for n, partition in changed.items()}
        accepted = await self._store.write(
            [
                RowWrite(
                    FEEDBACK, self._row_name(n), columns[n], now_ms, VERSION, partition.version
                )
                for n, partition in changed.items()
            ]
        )
        if not all(accepted):
            raise FencedError(
                f"rollout {self.scope.rollout_id}: another controller has written its counters"
            )
        for number, partition in changed.items():
            partition.version, partition.changed = columns[number][VERSION], False

    def counters(self) -> dict[str, VariantCounters]:
        """The counters by variant, those of all partitions together."""
        return sum_rows([partition.ledger.row for partition in self._partitions.values()])

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _row_name(self, number: int) -> str:
        return f"{self.scope.rollout_id}/{number}"


def sample_placement(kafka: BrokerSettings, events: EventSettings) -> Placement:
    """Look at the newest interactions of each partition.

    Raises:
        ServerError: Kafka cannot be read.
    """
    config = client_config(kafka) | {
        "group.id": "headwater-rollout-status",
        "enable.auto.commit": "false",
        "enable.partition.eof": "true",
        "log_level": "0",
    }
    consumer = Consumer(config)
    try:
        return _sample_placement(consumer, EventReader(events), kafka.partitions)
    except KafkaException as error:
        raise unreachable(error) from error
    finally:
        consumer.close()


def _sample_placement(consumer: Consumer, reader: EventReader, partitions: int) -> Placement:
    reads = [TopicPartition(name, n) for name in EVENT_TYPES.topics for n in range(partitions)]
    bounds = ask_bounds(consumer, [(each.topic, each.partition) for each in reads], ANSWER_S)
    for read in reads:
        low, high = bounds[read.topic, read.partition]
        read.offset = max(low, high - _SAMPLED)
    consumer.assign(reads)
    sampled = elsewhere = ended = 0
    deadline = time.monotonic() + ANSWER_S
    while ended < len(reads) and time.monotonic() < deadline:
        for message in consumer.consume(MAX_MESSAGES, POLL_S):
            ended += is_end(message)
            if message.error() is not None:
                continue
            with suppress(EventError):
                topic, time_ms = message.topic() or "", message.timestamp()[1]
                user_id = reader.read(topic, message.value(), time_ms).user_id
                sampled += 1
                elsewhere += message.partition() != partition_of(user_id, partitions)
    return Placement(sampled, elsewhere)


def list_topics() -> tuple[str, ...]:
    """What is read. Of messages of the same millisecond those of the first topic go first."""
    return (*_LISTS, *EVENT_TYPES.all_topics)
