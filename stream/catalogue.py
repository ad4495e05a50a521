"""The catalogue as a worker sees it: item rows, read when needed and kept for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic

from features.columns import ENTRY_COLUMNS, CatalogueEntry, decode_catalogue_entry
from features.store import CATALOGUE, RowRead

_MOST_ITEMS = 1_000_000


class CatalogueCache:
    """Shelves by item id. An item that the catalogue does not know is taken for available.

    Args:
        keep_s: how long a shelf may be out of date.
    """

    def __init__(self, keep_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._shelves: dict[str, tuple[float, CatalogueEntry]] = {}

    def get_cached(self, item_ids: Iterable[str]) -> dict[str, CatalogueEntry | None]:
        """The shelf of each item; None where it has to be read."""
        now = self._clock()
        found = ((name, self._shelves.get(name)) for name in item_ids)
        return {name: kept[1] if kept and kept[0] > now else None for name, kept in found}

    def put(self, read: RowRead, stored: Mapping[str, bytes | None]) -> CatalogueEntry:
        """The shelf that `catalogue_read` has brought, kept at hand."""
        shelf = decode_catalogue_entry(stored)
        if len(self._shelves) >= _MOST_ITEMS:
            self._shelves.clear()
        self._shelves[read.entity_id] = (self._clock() + self._keep_s, shelf)
        return shelf


def catalogue_read(item_id: str) -> RowRead:
    """The read that brings an item's shelf."""
    return RowRead(CATALOGUE, item_id, ENTRY_COLUMNS)
