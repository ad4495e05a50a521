"""What happened in the last hour and day: a small SQLite file of slots, rolled up as time goes.

A slot holds what was seen in a stretch of time: what counters grew by, and where levels stood.
Slots add up (`merge`), in any order and grouping, so that one sum serves all: the slots of two
seconds that an hour is kept in, the minutes that a day is kept in, the steps of a chart, and a
clock that goes back, whose second slot of the same time joins the first.

The file has at most 3,600 slots of each kind. One that is damaged or another program's is set
aside; where none can be written, history is kept in memory, and ends with the process.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from headwater_client.admin.now import Span
from headwater_client.decoders import get_msgpack_decoder
from msgspec import Struct

from features.metrics import LogThrottle

LOOK_S = 2
MINUTE_S = 60
MAX_FIGURES = 400
_APPLICATION = 0x48574853  # "HWHS"
_LAYOUT = 1
_BUSY_S = 1.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS slots (step INTEGER, at INTEGER, body BLOB, PRIMARY KEY (step, at))"
    " WITHOUT ROWID"
)
log = structlog.get_logger()


class Resolution(NamedTuple):
    """Slots of so many seconds, kept for so many."""

    step_s: int
    keep_s: int


class SpanForm(NamedTuple):
    """How a span is told: from which slots, in steps of so many seconds."""

    resolution: Resolution
    step_s: int


SECONDS, MINUTES = Resolution(LOOK_S, 3600), Resolution(MINUTE_S, 86_400)
SPANS = {Span.HOUR: SpanForm(SECONDS, 10), Span.DAY: SpanForm(MINUTES, 300)}


class Level(Struct, frozen=True, array_like=True):
    """Where a level stood: in how many looks, their sum, the lowest and the highest."""

    looks: int
    sum: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean of the looks."""
        return self.sum / self.looks


class Slot(Struct, frozen=True, array_like=True):
    """What was seen in a stretch of time.

    Attributes:
        seconds: for how long counters were watched.
        counts: what each counter grew by.
        levels: where each level stood.
    """

    seconds: float = 0.0
    counts: dict[str, float] = {}
    levels: dict[str, Level] = {}

    def rate(self, counted: float) -> float | None:
        """So many of the slot a second; None where nothing was watched."""
        return counted / self.seconds if self.seconds > 0 else None


NOTHING = Slot()


def look_at(value: float) -> Level:
    """A level as one look saw it."""
    return Level(1, value, value, value)


def merge(slots: Iterable[Slot]) -> Slot:
    """What was seen in all of them: associative, commutative, and `Slot()` changes nothing.

    >>> merge([Slot(2.0, {"events": 3.0}), Slot(2.0, {"events": 1.0, "late": 1.0})])
    Slot(seconds=4.0, counts={'events': 4.0, 'late': 1.0}, levels={})
    """
    seconds, counts, levels = 0.0, dict[str, float](), dict[str, Level]()
    for slot in slots:
        seconds += slot.seconds
        for name, count in slot.counts.items():
            counts[name] = counts.get(name, 0.0) + count
        for name, level in slot.levels.items():
            before = levels.get(name)
            levels[name] = _join(before, level) if before else level
    return Slot(seconds, counts, levels)


def _join(one: Level, other: Level) -> Level:
    return Level(
        one.looks + other.looks,
        one.sum + other.sum,
        min(one.low, other.low),
        max(one.high, other.high),
    )


def quantile(buckets: Mapping[float, float], fraction: float) -> float | None:
    """A quantile of a histogram, as Prometheus' `histogram_quantile` has it; None if it is empty.

    Within a bucket observations are taken to lie evenly, and the lowest begins at 0; what lies
    beyond the last bound is that bound. Source: Prometheus, "Query functions", histogram_quantile,
    and `bucketQuantile` of its promql/quantile.go.

    Args:
        buckets: by upper bound (the last is infinite), how many observations were at most that.

    >>> quantile({0.1: 5.0, 0.2: 10.0, float("inf"): 10.0}, 0.75)
    0.15000000000000002
    """
    bounds = sorted(buckets)
    observations = buckets[bounds[-1]] if bounds else 0.0
    if len(bounds) < 2 or observations <= 0:
        return None
    rank, start, below = fraction * observations, 0.0, 0.0
    for end in bounds[:-1]:
        # Of buckets that were read one after the other, one may be behind the one below it.
        count = max(buckets[end], below)
        if count >= rank and count > below:
            return start + (end - start) * max(0.0, rank - below) / (count - below)
        start, below = end, count
    return start


