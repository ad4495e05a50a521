"""What people were shown by the API, whichever of its processes answered: it is in their rows.

A list is written before it is answered, so the next request knows it, wherever it arrives. Lists
that are answered at the same moment are written in one call.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

import structlog
from headwater_client import HeadwaterError
from prometheus_client import Counter

from features.columns import DamagedRowError
from features.events import current_ms
from features.metrics import LogThrottle
from features.shown import COLUMN, append_shown, decode_shown
from features.store import SHOWN, EntryAppend, RowRead, RowStore, tell_damaged
from features.topics import Hash
from stream.inference import REST_S, CircuitBreaker

LOST = Counter(
    "headwater_api_shown_lost_total",
    "Lists that were answered while the store took none: exclude_shown does not know them",
)
log = structlog.get_logger()


@dataclass(frozen=True)
class ShownSettings:
    """What is remembered.

    Attributes:
        items: of a person, at most; 0: nothing is.
        for_s: an item that was shown longer ago may be shown again.
        within_s: how long the store may take.
    """

    items: int
    for_s: float
    within_s: float


class ShownItems:
    """Remembers what people were shown, and tells it.

    Args:
        store: of the rows.
    """

    def __init__(self, store: RowStore, settings: ShownSettings) -> None:
        self._store = store
        self._settings = settings
        self._waiting: list[EntryAppend] = []
        self._writing: asyncio.Task[None] | None = None
        self._breaker = CircuitBreaker()
        self._told = LogThrottle()

    @property
    def is_on(self) -> bool:
        """Whether anything is remembered."""
        return self._settings.items > 0

    async def add(self, person: str, item_ids: Collection[str]) -> None:
        """Remember a list; one that the store does not take in time is counted, and no fault."""
        if not (self.is_on and item_ids):
            return
        if self._breaker.is_open:
            LOST.inc()
            return
        self._waiting.append(append_shown(person, item_ids, current_ms(), self._settings.items))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        # Of several that wait for it one may go.
        await asyncio.shield(self._writing)

    async def _write(self) -> None:
        # Once all have come that are answered at this moment.
        await asyncio.sleep(0)
        appends, self._waiting, self._writing = self._waiting, [], None
        try:
            async with asyncio.timeout(self._settings.within_s):
                await self._store.append(appends)
        except (HeadwaterError, TimeoutError) as error:
            self._breaker.trip(REST_S)
            LOST.inc(len(appends))
            if lists := self._told.count():
                log.warning("shown_not_remembered", lists=lists, error=str(error))
        else:
            self._breaker.reset()

    async def read(self, people: Collection[str]) -> set[Hash] | None:
        """The items that these people were shown lately; None where the store does not say."""
        since_ms = current_ms() - int(1000 * self._settings.for_s)
        if self._breaker.is_open:
            return None
        try:
            async with asyncio.timeout(self._settings.within_s):
                rows = await self._store.read([RowRead(SHOWN, name, (COLUMN,)) for name in people])
        except (HeadwaterError, TimeoutError):
            self._breaker.trip(REST_S)
            return None
        found: set[Hash] = set()
        for row in rows:
            try:
                found |= decode_shown(row, since_ms)
            except DamagedRowError as error:
                # The next list that is shown renews it.
                tell_damaged(SHOWN, "what a person was shown", error)
        return found
