"""An item: what it is, how often it is used, and what goes with it."""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence

from headwater_client import EventError, HeadwaterError, RecommendedItem, contract
from headwater_client.admin import people
from headwater_client.contract import KnownBy
from headwater_client.events import MAX_ID

from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.jobs.list_descriptions import CatalogueNames, ItemCounts, rate_per_day, read_counts
from features.events import current_ms
from features.schema import FIRST_ITEM
from features.store.redis import RedisRowStore
from stream.api.parts import ApiCall
from stream.api.problems import refuse
from stream.api.together import TogetherOperations
from stream.ranking import popular_items

_NEIGHBOURS = 12


class ItemOperations(ConsoleOperations):
    """Tell of items."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        self._item_titles = CatalogueNames(parts.items.table, parts.routes)
        self._neighbour_lists = TogetherOperations(parts)

    async def find_items(self, call: ApiCall) -> people.ItemsFoundAnswer:
        """Items whose id or title holds a text."""
        query: people.ItemsQueryText = call.query
        table, popular = self._parts.items.table, self._find_popularity()
        names = await asyncio.to_thread(self._search_items, query.text.strip(), popular)
        return people.ItemsFoundAnswer(
            items=[self._describe_listed(name, popular) for name in names[: query.limit]],
            known=len(table),
        )

    def _find_popularity(self) -> dict[str, float]:
        """What trends, the most popular first."""
        trending = self._parts.recommender.items.trending.items
        found = popular_items(trending, current_ms(), len(trending.item_ids))
        return {item.item_id: item.score for item in found}

    def _search_items(self, text: str, popular: Mapping[str, float]) -> list[str]:
        if not text:
            return [*popular, *(n for n in self._parts.items.table.item_ids if n not in popular)]
        wanted = text.casefold()
        found = [name for name, title in self._item_ids_and_titles() if _holds(wanted, name, title)]
        return sorted(found, key=lambda name: (name != text, -popular.get(name, -math.inf)))

    def _item_ids_and_titles(self) -> Iterator[tuple[str, str]]:
        # The table may grow meanwhile.
        for name in list(self._parts.items.table.item_ids):
            yield name, self._item_titles.title(name)

    def _describe_listed(self, item_id: str, popular: Mapping[str, float]) -> people.ListedItem:
        return people.ListedItem(
            item_id=item_id,
            title=self._item_titles.title(item_id),
            available=self._is_item_available(item_id),
            popularity=popular.get(item_id),
        )

    def _is_item_available(self, item_id: str) -> bool:
        table = self._parts.items.table
        row, column = table.row_of(item_id), table.find_column("available")
        return row < 0 or column is None or column.values[column.codes[row]] is not False

    async def show_item(self, call: ApiCall) -> people.ItemProfileAnswer:
        """What is known of an item.

        Raises:
            RequestError: nothing is.
            ServerError: the store does not answer.
        """
        item_id, time_ms = call.path["item"], current_ms()
        if len(item_id) > MAX_ID:
            raise EventError("item", item_id, f"expected at most {MAX_ID} characters")
        async with asyncio.timeout(self._parts.deadline_s):
            item = await self._parts.recommender.items.catalogue.find(item_id)
        counts = await self._count_events(item_id, time_ms)
        versions = self._describe_item_versions(item_id)
        if item is None and not counts and not any(each.is_known for each in versions):
            raise refuse(
                "not-found",
                "nothing is known of this item",
                "look whether the id is right; a message on the topic items makes it known",
            )
        together, together_problem = await self._find_neighbours("together", item_id, call)
        similar, similar_problem = await self._find_neighbours("similar", item_id, call)
        trending = list(self._find_popularity())
        return people.ItemProfileAnswer(
            item_id=item_id,
            time=time_ms,
            item=item,
            available=item.available if item else self._is_item_available(item_id),
            rates=list(self._describe_item_rates(counts)),
            counts={kind: values[-1] for kind, values in counts.items()},
            versions=versions,
            trending_place=trending.index(item_id) + 1 if item_id in trending else None,
            together=together,
            together_problem=together_problem,
            similar=similar,
            similar_problem=similar_problem,
        )

    async def _count_events(self, item_id: str, time_ms: int) -> ItemCounts:
        settings = self._parts.settings
        store = RedisRowStore(settings.store, any_server=True)
        try:
            partitions = settings.kafka.partitions
            found = await read_counts(store, self._parts.schema, partitions, [item_id], time_ms)
        finally:
            await store.close()
        return found[item_id]

    def _describe_item_rates(self, counts: ItemCounts) -> Iterator[people.ItemRate]:
        lives = self._parts.schema.item_half_lives
        for kind, values in counts.items():
            # The last is the plain count.
            for life, count in zip(lives[:-1], values[:-1], strict=True):
                yield people.ItemRate(
                    type=kind,
                    half_life_ms=int(life),
                    count=count,
                    per_day=rate_per_day(count, life),
                )

    def _describe_item_versions(self, item_id: str) -> list[people.ItemVersion]:
        found = []
        for route in self._parts.routes.answering:
            (index,) = route.vocabulary.indices_of([item_id]).tolist()
            found.append(
                people.ItemVersion(
                    version=route.version.version,
                    variant=route.version.variant,
                    is_known=index >= FIRST_ITEM,
                    is_learned=index >= FIRST_ITEM and bool(route.vocabulary.learned[index]),
                )
            )
        return found

    async def _find_neighbours(
        self, kind: str, item_id: str, call: ApiCall
    ) -> tuple[list[people.NeighbourItem], str]:
        """What goes with an item, and why nothing does."""
        try:
            if kind == "similar":
                asked = contract.SimilarQuery(items=[item_id], limit=_NEIGHBOURS)
                answer = await self._neighbour_lists.find_similar(_call_with(call, asked))
                if answer.fallback:
                    return (
                        [],
                        f"no version of the model answered: {answer.failed or 'none is live'}",
                    )
                return self._name_neighbours(answer.items, KnownBy.SIMILAR), ""
            cart = contract.TogetherQuery(items=[item_id], limit=_NEIGHBOURS)
            found = await self._neighbour_lists.find_together(_call_with(call, cart))
        except (HeadwaterError, EventError, TimeoutError) as error:
            return [], str(error) or "no answer in time"
        counted = [item for item in found.items if item.known_by is KnownBy.TOGETHER]
        problem = found.not_counted or ("" if counted else "nothing was taken with it in a session")
        return [
            people.NeighbourItem(
                item_id=item.item_id,
                score=item.score,
                known_by=item.known_by,
                title=self._item_titles.title(item.item_id),
            )
            for item in counted
        ], problem

    def _name_neighbours(
        self, items: Sequence[RecommendedItem], known_by: KnownBy
    ) -> list[people.NeighbourItem]:
        return [
            people.NeighbourItem(
                item_id=item.item_id,
                score=item.score,
                known_by=known_by,
                title=self._item_titles.title(item.item_id),
            )
            for item in items
        ]


def _call_with(call: ApiCall, body: contract.SimilarQuery | contract.TogetherQuery) -> ApiCall:
    return ApiCall(call.key, call.raw, body, None, call.path, call.headers)


def _holds(wanted: str, item_id: str, title: str) -> bool:
    return wanted in item_id.casefold() or wanted in title.casefold()
