"""A worker's view of the catalogue is kept for a moment."""

from __future__ import annotations

from headwater_client.events import Item

from features.columns import ENTRY_COLUMNS, CatalogueEntry, encode_item
from features.topics import hash64
from stream.catalogue import CatalogueCache, catalogue_read


def test_a_shelf_is_at_hand_until_it_is_too_old() -> None:
    now = [0.0]
    catalogue = CatalogueCache(5.0, clock=lambda: now[0])
    assert catalogue.get_cached(["i"]) == {"i": None}
    stored = encode_item(Item(item_id="i", category=["c"], available=False), 1, 1)
    shelf = catalogue.put(catalogue_read("i"), {n: stored[n] for n in ENTRY_COLUMNS})
    assert shelf == CatalogueEntry((hash64("c"),), available=False)
    now[0] = 4.9
    assert catalogue.get_cached(["i"]) == {"i": shelf}
    now[0] = 5.0
    assert catalogue.get_cached(["i"]) == {"i": None}