class History:
    """Slots of the last hour and day. For any thread.

    Args:
        path: of the file; None: in memory.
        clock: seconds since 1970; it may go back.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._refused = LogThrottle(every_s=60.0)
        self._whole: dict[Span, tuple[int, Slot]] = {}
        self._file = self._open()

    def add(self, slot: Slot) -> None:
        """Keep what was seen just now; a file that takes nothing more is told in the log."""
        now_s = int(self._clock())
        with self._lock:
            try:
                self._write(slot, now_s)
            except sqlite3.OperationalError as error:
                with suppress(sqlite3.Error):
                    self._file.rollback()
                if refused := self._refused.count():
                    log.warning("history_not_written", reason=str(error), slots=refused)
            except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
                self._file.close()
                self._file = self._begin_anew(str(error))
                self._write(slot, now_s)

    def _write(self, slot: Slot, now_s: int) -> None:
        for step_s, keep_s in (SECONDS, MINUTES):
            at = now_s // step_s * step_s
            known = [each for _, each in self._select(step_s, at, at)]
            body = msgspec.msgpack.encode(merge([*known, slot]))
            self._file.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?)", (step_s, at, body))
            # What lies far ahead is of a clock that was wrong.
            self._file.execute(
                "DELETE FROM slots WHERE step = ? AND (at <= ? OR at > ?)",
                (step_s, now_s - keep_s, now_s + keep_s),
            )
        self._file.commit()

    def read(self, span: Span) -> list[tuple[int, Slot]]:
        """The steps of a span by the second that each begins in, oldest first.

        One in which nothing was seen is an empty slot; before the first there is none.
        """
        (resolution, step_s), now_s = SPANS[span], int(self._clock())
        with self._lock:
            slots = self._read(resolution, now_s - resolution.keep_s + 1, now_s)
        steps: dict[int, list[Slot]] = {}
        for at, slot in slots:
            steps.setdefault(at // step_s * step_s, []).append(slot)
        if not steps:
            return []
        times = range(min(steps), now_s // step_s * step_s + 1, step_s)
        return [(at, merge(steps.get(at, ()))) for at in times]

    def total(self, span: Span) -> Slot:
        """All that was seen in a span, to the minute."""
        now_s = int(self._clock())
        minute = now_s // MINUTE_S * MINUTE_S
        first = minute - SPANS[span].resolution.keep_s + MINUTE_S
        with self._lock:
            # Whole minutes do not change: they are added up once a minute.
            at, whole = self._whole.get(span, (-1, Slot()))
            if at != minute:
                slots = self._read(MINUTES, first, minute - 1)
                whole = merge(slot for _, slot in slots)
                self._whole[span] = minute, whole
            return merge([whole, *(slot for _, slot in self._read(MINUTES, minute, minute))])

    def begin_ms(self) -> int | None:
        """The minute since when there is a history, in milliseconds; None without any."""
        with self._lock, suppress(sqlite3.Error):
            asked = "SELECT min(at) FROM slots WHERE step = ?"
            (first,) = self._file.execute(asked, (MINUTE_S,)).fetchone()
            return None if first is None else first * 1000
        return None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _read(self, resolution: Resolution, first: int, last: int) -> list[tuple[int, Slot]]:
        try:
            return self._select(resolution.step_s, first, last)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            # The next slot that is written finds the same, and begins anew.
            log.warning("history_not_read", reason=str(error))
            return []

    def _select(self, step_s: int, first: int, last: int) -> list[tuple[int, Slot]]:
        found = self._file.execute(
            "SELECT at, body FROM slots WHERE step = ? AND at BETWEEN ? AND ? ORDER BY at",
            (step_s, first, last),
        )
        decode = get_msgpack_decoder(Slot).decode
        return [(at, decode(body)) for at, body in found]

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return _connect(":memory:")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(str(self._path))
        except (sqlite3.OperationalError, OSError) as error:
            return self._keep_in_memory(str(error))
        except sqlite3.DatabaseError as error:
            return self._begin_anew(str(error))

    def _begin_anew(self, reason: str) -> sqlite3.Connection:
        """A new file, with the one that cannot be used beside it."""
        self._whole.clear()
        if self._path is None:
            return _connect(":memory:")
        aside = self._path.with_name(f"{self._path.name}.{time.time_ns()}")
        try:
            self._path.replace(aside)
            # What was written last stands beside it, and belongs to it.
            with suppress(FileNotFoundError):
                Path(f"{self._path}-wal").replace(f"{aside}-wal")
            log.warning("history_set_aside", file=str(self._path), to=str(aside), reason=reason)
            return _connect(str(self._path))
        except (sqlite3.Error, OSError) as error:
            return self._keep_in_memory(f"{reason}; {error}")

    def _keep_in_memory(self, reason: str) -> sqlite3.Connection:
        log.warning("history_in_memory", file=str(self._path), reason=reason)
        return _connect(":memory:")


def _check(file: sqlite3.Connection) -> None:
    """Refuse a file that is damaged, or not ours.

    Raises:
        sqlite3.DatabaseError: it is.
    """
    tables = file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    named = ("application_id", "user_version")
    marks = [file.execute(f"PRAGMA {name}").fetchone()[0] for name in named]
    if tables and marks != [_APPLICATION, _LAYOUT]:
        raise sqlite3.DatabaseError("it is another program's, or another release's")
    if (said := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(str(said))


def _connect(path: str) -> sqlite3.Connection:
    """A file of ours that is whole, for this process alone.

    Raises:
        sqlite3.OperationalError: it cannot be opened, or another process has it.
        sqlite3.DatabaseError: it is damaged, or another program's.
    """
    file = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    try:
        # First of all: then no other process needs the memory that WAL would share.
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check(file)
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("BEGIN EXCLUSIVE")
        file.execute(f"PRAGMA application_id = {_APPLICATION}")
        file.execute(f"PRAGMA user_version = {_LAYOUT}")
        file.execute(_SCHEMA)
        file.commit()
    except BaseException:
        file.close()
        raise
    return file
