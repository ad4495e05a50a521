"""Follows what was recommended and what people did, and keeps the counters of a rollout.

The counters are rows of the feature store, one a partition, with the offsets absorbed in the same
conditional write. So nothing is counted twice, whoever dies when, and a second writer is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from headwater_client.errors import HeadwaterError, ServerError
from headwater_client.events import Click, Purchase, Recommendation

from deploy.rollout.ledger import Ledger, Read
from deploy.rollout.merging import Merge
from features.columns import VERSION, decode_feedback, encode_feedback
from features.feedback import Counters, FeedbackRow, summed
from features.kafka import client_config, unreachable
from features.rollouts import is_end
from features.settings import KafkaSettings
from features.store import FEEDBACK, RowRead, RowStore, RowWrite
from features.topics import CLICKS, PURCHASES, RECOMMENDATIONS, Hash

# The first goes first where the broker took two at the same time.
TOPICS = (RECOMMENDATIONS, CLICKS, PURCHASES)
# A topic that is read to its end has nothing of before this, less what a fetch takes.
SETTLED_MS = 500
FETCH_WAIT_MS = 50
AT_ONCE = 2000
ANSWER_S = 10.0
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    CLICKS: msgspec.json.Decoder(Click),
    PURCHASES: msgspec.json.Decoder(Purchase),
    RECOMMENDATIONS: msgspec.json.Decoder(Recommendation),
}
log = structlog.get_logger()


class AnotherCounterError(HeadwaterError):
    """Another controller has written counters of this rollout meanwhile."""


@dataclass
class _Partition:
    """A ledger, what waits for its place in the order, and the row's version in the store."""

    ledger: Ledger
    merge: Merge[Read]
    version: bytes | None
    changed: bool = False


class Feedback:
    """Counts one rollout, for as long as it lasts.

    Args:
        sources: the source hash of each topic and partition.
        started_ms: when the rollout began.
        window_s: how long after it was shown a recommendation can earn.

    Attributes:
        rollout_id: which one.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        store: RowStore,
        sources: Mapping[tuple[str, int], Hash],
        rollout_id: str,
        started_ms: int,
        window_s: float,
        purchase_weight: float,
    ) -> None:
        self._store = store
        self._sources = sources
        self.rollout_id = rollout_id
        self._started_ms = started_ms
        self._window_ms = int(1000 * window_s)
        self._purchase_weight = purchase_weight
        self._at_end: set[tuple[str, int]] = set()
        self._partitions: dict[int, _Partition] = {}
        self._consumer = Consumer(
            client_config(kafka)
            | {
                # Assigned, never subscribed: where it goes on from is in the rows.
                "group.id": f"headwater-feedback-{rollout_id}",
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": str(FETCH_WAIT_MS),
                "log_level": "0",
            }
        )

    async def start(self) -> None:
        """Read the rows, and go back as far as what they have counted can still earn.

        Raises:
            ServerError: the store or Kafka does not answer.
        """
        numbers = sorted({number for topic, number in self._sources if topic == RECOMMENDATIONS})
        names = [self._row_name(number) for number in numbers]
        stored = await self._store.read([RowRead(FEEDBACK, n, FEEDBACK.columns) for n in names])
        for number, columns in zip(numbers, stored, strict=True):
            row = decode_feedback(columns)
            ledger = Ledger(self.rollout_id, row, self._window_ms, self._purchase_weight)
            self._partitions[number] = _Partition(ledger, Merge(TOPICS), columns[VERSION])
        self._consumer.assign(self._beginnings(numbers))

    def _beginnings(self, numbers: list[int]) -> list[TopicPartition]:
        """Where each partition is read from: its window before what was absorbed last.

        Nothing of this rollout was shown before it began.
        """
        since_ms = {
            number: max(
                self._started_ms - SETTLED_MS,
                self._partitions[number].ledger.row.until_ms - self._window_ms,
            )
            for number in numbers
        }
        wanted = [TopicPartition(topic, n, since_ms[n]) for topic in TOPICS for n in numbers]
        try:
            found: list[TopicPartition] = self._consumer.offsets_for_times(wanted, ANSWER_S)
        except KafkaException as error:
            raise unreachable(error) from error
        for each in found:
            if each.error is not None:
                raise ServerError(f"Kafka: topic {each.topic}: {each.error.str()}")
        return found

    def absorb(self, timeout_s: float) -> None:
        """Take what has come meanwhile.

        Raises:
            ServerError: Kafka cannot be read.
        """
        for message in self._consumer.consume(AT_ONCE, timeout_s):
            self._add(message)
        self._settle()
        for partition in self._partitions.values():
            for read in partition.merge.ready():
                partition.ledger.take(read)
                partition.changed = True

    def _add(self, message: Message) -> None:
        topic, number = message.topic() or "", message.partition() or 0
        if is_end(message):
            self._at_end.add((topic, number))
            return
        if (error := message.error()) is not None:
            raise ServerError(f"Kafka: {topic}: {error.str()}")
        self._at_end.discard((topic, number))
        time_ms = message.timestamp()[1]
        read = Read(
            self._sources[topic, number], message.offset() or 0, time_ms, _decoded(topic, message)
        )
        self._partitions[number].merge.add(topic, time_ms, read)

    def _settle(self) -> None:
        """Where a topic was read to its end, what is older than a moment is all there."""
        settled_ms = int(time.time() * 1000) - SETTLED_MS
        for topic, number in self._at_end:
            self._partitions[number].merge.nothing_before(topic, settled_ms)

    async def flush(self) -> None:
        """Write what has changed.

        Raises:
            AnotherCounterError: somebody else has written it: this controller is not the one.
            ServerError: the store does not answer.
        """
        changed = {n: one for n, one in self._partitions.items() if one.changed}
        now_ms = int(time.time() * 1000)
        encoded = {n: encode_feedback(one.ledger.row) for n, one in changed.items()}
        accepted = await self._store.write(
            [
                RowWrite(
                    FEEDBACK, self._row_name(n), encoded[n], now_ms, VERSION, changed[n].version
                )
                for n in changed
            ]
        )
        if not all(accepted):
            raise AnotherCounterError(
                f"rollout {self.rollout_id}: another controller has written its counters"
            )
        for number, one in changed.items():
            one.version, one.changed = encoded[number][VERSION], False

    def counters(self) -> dict[str, Counters]:
        """The counters by variant, all partitions together."""
        rows: list[FeedbackRow] = [one.ledger.row for one in self._partitions.values()]
        names = {name for row in rows for name in row.counters}
        return {
            name: summed([row.counters[name] for row in rows if name in row.counters])
            for name in sorted(names)
        }

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _row_name(self, number: int) -> str:
        return f"{self.rollout_id}/{number}"


def _decoded(topic: str, message: Message) -> Click | Purchase | Recommendation | None:
    """What a message says; None for what breaks the contract, which workers refuse."""
    try:
        found: Click | Purchase | Recommendation = _DECODERS[topic].decode(message.value() or b"")
        return found
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
