"""Appends windows to those that there are: where the newest one ended, each written whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Event

import structlog
from headwater_client.errors import DataError

from trainer.retrying import retrying
from trainer.windows.gathering import AssemblyState, ClosedWindow, WindowAssembler
from trainer.windows.manifest import WindowManifest
from trainer.windows.offsets import Source
from trainer.windows.repeats import Deduplicator
from trainer.windows.rows import WindowEvent
from trainer.windows.settings import WindowSettings
from trainer.windows.store import StagedWindow, WindowStore

LONGEST_PAUSE_S = 30.0
log = structlog.get_logger()


class WindowAppender:
    """Writes the windows after the newest one; one for an address.

    Args:
        store: where the windows go.
        settings: when a window is closed.

    Raises:
        DataError: the newest window is damaged.
    """

    def __init__(self, store: WindowStore, settings: WindowSettings) -> None:
        self._store = store
        self._settings = settings
        self.newest = store.newest()
        if self.newest:
            store.place(self.newest)
        self._number = self.newest.number if self.newest else 0

    def gathering(self, sources: Mapping[Source, str], now_s: float) -> WindowAssembler:
        """What gathers the events that no window has; arguments as of `WindowAssembler`."""
        repeats = Deduplicator(self._settings.dedup_window, self._newest_rows())
        progress = self.newest.progress if self.newest else AssemblyState()
        return WindowAssembler(sources, self._settings, progress, repeats, now_s)

    def append(self, closed: ClosedWindow, stop: Event) -> WindowManifest:
        """Write the next window.

        Args:
            stop: set it, from another thread, to end trying again.

        Raises:
            DataError: a file could not be written.
            ConcurrentWriterError: another process has written this window.
        """
        self._number += 1
        draft = self._store.prepare(self._number, closed)
        self._write(draft, stop)
        return draft.manifest

    def _newest_rows(self) -> Iterator[WindowEvent]:
        """At least the last rows that are remembered, oldest first."""
        wanted = self._settings.dedup_window
        windows: list[list[WindowEvent]] = []
        for number in reversed(self._store.numbers()):
            if wanted <= 0:
                break
            windows.append(self._rows_if_readable(number))
            wanted -= sum(not row.repeated for row in windows[-1])
        for rows in reversed(windows):
            yield from rows

    def _rows_if_readable(self, number: int) -> list[WindowEvent]:
        """A damaged window costs marks of repeats; it is no reason to write no more of them."""
        try:
            return self._store.read(number).rows
        except DataError as error:
            log.warning("window_unreadable", window=number, reason=str(error))
            return []

    def _write(self, draft: StagedWindow, stop: Event) -> None:
        """Write a window; a disk that is full now may have room in a minute."""
        write = retrying(
            self._settings.retry_s,
            OSError,
            longest_pause_s=LONGEST_PAUSE_S,
            told="window_not_written",
            stop=stop,
        )
        try:
            write(self._store.write, draft)
        except OSError as error:
            raise DataError(
                f"{self._store.address(draft.manifest)}: cannot be written: {error}: make room or "
                "correct windows.address, and start again: none of its events is lost"
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
