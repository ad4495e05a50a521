"""The writer of windows: consumes clicks and purchases, and writes each window once it is closed.

The files are the truth: a writer begins where the newest manifest says. What Kafka has of it as
committed offsets is a report for those who watch the lag, made after a file is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Event

import structlog
from confluent_kafka import Message
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
)

from features.errors import DataError
from features.events import ACTIONS, EventError, decode
from features.kafka import ensure_topics
from features.settings import KafkaSettings
from features.topics import ACTION_TOPICS
from trainer.windows.gathering import Closed, Gathering, Progress
from trainer.windows.manifest import Manifest
from trainer.windows.reader import MessageReader, is_end, source_of
from trainer.windows.repeats import Repeats
from trainer.windows.rows import Row
from trainer.windows.settings import WindowSettings
from trainer.windows.store import Draft, WindowStore

LONGEST_PAUSE_S = 30.0
log = structlog.get_logger()


class WindowWriter:
    """Writes windows until it is stopped; one for an address.

    Args:
        kafka: where Kafka is.
        store: where the windows go.
        settings: when a window is closed.
        now_s: a clock that never goes back.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        store: WindowStore,
        settings: WindowSettings,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = kafka
        self._store = store
        self._settings = settings
        self._now_s = now_s

    def run(self, stop: Event) -> Iterator[Manifest]:
        """Each window, once it is whole and Kafka knows of it.

        What is open when `stop` is set stays in Kafka, for the next run.

        Raises:
            ServerError: Kafka cannot be read.
            DataError: the newest window is damaged, or a file could not be written.
            AnotherWriterError: another writer has written the next window.
        """
        newest = self._store.newest()
        if newest:
            self._store.place(newest)
        number = newest.number if newest else 0
        topic_ids = ensure_topics(self._kafka)
        with closing(MessageReader(self._kafka, self._settings.group, ACTION_TOPICS)) as reader:
            gathering = self._gathering(newest, reader, topic_ids)
            reader.start(gathering.resume())
            for closed in self._closed(reader, gathering, stop):
                number += 1
                draft = self._store.prepare(number, closed)
                self._write(draft, stop)
                reader.report(closed.progress.positions)
                yield draft.manifest

    def _gathering(
        self, newest: Manifest | None, reader: MessageReader, topic_ids: dict[str, str]
    ) -> Gathering:
        sources = {source: topic_ids[source[0]] for source in reader.sources}
        repeats = Repeats(self._settings.remembered_events, self._newest_rows())
        progress = newest.progress if newest else Progress()
        gathering = Gathering(sources, self._settings, progress, repeats, self._now_s())
        for source, settled in gathering.settled.items():
            reader.check(source, settled)
        return gathering

    def _newest_rows(self) -> Iterator[Row]:
        """At least the last rows that are remembered, oldest first."""
        wanted = self._settings.remembered_events
        windows: list[list[Row]] = []
        for number in reversed(self._store.numbers()):
            if wanted <= 0:
                break
            windows.append(self._rows_if_readable(number))
            wanted -= sum(not row.repeated for row in windows[-1])
        for rows in reversed(windows):
            yield from rows

    def _rows_if_readable(self, number: int) -> list[Row]:
        """A damaged window costs marks of repeats; it is no reason to write no more of them."""
        try:
            return self._store.read(number).rows
        except DataError as error:
            log.warning("window_unreadable", window=number, reason=str(error))
            return []

    def _closed(self, reader: MessageReader, gathering: Gathering, stop: Event) -> Iterator[Closed]:
        while not stop.is_set():
            for message in reader.read():
                _take(message, gathering)
                if gathering.full:
                    yield from self._due(gathering)
            yield from self._due(gathering)

    def _due(self, gathering: Gathering) -> Iterator[Closed]:
        while closed := gathering.close(self._now_s()):
            yield closed

    def _write(self, draft: Draft, stop: Event) -> None:
        """Write a window; a disk that is full now may have room in a minute."""
        retrying = Retrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_exponential(max=LONGEST_PAUSE_S),
            stop=stop_after_delay(self._settings.retry_s) | stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=_log_attempt,
            reraise=True,
        )
        try:
            retrying(self._store.write, draft)
        except OSError as error:
            raise DataError(
                f"{self._store.address(draft.manifest)}: cannot be written: {error}: make room or "
                "correct windows.address, and start again: its events are still in Kafka"
            ) from error
        told = draft.manifest
        log.info(
            "window_written",
            window=told.number,
            events=told.events,
            late=told.late,
            repeated=told.repeated,
            refused=told.refused,
            reason=told.reason,
            bytes=told.size_bytes,
        )


def _take(message: Message, gathering: Gathering) -> None:
    """One message into its window; what breaks the contract the stream has as a dead letter."""
    source = source_of(message)
    if is_end(message):
        gathering.reached_end(source)
        return
    topic, partition = source
    offset, arrived_ms = message.offset() or 0, message.timestamp()[1]
    try:
        event = decode(ACTIONS[ACTION_TOPICS[topic]], message.value(), arrived_ms)
    except EventError as error:
        if gathering.refuse(source, offset):
            log.warning(
                "event_refused",
                topic=topic,
                partition=partition,
                offset=offset,
                reason=f"{error.field}: {error.expected}",
            )
        return
    gathering.add(Row(topic, partition, offset, event), arrived_ms)


def _log_attempt(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("window_not_written", attempt=state.attempt_number, reason=str(error))
