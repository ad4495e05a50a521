"""Which messages of Kafka are settled: in a window, or refused. Pure.

    offset      0  1  2  3  4  5  6  7
    message     w  w  o  w  r  o  w  .     w in a window, r refused, o open (gathered, not written)
                      ▲              ▲
                      resume         next

What lies before `next` and is not open is settled. A writer that starts reads from `resume` on and
passes over what is settled, so it gathers exactly what no window has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

Source = tuple[str, int]
"""Topic and partition."""


class Position(Struct, frozen=True):
    """How far one partition is settled, as a manifest keeps it.

    Attributes:
        topic_id: Kafka's own id: a topic that is deleted and made anew begins again at offset 0.
        next: the first offset that was never read.
        open: ranges [first, end) of offsets below it that are in no window yet.
    """

    topic: str
    topic_id: str
    partition: int
    next: int
    open: list[tuple[int, int]] = []

    @property
    def source(self) -> Source:
        return self.topic, self.partition

    @property
    def resume(self) -> int:
        """Where a consumer has to begin."""
        return self.open[0][0] if self.open else self.next


class OffsetTracker:
    """Which messages of one partition are settled, kept up to date."""

    def __init__(self, next_offset: int = 0, still_open: Iterable[int] = ()) -> None:
        self.next = next_offset
        self._open = set(still_open)

    @classmethod
    def from_position(cls, position: Position) -> OffsetTracker:
        """As a manifest has it."""
        ranges = (range(first, end) for first, end in position.open)
        return cls(position.next, (offset for each in ranges for offset in each))

    def has(self, offset: int) -> bool:
        """Whether a message is in a window already, or was refused."""
        return offset < self.next and offset not in self._open

    def read(self, offset: int) -> None:
        """A message was read and waits for its window."""
        self._open.add(offset)
        self.next = max(self.next, offset + 1)

    def settle(self, offset: int) -> None:
        """A message is in a window that closes now, or is refused."""
        self._open.discard(offset)
        self.next = max(self.next, offset + 1)

    def gone_before(self, offset: int) -> int:
        """Kafka has nothing before this offset any more: how many messages no window will have."""
        lost = {each for each in self._open if each < offset}
        self._open -= lost
        skipped = max(0, offset - self.next)
        self.next += skipped
        return len(lost) + skipped

    def position(self, source: Source, topic_id: str) -> Position:
        """For a manifest."""
        topic, partition = source
        return Position(topic, topic_id, partition, self.next, list(_ranges(self._open)))


def _ranges(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ranges [first, end) of whole numbers.

    >>> list(_ranges([7, 3, 4]))
    [(3, 5), (7, 8)]
    """
    first = end = None
    for offset in sorted(offsets):
        if first is not None and end == offset:
            end = offset + 1
            continue
        if first is not None and end is not None:
            yield first, end
        first, end = offset, offset + 1
    if first is not None and end is not None:
        yield first, end
