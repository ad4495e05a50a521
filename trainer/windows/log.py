"""Windows as a log of events, which training, evaluation and replays read."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from trainer.data import Log
from trainer.windows.store import WindowStore


def read_log(store: WindowStore, numbers: Iterable[int]) -> Log:
    """The events of some windows in event-time order, late ones in their place.

    What an app sent twice is in it once. It has no items: those are in the catalogue.

    Raises:
        DataError: a window is missing or damaged.
    """
    rows = [row for number in numbers for row in store.read(number).rows]
    events = [row.event for row in rows if not row.repeated]
    events.sort(key=attrgetter("timestamp"))
    return Log(events, items=())
