"""A process's view of the items: what is on sale, what trends, by any version's indices."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from features.columns import CatalogueEntry
from stream.catalogue import AllowedItems, CatalogueCache, is_available
from stream.routing import Route
from stream.trending import TrendingIndex, TrendingSource


@dataclass
class ItemViews:
    """A process's view of the items, read from the store and cached for a moment.

    Attributes:
        may_recommend: which entries of the catalogue may be recommended.
    """

    catalogue: CatalogueCache
    trending: TrendingSource
    may_recommend: Callable[[CatalogueEntry], bool] = is_available
    _trending_indices: dict[str, TrendingIndex] = field(default_factory=dict, init=False)
    _allowed_items: dict[str, AllowedItems] = field(default_factory=dict, init=False)

    async def check(self, item_ids: Iterable[str]) -> dict[str, bool]:
        """Whether each item may be recommended.

        Raises:
            ServerError: the store does not answer.
        """
        return self._allow(await self.catalogue.get(item_ids))

    def recall(self, item_ids: Iterable[str]) -> dict[str, bool]:
        """Whether each item might be recommended when it was looked up last; no server is asked."""
        return self._allow(self.catalogue.recall(item_ids))

    def _allow(self, entries: Mapping[str, CatalogueEntry]) -> dict[str, bool]:
        return {name: self.may_recommend(entry) for name, entry in entries.items()}

    def find_trending(self, route: Route) -> TrendingIndex:
        """The trends by this version's indices, built again when the trends are."""
        address, items = route.version.address, self.trending.items
        index = self._trending_indices.get(address)
        if index is None or index.items is not items:
            current = {a: i for a, i in self._trending_indices.items() if i.items is items}
            index = current[address] = TrendingIndex(items, route.vocabulary)
            self._trending_indices = current
        return index

    def find_allowed(self, route: Route) -> AllowedItems:
        """Which of a version's items may be recommended; a version that went is forgotten."""
        address = route.version.address
        if address not in self._allowed_items:
            known = self._trending_indices
            kept = {name: view for name, view in self._allowed_items.items() if name in known}
            self._allowed_items = kept | {address: AllowedItems(route.vocabulary, self.check)}
        return self._allowed_items[address]
