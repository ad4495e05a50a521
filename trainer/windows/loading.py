"""Windows of a log from files: what was done before the first event of the stream."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from threading import Event

from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from trainer.windows.appending import WindowAppender
from trainer.windows.gathering import ClosedWindow, WindowAssembler
from trainer.windows.manifest import WindowManifest
from trainer.windows.rows import WindowEvent
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore

LOADED_PARTITION = -1


class WindowLoader:
    """Writes those windows of a log that are missing.

    A writer that begins later finds none of Kafka's partitions in them, and reads all of Kafka.

    Args:
        fingerprint: names the log; it stands where a topic's id would.
        store: where the windows go.
        settings: when a window is closed.

    Raises:
        SettingsError: the newest window is of Kafka, or of another log.
        DataError: the newest window is damaged.
    """

    def __init__(self, fingerprint: str, store: WindowStore, settings: WindowSettings) -> None:
        self._appender = WindowAppender(store, settings)
        newest = self._appender.newest
        positions = newest.progress.positions if newest else ()
        if any(each.topic_id != fingerprint for each in positions):
            raise SettingsError(
                "windows.address: the windows there are of Kafka or of another log: nothing was "
                "appended; set another windows.address"
            )
        self._gathering = self._appender.gathering(dict.fromkeys(_sources(), fingerprint), 0.0)

    def write(self, events: Sequence[Interaction]) -> Iterator[WindowManifest]:
        """Each window, once it is whole.

        Args:
            events: the whole log, in event-time order.

        Raises:
            DataError: a file could not be written.
            ConcurrentWriterError: another process has written the next window.
        """
        never = Event()
        for closed in _closed(events, self._gathering):
            yield self._appender.append(closed, never)


def _sources() -> list[tuple[str, int]]:
    return [(topic, LOADED_PARTITION) for topic in EVENT_TYPES.topics]


def _closed(events: Sequence[Interaction], gathering: WindowAssembler) -> Iterator[ClosedWindow]:
    sources = _sources()
    for offset, event in enumerate(events):
        topic = EVENT_TYPES.spec_of(event).topic
        gathering.add(WindowEvent(topic, LOADED_PARTITION, offset, event), event.timestamp)
        for source in sources:
            # The log is in the order of time: no partition waits for another.
            gathering.reached_end(source)
        yield from gathering.due(0.0)
    # Nothing comes after: what is open is closed.
    yield from gathering.due(math.inf)
