"""Assembles windows of events: which event is in which, when one closes, what is repeated. Pure.

A ruler of event time, with windows of an hour and ten minutes of allowed lateness:

    10:00            11:00            12:00            13:00
      ├── window A ────┼── window B ────┼── window C ────┤
                                            ▲
                                            watermark 12:15: A was closed when it passed 11:10, B
                                            when it passed 12:10. An event of 10:50 that comes now
                                            is late: it is in whatever closes next, and marked.

Which messages of Kafka are settled: in a window, or refused. Pure.

    offset      0  1  2  3  4  5  6  7
    message     w  w  o  w  r  o  w  .     w in a window, r refused, o open (gathered, not written)
                      ▲              ▲
                      resume         next

What lies before `next` and is not open is settled. A writer that starts reads from `resume` on and
passes over what is settled, so it gathers exactly what no window has.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter

import msgspec
from msgspec import Struct

from features.topics import Hash, hash64
from trainer.windows.events import WindowEvent
from trainer.windows.settings import WindowSettings

# Old events that keep coming are gathered so many times idle_s: by default an hour.
_TRICKLE = 12

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
    def from_position(cls, position: Position) -> "OffsetTracker":
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


class CloseReason(StrEnum):
    """Why a window was closed."""

    WATERMARK = "watermark"
    COUNT = "count"
    IDLE = "idle"


@dataclass(frozen=True)
class AssemblyState:
    """How far gathering has come: all that a later writer has to know besides the windows.

    Attributes:
        finished_ms: windows up to this event time are closed: an earlier event is late. Where the
            watermark was is not kept: of the windows that it had passed, some may not be written.
        positions: of every partition.
        cluster: Kafka's own id of the cluster that they are of; "" where none was kept.
    """

    finished_ms: int = 0
    positions: tuple[Position, ...] = ()
    cluster: str = ""


@dataclass(frozen=True)
class ClosedWindow:
    """A window that is complete, and how far gathering has come once it is written.

    Attributes:
        rows: in event-time order.
        refused: messages refused since the window before.
        merges: by guest, whom the guest has become since the window before.
        erasures: how many people were forgotten since the window before.
    """

    reason: CloseReason
    rows: list[WindowEvent]
    refused: int
    progress: AssemblyState
    merges: Mapping[str, str] = field(default_factory=dict)
    erasures: int = 0


class WindowAssembler:
    """Events that are in no window yet.

    Args:
        sources: Kafka's own id of each topic, and its partitions, as they are now.
        settings: when a window is closed.
        progress: that of the newest window.
        repeats: knows the rows of the newest windows.
        now_s: a clock that never goes back, in seconds.
    """

    def __init__(
        self,
        sources: Mapping[Source, str],
        settings: WindowSettings,
        progress: AssemblyState,
        repeats: "Deduplicator",
        now_s: float,
    ) -> None:
        self._settings = settings
        self._duration_ms = 1000 * settings.duration_s
        self._topic_ids = dict(sources)
        known = {each.source: each for each in progress.positions}
        self.trackers = {
            source: _tracker(known.get(source), topic_id) for source, topic_id in sources.items()
        }
        # Of types that the settings name no more: named again, they are gone on with from there.
        of_types = {topic for topic, _ in sources}
        self._left_out = [each for each in progress.positions if each.topic not in of_types]
        self._watermark = Watermark(sources)
        self._finished_ms = progress.finished_ms
        self._repeats = repeats
        self._slots: defaultdict[int, list[WindowEvent]] = defaultdict(list)
        self._late: list[WindowEvent] = []
        self._merges: dict[str, str] = {}
        # Where merges and erasures stand that no window tells of yet.
        self._told_at: list[tuple[Source, int]] = []
        self._count = self._refused = self._erasures = 0
        self._moved_s = self._added_s = self._empty_s = now_s
        self._idled_s: float | None = None
        self._has_new = False

    def resume(self) -> dict[Source, int]:
        """Where each partition has to be read from."""
        return {each.source: each.resume for each in self._positions()}

    def add(self, row: WindowEvent, arrived_ms: int) -> None:
        """Gather an event, unless a window has it already.

        Args:
            row: the event and its place.
            arrived_ms: the broker's time. An event from the future does not move event time
                beyond it: a wrong clock would make everybody else late.
        """
        source = row.topic, row.partition
        self._watermark.saw(source, min(row.event.timestamp, arrived_ms))
        if self.trackers[source].has(row.offset):
            return
        self.trackers[source].read(row.offset)
        self._count += 1
        self._has_new = True
        if row.event.timestamp < self._finished_ms:
            self._late.append(msgspec.structs.replace(row, late=True))
        else:
            self._slots[self._start(row.event.timestamp)].append(row)

    def merge(self, source: Source, offset: int, guest: str, member: str) -> None:
        """Gather that a guest has become a member, unless a window has it already."""
        if self.trackers[source].has(offset):
            return
        self._note_told(source, offset)
        self._merges.setdefault(guest, member)

    def tell_erasure(self, source: Source, offset: int) -> None:
        """Gather that a person was forgotten, unless a window tells it already."""
        if not self.trackers[source].has(offset):
            self._note_told(source, offset)
            self._erasures += 1

    def forget(self, person: str) -> None:
        """Let go of what was gathered of a person."""
        self._late = self._drop_person(person, self._late)
        kept = {start: self._drop_person(person, rows) for start, rows in self._slots.items()}
        self._slots = defaultdict(list, {start: rows for start, rows in kept.items() if rows})
        self._merges = leave_out(person, self._merges)

    def _drop_person(self, person: str, rows: Iterable[WindowEvent]) -> list[WindowEvent]:
        kept = []
        for row in rows:
            if row.event.user_id == person:
                self.trackers[row.topic, row.partition].settle(row.offset)
                self._count -= 1
            else:
                kept.append(row)
        return kept

    def _note_told(self, source: Source, offset: int) -> None:
        self.trackers[source].read(offset)
        self._told_at.append((source, offset))

    def pass_over(self, source: Source, offset: int) -> None:
        """Settle a message that says nothing to a window."""
        if not self.trackers[source].has(offset):
            self.trackers[source].settle(offset)

    def refuse(self, source: Source, offset: int) -> bool:
        """Pass over a message that is no event; False if that was done before."""
        if self.trackers[source].has(offset):
            return False
        self.trackers[source].settle(offset)
        self._refused += 1
        return True

    def reached_end(self, source: Source) -> None:
        """A partition has nothing more for now."""
        self._watermark.reached_end(source)

    @property
    def full(self) -> bool:
        """Whether as many events are open as may be."""
        return self._count >= self._settings.max_events

    def close(self, now_s: float) -> ClosedWindow | None:
        """The next window that is due; ask again until there is none."""
        self._look_at_clock(now_s)
        passed_ms = self._passed_ms()
        oldest = min(self._slots, default=passed_ms)
        if oldest < passed_ms:
            # Not further: a writer after this one must not take what is due next for late.
            self._finished_ms = max(self._finished_ms, oldest + self._duration_ms)
            return self._close(CloseReason.WATERMARK, [oldest])
        self._finished_ms = max(self._finished_ms, passed_ms)
        if self.full:
            return self._close(CloseReason.COUNT, list(self._slots))
        if self._count and self._idle(now_s):
            self._idled_s = now_s
            return self._close(CloseReason.IDLE, list(self._slots))
        return None

    def _look_at_clock(self, now_s: float) -> None:
        """Take note of what has happened since the last look."""
        if self._watermark.advance():
            self._moved_s, self._idled_s = now_s, None
        if self._has_new:
            self._added_s, self._has_new = now_s, False
        if not self._count:
            self._empty_s = now_s

    def fire(self, now_s: float) -> Iterator[ClosedWindow]:
        """All windows that are due."""
        while closed := self.close(now_s):
            yield closed

    def progress(self) -> AssemblyState:
        """How far it has come."""
        return AssemblyState(self._finished_ms, (*self._positions(), *self._left_out))

    def _positions(self) -> Iterator[Position]:
        for source, tracker in self.trackers.items():
            yield tracker.position(source, self._topic_ids[source])

    def _idle(self, now_s: float) -> bool:
        """Whether event time stands still for good, not because there is more to be read.

        Old events do not move it. So once a window was closed for that, those that still come are
        gathered for longer, or until they end where that was long ago: not a window for each.
        """
        settings = self._settings
        if not self._watermark.is_at_end or now_s - self._moved_s < settings.idle_s:
            return False
        longer_s = _TRICKLE * settings.idle_s
        if self._idled_s is None or now_s - self._empty_s >= longer_s:
            return True
        has_ended = now_s - self._added_s >= settings.idle_s
        return has_ended and now_s - self._idled_s >= longer_s

    def _close(self, reason: CloseReason, starts: Iterable[int]) -> ClosedWindow:
        rows = self._late + [row for start in starts for row in self._slots.pop(start)]
        rows.sort(key=attrgetter("order"))
        for row in rows:
            self.trackers[row.topic, row.partition].settle(row.offset)
        for source, offset in self._told_at:
            self.trackers[source].settle(offset)
        merges, self._merges, self._told_at = self._merges, {}, []
        refused, self._refused, self._late = self._refused, 0, []
        erasures, self._erasures = self._erasures, 0
        self._count -= len(rows)
        marked = self._repeats.mark(rows)
        return ClosedWindow(reason, marked, refused, self.progress(), merges, erasures)

    def _passed_ms(self) -> int:
        """Up to where the watermark has passed windows, and their lateness."""
        lateness_ms = 1000 * self._settings.allowed_lateness_s
        return self._start(max(0, self._watermark.ms - lateness_ms))

    def _start(self, time_ms: int) -> int:
        """Where the window of a time begins."""
        return time_ms - time_ms % self._duration_ms


def leave_out(person: str, merges: Mapping[str, str]) -> dict[str, str]:
    """Merges, by guest, without those that a person has a part in."""
    return {guest: member for guest, member in merges.items() if person not in (guest, member)}


def _tracker(position: Position | None, topic_id: str) -> OffsetTracker:
    """That of the newest window, unless the topic has been made anew since."""
    if position is None or position.topic_id != topic_id:
        return OffsetTracker()
    return OffsetTracker.from_position(position)


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
    def is_at_end(self) -> bool:
        """Whether every partition was read to its end."""
        return not self._behind

    def advance(self) -> bool:
        """Take in what was seen; whether time has moved."""
        before = self.ms
        reached = [self._reached[source] for source in self._behind]
        self.ms = max(before, min(reached) if reached else max(self._reached.values(), default=0))
        return self.ms > before


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
        return [self._mark_row(row) for row in rows]

    def _mark_row(self, row: WindowEvent) -> WindowEvent:
        name = hash64(f"{row.topic}/{row.event.user_id}/{row.event.event_id}")
        if name in self._known:
            return msgspec.structs.replace(row, repeated=True)
        self._known[name] = None
        if len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
        return row
