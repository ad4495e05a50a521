"""How often each item was taken on each day: counts gathered from windows, and by category.

    window 1 ──┐  a few columns     item, day        sorted by day
    window 2 ──┼──────────────▶ (sum of each) ──▶ code  day  count ──▶ day after day
    window 3 ──┘  window by window                  held in memory, and bounded

Events are never held: of a window three columns are read, and its sums are kept. What is kept is
bounded, too: the newest `MAX_DAYS` days, `MAX_ITEMS` items and `MAX_SUMS` sums, the least first to
go. Nothing of it is stored: windows are, and who starts reads each of them once.

S series, P sums (one of an item and a day), D days.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from headwater_client.event_types import EVENT_TYPES, PURCHASE
from headwater_client.events import MAX_FUTURE_MS

from features.schema import Float64Array, Int64Array
from features.settings import DAY_MS
from trainer.windows.store import WindowStore

# More than a year, so that the longest half-life of a forecast has its data.
MAX_DAYS = 400
MAX_ITEMS = 100_000
MAX_SUMS = 2_000_000
COLUMNS = ("type", "item_id", "timestamp", "repeated")
Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class DailySums:
    """Sums by series and day, in the order of days.

    Attributes:
        names: of the series, by code.
        codes: int32[P].
        days: int32[P], since 1970, UTC, ascending.
        counts: float64[P].
        first_day, end_day: the days that are whole: from the first to before the last.
        is_purchases: whether purchases were counted; else all that takes an item.
    """

    names: Sequence[str]
    codes: Int32Array
    days: Int32Array
    counts: Float64Array
    first_day: int
    end_day: int
    is_purchases: bool = False

    @property
    def length(self) -> int:
        """How many whole days there are."""
        return max(0, self.end_day - self.first_day)

    def iterate_days(self) -> Iterator[Float64Array]:
        """The counts of each whole day, float64[S], days without an event among them."""
        bounds = np.searchsorted(self.days, np.arange(self.first_day, self.end_day + 1))
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            part = slice(start, end)
            yield _sum_by_code(self.codes[part], self.counts[part], len(self.names))

    def sum_running(self) -> Float64Array:
        """What has been counted since the last whole day, float64[S]."""
        part = slice(int(np.searchsorted(self.days, self.end_day)), None)
        return _sum_by_code(self.codes[part], self.counts[part], len(self.names))

    def choose_largest(self, most: int) -> "DailySums":
        """Only so many series: those with the largest sums."""
        if len(self.names) <= most:
            return self
        totals = np.bincount(self.codes, self.counts, len(self.names))
        kept = np.sort(np.argsort(-totals, kind="stable")[:most])
        return self._recode(kept, [self.names[code] for code in kept.tolist()])

    def _recode(self, kept: Int64Array, names: Sequence[str]) -> "DailySums":
        place = np.full(len(self.names), -1, np.int32)
        place[kept] = np.arange(len(kept), dtype=np.int32)
        there = place[self.codes] >= 0
        return DailySums(
            names,
            place[self.codes[there]],
            self.days[there],
            self.counts[there],
            self.first_day,
            self.end_day,
            self.is_purchases,
        )

    def sum_by(self, groups_of: Callable[[str], Sequence[str]]) -> "DailySums":
        """The sums of groups; a series counts in each group that it is of.

        Args:
            groups_of: the groups of a series by its name, such as an item's categories.
        """
        codes: dict[str, int] = {}
        memberships = [
            [codes.setdefault(group, len(codes)) for group in dict.fromkeys(groups_of(name))]
            for name in self.names
        ]
        sizes = np.fromiter(map(len, memberships), np.int64, len(memberships))
        flat = np.fromiter((code for each in memberships for code in each), np.int32, sizes.sum())
        starts = np.cumsum(sizes) - sizes
        repeats = sizes[self.codes]
        # Each sum once for each of its groups: where its groups begin, and how far in it is.
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        return DailySums(
            list(codes),
            flat[np.repeat(starts[self.codes], repeats) + within],
            np.repeat(self.days, repeats),
            np.repeat(self.counts, repeats),
            self.first_day,
            self.end_day,
            self.is_purchases,
        )


class DemandCounter:
    """Counts what windows bring, window by window.

    Attributes:
        ahead: events that a clock dates into the future: they are not counted.
        dropped: sums that were let go to keep within the bounds.
        newest_ms: the newest time of an event that was counted; 0 before the first.
    """

    def __init__(self) -> None:
        self.ahead = self.dropped = 0
        self.newest_ms = 0
        self._codes: dict[str, int] = {}
        self._parts: list[tuple[Int32Array, Int32Array, Float64Array]] = []
        self._taking = [
            spec.name
            for spec in EVENT_TYPES.values()
            if spec.counts_for_items and not spec.takes_back
        ]

    def add_window(self, store: WindowStore, number: int, now_ms: int) -> None:
        """Count a window.

        Raises:
            DataError: it is missing or damaged.
        """
        self.add(store.read_columns(number, COLUMNS), now_ms)

    def add(self, table: Any, now_ms: int) -> None:
        """Count the rows of a table with the columns `COLUMNS`.

        Args:
            now_ms: what lies over an hour after it is of a wrong clock.
        """
        is_ahead = pc.greater(table["timestamp"], now_ms + MAX_FUTURE_MS)
        self.ahead += pc.sum(is_ahead).as_py() or 0
        taken = pc.is_in(table["type"], value_set=pa.array(self._taking, pa.string()))
        counted = pc.and_(taken, pc.invert(pc.or_(is_ahead, table["repeated"])))
        table = table.filter(counted)
        if not len(table):
            return
        self.newest_ms = max(self.newest_ms, pc.max(table["timestamp"]).as_py())
        made = pa.table(
            {
                "item": table["item_id"],
                "day": pc.divide(table["timestamp"], DAY_MS),
                "bought": pc.cast(pc.equal(table["type"], PURCHASE.name), pa.int64()),
            }
        )
        sums = made.group_by(["item", "day"], use_threads=False).aggregate(
            [("bought", "count"), ("bought", "sum")]
        )
        self._append(sums)

    def _append(self, sums: Any) -> None:
        names = sums["item"].combine_chunks().dictionary_encode()
        codes = np.fromiter(
            (self._codes.setdefault(name, len(self._codes)) for name in _words(names)),
            np.int32,
            len(names.dictionary),
        )
        counts = np.stack(
            [sums[name].to_numpy().astype(np.float64) for name in ("bought_count", "bought_sum")], 1
        )
        days = sums["day"].to_numpy().astype(np.int32)
        self._parts.append((codes[names.indices.to_numpy()], days, counts))
        if sum(len(part[0]) for part in self._parts) > MAX_SUMS or len(self._parts) > MAX_DAYS:
            self._join()
            self._forget()

    def _join(self) -> None:
        """Make one part of all, sorted by day, a sum for each item and day."""
        codes, days, counts = (np.concatenate(each) for each in zip(*self._parts, strict=True))
        keys = days.astype(np.int64) * (len(self._codes) + 1) + codes
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        summed = np.stack([_sum_by_code(place, column, len(first)) for column in counts.T], 1)
        self._parts = [(codes[first], days[first], summed)]

    def _forget(self) -> None:
        """Keep within the bounds: the oldest days go, then the least items."""
        ((codes, days, counts),) = self._parts
        newest = int(days[-1])
        since = newest - MAX_DAYS + 1
        if len(days) > MAX_SUMS // 2:
            since = min(newest, max(since, int(days[-MAX_SUMS // 2]) + 1))
        kept = days >= since
        self.dropped += int((~kept).sum())
        self._parts = [(codes[kept], days[kept], counts[kept])]
        if len(self._codes) > MAX_ITEMS:
            self._forget_least()

    def _forget_least(self) -> None:
        ((codes, days, counts),) = self._parts
        totals = np.bincount(codes, counts[:, 0], len(self._codes))
        chosen = np.argsort(-totals, kind="stable")[: MAX_ITEMS // 2]
        place = np.full(len(totals), -1, np.int32)
        place[chosen] = np.arange(len(chosen), dtype=np.int32)
        names = list(self._codes)
        self._codes = {names[code]: at for at, code in enumerate(chosen.tolist())}
        there = place[codes] >= 0
        self.dropped += int((~there).sum())
        self._parts = [(place[codes[there]], days[there], counts[there])]

    def make_sums(self, now_ms: int) -> DailySums:
        """All that was counted, of at most `MAX_DAYS` days.

        The day of the newest event is whole once this machine's clock is past its end.
        """
        if not self._parts:
            nothing = np.zeros(0, np.int32)
            return DailySums([], nothing, nothing, np.zeros(0), 0, 0)
        self._join()
        ((codes, days, counts),) = self._parts
        newest = int(days[-1])
        end = newest + 1 if now_ms // DAY_MS > newest else newest
        kept = days >= end - MAX_DAYS
        is_purchases = bool(counts[kept, 1].any())
        chosen = counts[kept, int(is_purchases)]
        first = int(days[kept][0])
        return DailySums(
            list(self._codes), codes[kept], days[kept], chosen, first, end, is_purchases
        )


def _sum_by_code(codes: Any, counts: Float64Array, size: int) -> Float64Array:
    """The sum of the counts of each code, float64[size]."""
    # Without weights numpy would give whole numbers; it takes none at all for that.
    sums: Float64Array = np.bincount(codes, counts, size).astype(np.float64)
    return sums


def _words(column: Any) -> list[str]:
    words: list[str] = column.dictionary.to_pylist()
    return words


def group_by_category(categories: dict[str, Sequence[str]]) -> Callable[[str], Sequence[str]]:
    """The categories of an item by its id; none of one that the catalogue does not have."""
    known: defaultdict[str, Sequence[str]] = defaultdict(tuple, categories)
    return known.__getitem__
