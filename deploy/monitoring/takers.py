"""Who takes what: gathered into ticks by arrival, and counted once a visit.

    (person, item) ─▶ ticks ─▶ people by series
                     (closed in time)  (who has just taken it is not counted again)

A hundred films that one person rates in a minute, a basket, and a script that asks for the same
item for ever are one person's doing. People are what can be taken for independent of one another.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

# Who has taken a series so lately is the same visitor still; and so many of these are kept at most.
VISIT_TICKS = 180
MAX_VISITS = 200_000
# So many ticks a clock may be set back without a new beginning.
CLOCK_TICKS = 60


class TakerCounter:
    """Counts people by series; one who takes a series again within a visit is not counted again.

    Visits are two generations of pairs, by hash: the older one is let go in time, or for room.
    """

    def __init__(self) -> None:
        self._newer, self._older = set[int](), set[int]()
        self._ticks = 0

    def count(self, takes: Iterable[tuple[str, str]]) -> Counter[str]:
        """How many people took each series in a tick."""
        self._ticks += 1
        if self._ticks >= VISIT_TICKS or len(self._newer) > MAX_VISITS:
            self._newer, self._older, self._ticks = set(), self._newer, 0
        people = Counter[str]()
        for take in set(takes):
            visit = hash(take)
            if visit not in self._newer and visit not in self._older:
                people[take[1]] += 1
            self._newer.add(visit)
        return people


class TickCounter:
    """Gathers takes into ticks by their arrival; a tick is closed once its time has passed.

    Args:
        tick_s: of each.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_ms = int(tick_s * 1000)
        self._open: dict[int, set[tuple[str, str]]] = {}
        self._closed_until: int | None = None

    def add(self, person: str, item: str, at_ms: int) -> None:
        """Note a take; what comes after its tick was closed counts in the next."""
        tick = at_ms // self._tick_ms
        if self._closed_until is not None:
            tick = max(tick, self._closed_until)
        self._open.setdefault(tick, set()).add((person, item))

    def close(self, now_ms: int) -> Iterator[tuple[AbstractSet[tuple[str, str]], int]]:
        """(person, item) of ticks that are over, oldest first, empty ones too; and their ends."""
        now = now_ms // self._tick_ms
        if self._closed_until is None:
            self._closed_until = min(self._open, default=now)
        if now < self._closed_until - CLOCK_TICKS:
            # The clock was set back: else nothing would be closed until it is there again.
            self._open.clear()
            self._closed_until = now
        while self._closed_until < now:
            takes = self._open.pop(self._closed_until, set())
            self._closed_until += 1
            yield takes, self._closed_until * self._tick_ms
