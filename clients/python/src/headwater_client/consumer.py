"""Receives recommendations.

>>> from headwater_client import KafkaSettings, RecommendationConsumer
>>> def example() -> None:
...     with RecommendationConsumer(KafkaSettings("localhost:9092"), group="home-page") as answers:
...         for recommendation in answers:
...             print(recommendation.user_id, [item.item_id for item in recommendation.items])
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headwater_client.errors import EventError, ForkedError, ServerError
from headwater_client.events import Recommendation, decode
from headwater_client.kafka import TOLD_MS, BrokerWatch, KafkaSettings, ProcessBound, unreachable
from headwater_client.topics import RECOMMENDATIONS

WAIT_S = 0.5
ANSWER_S = 15.0
FETCH_WAIT_MS = 20
_PAUSE_S = 0.1
_NO_LEADER_YET = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    # Of a broker whose process slept, in the moment in which it goes on.
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001  (its public name)
)
log = logging.getLogger("headwater_client")


class RecommendationConsumer(ProcessBound):
    """Receives recommendations.

    With a `group`, the members of the group share the people among them, and a recommendation is
    done when the next one is asked for: after a crash it comes again (at least once), with the same
    recommendation_id. A new group begins with what is made from now on.

    Without a group, all people's recommendations from now on: from the moment that the constructor
    returns, nothing is missed. Nothing is remembered after.

    A client that Kafka's shutdown left without brokers for good (`BrokerWatch`) is made anew, and
    goes on where it was.

    Make one in each process: in a child that was forked from the one that made it, it raises
    `ForkedError`, and closing it does nothing.

    Args:
        settings: where Kafka is.
        group: name of the consumer group.
        timeout_s: iterating ends after so long without a recommendation; default: never.
        options: more of librdkafka's configuration.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str | None = None,
        timeout_s: float | None = None,
        options: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._group = group
        self._done: Message | None = None
        self._watch = BrokerWatch()
        self._is_lost = False
        self._config = {
            **settings.client_config(),
            "group.id": group or f"headwater-client-{uuid4()}",
            "auto.offset.reset": "latest",
            # A fetch that is parked at the broker holds up what arrives meanwhile for
            # partitions that it left out: by default for half a second.
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "enable.auto.commit": group is not None,
            "enable.auto.offset.store": False,
            "statistics.interval.ms": TOLD_MS,
            "stats_cb": self._hear,
            **(options or {}),
        }
        super().__init__(handle := Consumer(self._config))
        if group:
            handle.subscribe([RECOMMENDATIONS])
        else:
            handle.assign(self._end_offsets())

    def receive(self, timeout_s: float) -> Recommendation | None:
        """The next recommendation; None if there is none for so long.

        Raises:
            ServerError: Kafka cannot be read.
            EventError: a message on the topic is not a recommendation; the next call goes on.
            ForkedError: this consumer was made before a fork, in the parent.
        """
        if self.is_inherited:
            raise ForkedError(
                f"this RecommendationConsumer was made in process {self._pid}, before a fork: make "
                f"one in process {os.getpid()}"
            )
        self._mark_done()
        if self._is_lost:
            self._begin_anew()
        message = self._handle.poll(timeout_s)
        if message is None:
            return None
        if (error := message.error()) is not None:
            raise ServerError(f"Kafka: {RECOMMENDATIONS}: {error.str()}")
        self._done = message
        return decode(Recommendation, message.value())

    def __iter__(self) -> Iterator[Recommendation]:
        quiet_since = time.monotonic()
        while self._timeout_s is None or time.monotonic() - quiet_since < self._timeout_s:
            # In short waits, between which Ctrl-C is heard.
            try:
                recommendation = self.receive(min(WAIT_S, self._timeout_s or WAIT_S))
            except EventError as error:
                # A loop over recommendations does not end for one that somebody else has written.
                log.warning("passed over: no recommendation: %s: %s", error.field, error.expected)
                continue
            if recommendation is not None:
                yield recommendation
                quiet_since = time.monotonic()

    def close(self) -> None:
        """Leave the group; its offsets are committed up to the recommendation before the last."""
        if not self.is_inherited:
            self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def _mark_done(self) -> None:
        if self._group and self._done is not None:
            # Refused where the partition has gone to another member, which gets it again.
            with suppress(KafkaException):
                self._handle.store_offsets(message=self._done)
        self._done = None

    def _hear(self, statistics: str) -> None:
        self._is_lost = self._is_lost or self._watch.hear(statistics)

    def _begin_anew(self) -> None:
        """Another client in place of one that is lost, where that one was."""
        log.warning("the client of recommendations had lost its brokers for good: it begins anew")
        places = [] if self._group else self._handle.assignment()
        # Without a position before a partition's first message: it was told where to begin.
        begun = {place.partition: place for place in self._handle.position(places)}
        for place in places:
            if begun[place.partition].offset >= 0:
                place.offset = begun[place.partition].offset
        self._handle.close()
        self._is_lost = False
        self._bind(handle := Consumer(self._config))
        if self._group:
            handle.subscribe([RECOMMENDATIONS])
        else:
            handle.assign(places)

    def _end_offsets(self) -> list[TopicPartition]:
        """Where each partition ends now; those that have just been made wait for their leaders."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                return self._ask_ends()
            except KafkaException as error:
                if error.args[0].code() not in _NO_LEADER_YET or time.monotonic() > deadline:
                    self._handle.close()
                    raise unreachable(error) from error
            except ServerError:
                self._handle.close()
                raise
            time.sleep(_PAUSE_S)

    def _ask_ends(self) -> list[TopicPartition]:
        # Anew each time: librdkafka keeps for minutes what it was told of a topic.
        topic = self._handle.list_topics(RECOMMENDATIONS, ANSWER_S).topics[RECOMMENDATIONS]
        if topic.error is not None and topic.error.code() in _NO_LEADER_YET:
            raise KafkaException(topic.error)
        if topic.error is not None:
            raise ServerError(f"Kafka: {RECOMMENDATIONS}: {topic.error.str()}")
        partitions = [TopicPartition(RECOMMENDATIONS, number) for number in topic.partitions]
        for partition in partitions:
            partition.offset = int(self._handle.get_watermark_offsets(partition, ANSWER_S)[1])
        return partitions
