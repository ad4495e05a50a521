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
    """Messages that wait; all of before `known_ms` are there or have been given out."""

    waiting: deque[tuple[int, Value]] = field(default_factory=deque)
    known_ms: int = -1


class Merge(Generic[Value]):
    """Merges sources that are ordered in time, each but for the broker's own rounding.

    Args:
        sources: their names; at the same time the first goes first.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources: dict[str, _Source[Value]] = {name: _Source() for name in sources}

    def add(self, source: str, time_ms: int, value: Value) -> None:
        """The next message of a source."""
        self._sources[source].waiting.append((time_ms, value))

    def nothing_before(self, source: str, time_ms: int) -> None:
        """A source has no more messages of before this time than those that were added."""
        known = self._sources[source]
        known.known_ms = max(known.known_ms, time_ms)

    def ready(self) -> Iterator[Value]:
        """The messages whose place in the order is known, taken out."""
        while (found := self._next()) is not None:
            yield found.waiting.popleft()[1]

    def _next(self) -> _Source[Value] | None:
        """The source that has the oldest message, once no other can still have an older one."""
        oldest = min(
            (each for each in self._sources.values() if each.waiting),
            key=lambda each: each.waiting[0][0],
            default=None,
        )
        if oldest is None:
            return None
        time_ms = oldest.waiting[0][0]
        idle = (each for each in self._sources.values() if not each.waiting)
        return oldest if all(each.known_ms > time_ms for each in idle) else None
