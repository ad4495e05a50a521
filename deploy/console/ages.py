"""How old that is what answers know: as workers measure it, and by what waits for a worker.

Commits say it too late: a worker commits what rows hold once that is delivered and on disk, seconds
after answers know it. So how far rows are is read from the workers' metrics, and commits stand in
where these say nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from deploy.console import readings
from deploy.console.history import quantile
from features.kafka.lag import PartitionPlace

# Looks are two seconds apart, and commits follow within a few: what has waited less than this may
# be in rows already.
WAITS_MS = 6000
_MAX_POINTS = 512
_SLOWEST = 0.99
Source = tuple[str, int]


class OffsetTimes:
    """When the messages of a partition came, by how long it was at each look.

    Between two looks messages are taken to have come evenly, as lag exporters of Kafka do: no
    message has to be read for that.

    >>> times = OffsetTimes()
    >>> for at_s, end in ((10.0, 100), (12.0, 100), (14.0, 120)):
    ...     times.note(at_s, end)
    >>> times.find(110), times.find(120), times.find(90)
    (13.0, None, None)
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, end: int) -> None:
        """The partition has this end by now."""
        if self._points and end < self._points[-1][1]:
            # The topic was made anew.
            self._points.clear()
        if len(self._points) > 1 and self._points[-2][1] == end:
            self._points.pop()
        self._points.append((at_s, end))
        if len(self._points) > _MAX_POINTS:
            self._points = deque(list(self._points)[::2])

    def find(self, offset: int) -> float | None:
        """When the message at an offset came; None before the first look, or from the end on."""
        before: tuple[float, int] | None = None
        for at_s, end in self._points:
            if end > offset:
                if before is None:
                    return None
                share = (offset - before[1]) / (end - before[1])
                return before[0] + share * (at_s - before[0])
            before = at_s, end
        return None

    def forget(self, offset: int) -> None:
        """Messages before this one are not asked for any more."""
        while len(self._points) > 1 and self._points[1][1] <= offset:
            self._points.popleft()


class AgeWatch:
    """How long what rows do not hold waits, partition by partition.

    Args:
        ask_times: the times in milliseconds of the messages at some places, of those that had come
            before the first look.
    """

    def __init__(self, ask_times: Callable[[Mapping[Source, int]], Mapping[Source, int]]) -> None:
        self._ask_times = ask_times
        self._times: dict[Source, OffsetTimes] = {}
        self._asked: dict[Source, tuple[int, int | None]] = {}

    def take(
        self, places: Mapping[Source, PartitionPlace], now_s: float, wall_ms: int
    ) -> dict[Source, int | None]:
        """How long the oldest message that no row holds has waited, in milliseconds.

        0 where none has for `WAITS_MS`: it is being read, or a row has it by now. None: not known.

        Args:
            places: those that the group reads, as far as rows are (`hold`).
            now_s: seconds of a clock that never goes back.
            wall_ms: the time of day.

        Raises:
            ServerError: Kafka does not answer.
        """
        for source, place in places.items():
            times = self._times.setdefault(source, OffsetTimes())
            times.note(now_s, place.end)
            times.forget(place.end - place.lag)
        waiting = {source: place.end - place.lag for source, place in places.items() if place.lag}
        found = {source: self._times[source].find(offset) for source, offset in waiting.items()}
        ages: dict[Source, int | None] = {s: None if s in waiting else 0 for s in places}
        ages |= {source: int(1000 * (now_s - at)) for source, at in found.items() if at is not None}
        older = {source: waiting[source] for source, at in found.items() if at is None}
        for source, came_ms in self._find_older(older).items():
            ages[source] = max(0, wall_ms - came_ms)
        return {s: 0 if age is not None and age < WAITS_MS else age for s, age in ages.items()}

    def _find_older(self, waiting: Mapping[Source, int]) -> dict[Source, int]:
        new = {s: at for s, at in waiting.items() if self._asked.get(s, (None,))[0] != at}
        if new:
            times = self._ask_times(new)
            self._asked |= {source: (at, times.get(source)) for source, at in new.items()}
        kept = {source: self._asked[source][1] for source in waiting}
        return {source: came_ms for source, came_ms in kept.items() if came_ms is not None}


def hold(
    places: Mapping[Source, PartitionPlace], samples: Iterable[readings.Reading]
) -> dict[Source, PartitionPlace]:
    """How far rows are: what workers have absorbed of a partition, or committed where that is more.

    >>> absorbed = {"topic": "clicks", "partition": "0"}
    >>> said = readings.Reading("worker", readings.ABSORBED, absorbed, 9.0)
    >>> hold({("clicks", 0): PartitionPlace(0, 10, 4)}, [said])
    {('clicks', 0): PartitionPlace(first=0, end=10, committed=9)}
    """
    absorbed: dict[tuple[str, str], float] = {}
    for each in samples:
        if each.name == readings.ABSORBED:
            named = each.labels.get("topic", ""), each.labels.get("partition", "")
            # Of a partition that has moved, two workers may tell.
            absorbed[named] = max(each.value, absorbed.get(named, 0.0))
    return {
        (topic, number): place._replace(
            committed=max(place.committed or 0, int(absorbed.get((topic, str(number)), 0)))
        )
        for (topic, number), place in places.items()
    }


def find_age(
    waits_ms: Mapping[Source, int | None], counts: Mapping[str, float] | None
) -> int | None:
    """How long after they came answers know events, in milliseconds; None: not known.

    Of the events that rows took in lately 99 in 100 waited at most so long; or an event has waited
    so long already that no row holds, where that is more. 0 where nothing came.

    Args:
        waits_ms: as `AgeWatch.take` has them.
        counts: what workers counted lately; None where none tells its metrics.
    """
    waits = [wait for wait in waits_ms.values() if wait is not None]
    if not waits or len(waits) < len(waits_ms):
        return None
    longest = max(waits)
    if counts is None:
        return longest or None
    absorbed_s = quantile(readings.find_buckets(counts, "row_seconds"), _SLOWEST)
    return max(longest, round(1000 * (absorbed_s or 0.0)))
