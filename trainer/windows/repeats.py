"""Events that an app sent twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from features.topics import Hash, hash64
from trainer.windows.rows import WindowEvent


class Deduplicator:
    """Marks what was sent before, within the last `limit` events that windows have.

    It knows only rows of closed windows, in their order: a writer that starts learns the same from
    the files, so that marks do not hang on when writers were killed.
    """

    def __init__(self, limit: int, written: Iterable[WindowEvent] = ()) -> None:
        self._limit = limit
        self._known: dict[Hash, None] = {}
        self.mark(row for row in written if not row.repeated)

    def mark(self, rows: Iterable[WindowEvent]) -> list[WindowEvent]:
        """The rows of the next window, what is repeated marked as such."""
        return [self._marked(row) for row in rows]

    def _marked(self, row: WindowEvent) -> WindowEvent:
        name = hash64(f"{row.topic}/{row.event.user_id}/{row.event.event_id}")
        if name in self._known:
            return msgspec.structs.replace(row, repeated=True)
        self._known[name] = None
        if len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
        return row
