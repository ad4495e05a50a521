"""How far event time has come. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.windows.offsets import Source


class Watermark:
    """The event time up to which, as far as can be known, everything has arrived.

    It is the time of the partition that is furthest behind, so that catching up, partition after
    partition, makes nothing late. A partition that was read to its end holds nobody up: when all
    are, it is the time of the newest event. It never goes back.

        partition 0   ──────────●            10:40, more to read
        partition 1   ─────────────────●     11:20, more to read     watermark 10:40
        partition 2   ───●                   10:05, at its end

    Args:
        sources: all partitions; each holds the watermark up until it was read.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self.ms = 0
        self._reached = dict.fromkeys(sources, 0)
        self._behind = set(self._reached)

    def saw(self, source: Source, time_ms: int) -> None:
        """A partition has an event of this time, and may have more."""
        self._reached[source] = max(self._reached[source], time_ms)
        self._behind.add(source)

    def reached_end(self, source: Source) -> None:
        """A partition has nothing more for now."""
        self._behind.discard(source)

    @property
    def at_end(self) -> bool:
        """Whether every partition was read to its end."""
        return not self._behind

    def advance(self) -> bool:
        """Take in what was seen; whether time has moved."""
        before = self.ms
        reached = [self._reached[source] for source in self._behind]
        self.ms = max(before, min(reached) if reached else max(self._reached.values(), default=0))
        return self.ms > before
