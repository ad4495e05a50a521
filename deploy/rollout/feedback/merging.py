"""Messages of several topics in the order in which the broker took them.

What was recommended before a click decides on whom the click is credited to, so a replay has to
see the two in the same order, although they are fetched in another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class _Source(Generic[Value]):
    """Waiting messages; all from before the watermark have been added."""

    waiting: deque[tuple[int, Value]] = field(default_factory=deque)
    watermark_ms: int = -1


class TimeOrderedMerge(Generic[Value]):
    """Merges sources that are each ordered by the broker's time.

    Args:
        sources: their names; of messages of the same millisecond the first source's go first.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources: dict[str, _Source[Value]] = {name: _Source() for name in sources}

    def add(self, source: str, time_ms: int, value: Value) -> None:
        """Add the next message of a source."""
        self._sources[source].waiting.append((time_ms, value))

    def advance_watermark(self, source: str, time_ms: int) -> None:
        """Say that a source has no more messages from before this time."""
        waiting = self._sources[source]
        waiting.watermark_ms = max(waiting.watermark_ms, time_ms)

    def pop_ready(self) -> Iterator[Value]:
        """Take out the messages that no other source can precede any more."""
        while (source := self._next_source()) is not None:
            yield source.waiting.popleft()[1]

    def _next_source(self) -> _Source[Value] | None:
        """The source with the oldest message, once no other can still have an older one."""
        oldest = min(
            (source for source in self._sources.values() if source.waiting),
            key=lambda source: source.waiting[0][0],
            default=None,
        )
        if oldest is None:
            return None
        time_ms = oldest.waiting[0][0]
        idle = (source for source in self._sources.values() if not source.waiting)
        return oldest if all(source.watermark_ms > time_ms for source in idle) else None
