"""The writer of windows: consumes clicks and purchases, and writes each window once it is closed.

The files are the truth: a writer begins where the newest manifest says. What Kafka has of it as
committed offsets is a report for those who watch the lag, made after a file is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Event

from confluent_kafka import Message
from headwater_client.errors import EventError
from headwater_client.event_types import EVENT_TYPES

from features.kafka import ensure_topics
from features.settings import BrokerSettings
from trainer.windows.appending import WindowAppender
from trainer.windows.gathering import ClosedWindow, WindowAssembler
from trainer.windows.manifest import WindowManifest
from trainer.windows.reader import (
    Backlog,
    MessageReader,
    action_of,
    is_end,
    log_refused,
    source_of,
)
from trainer.windows.rows import WindowEvent
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore


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
        kafka: BrokerSettings,
        store: WindowStore,
        settings: WindowSettings,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = kafka
        self._store = store
        self._settings = settings
        self._now_s = now_s

    def run(self, stop: Event, *, to_end: bool = False) -> Iterator[WindowManifest]:
        """Each window, once it is whole and Kafka knows of it.

        What is open when `stop` is set stays in Kafka, for the next run.

        Args:
            stop: set it, from another thread, to end.
            to_end: end by itself once all is read that Kafka has by now.

        Raises:
            ServerError: Kafka cannot be read.
            DataError: the newest window is damaged, or a file could not be written.
            ConcurrentWriterError: another writer has written the next window.
        """
        appender = WindowAppender(self._store, self._settings)
        topic_ids = ensure_topics(self._kafka)
        with closing(
            MessageReader(self._kafka, self._settings.group, EVENT_TYPES.topics)
        ) as reader:
            sources = {source: topic_ids[source[0]] for source in reader.sources}
            gathering = appender.gathering(sources, self._now_s())
            for source, settled in gathering.settled.items():
                reader.check(source, settled)
            # Asked before it reads: between fetches a broker answers half a second later.
            backlog = reader.backlog() if to_end else None
            reader.start(gathering.resume())
            for closed in self._closed(reader, gathering, stop, backlog):
                manifest = appender.append(closed, stop)
                reader.report(closed.progress.positions)
                yield manifest

    def _closed(
        self,
        reader: MessageReader,
        gathering: WindowAssembler,
        stop: Event,
        backlog: Backlog | None,
    ) -> Iterator[ClosedWindow]:
        """Args: backlog: where to end; None: goes on until it is stopped."""
        while not (stop.is_set() or (backlog and backlog.is_read)):
            for message in reader.read():
                if backlog:
                    backlog.saw(message)
                _take(message, gathering)
                if gathering.full:
                    yield from gathering.due(self._now_s())
            yield from gathering.due(self._now_s())


def _take(message: Message, gathering: WindowAssembler) -> None:
    """One message into its window; what breaks the contract the stream has as a dead letter."""
    source = source_of(message)
    if is_end(message):
        gathering.reached_end(source)
        return
    topic, partition = source
    offset, arrived_ms = message.offset() or 0, message.timestamp()[1]
    try:
        event = action_of(message)
    except EventError as error:
        if gathering.refuse(source, offset):
            log_refused(message, error)
        return
    gathering.add(WindowEvent(topic, partition, offset, event), arrived_ms)
