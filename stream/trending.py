"""What trends now: each source keeps a short list of its most popular items; readers add them up.

The lists are made from item rows and need no recovery: an item comes back to its list with its next
event. A source's list holds that source's exact counters, so the sum over the sources is an item's
exact popularity, but for sources in which it is not among the most popular.

Shapes: B requests, M items, T half-lives (without the plain count).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from headwater_client import EVENT_TYPES, ServerError

from features.columns import DamagedRowError, Stored, TrendList, decode_trending, encode_trending
from features.events import current_ms
from features.rows import ItemGroup
from features.schema import FeatureSchema, Float64Array, Int64Array, Vocabulary
from features.store import (
    TRENDING,
    VERSION,
    RowRead,
    RowStore,
    RowWrite,
    StoreRestartedError,
    item_sources,
    set_aside,
)
from stream.row_updates import ItemGroupKey

log = structlog.get_logger()


@dataclass(frozen=True)
class TrendingItems:
    """Popularity of the items that trend, most popular first.

    Attributes:
        counts: float64[M, T] as of `reference_ms`.
        half_lives: float64[T], ms.
        ranked_by: the index of the half-life that the items are ranked by.
    """

    item_ids: Sequence[str]
    counts: Float64Array
    reference_ms: int
    half_lives: Float64Array
    ranked_by: int

    def decay_factors(self, times_ms: Sequence[int]) -> Float64Array:
        """The fraction of the counts that is left at each time, float64[B, T]."""
        elapsed = np.maximum(0, np.asarray(times_ms) - self.reference_ms)
        factors: Float64Array = 2.0 ** -(elapsed[:, None] / self.half_lives)
        return factors


def update_list(
    stored: TrendList,
    changed: Mapping[str, ItemGroup],
    limit: int,
    schema: FeatureSchema,
    now_ms: int | None = None,
) -> TrendList:
    """A source's list with the groups that have changed: the `limit` most popular items of both.

    Counters that are kept at a later time than now are taken as of now: beside one of the year 2200
    all others would be worth nothing.
    """
    kept = [place for place, name in enumerate(stored.item_ids) if name not in changed]
    names = [*(stored.item_ids[place] for place in kept), *changed]
    new_counts = [(group.reference_ms, *group.values) for group in changed.values()]
    width = stored.counts.shape[1]
    counts = np.concatenate([stored.counts[kept], np.reshape(new_counts, (-1, width))])
    counts[:, 0] = np.minimum(counts[:, 0], now_ms or current_ms())
    newest = counts[:, 0].max(initial=0)
    factors = 2.0 ** -((newest - counts[:, 0]) / schema.settings.trending_half_life_ms)
    best = np.argsort(-counts[:, 1 + schema.trending_index] * factors, kind="stable")[:limit]
    return TrendList([names[place] for place in best], counts[best])


def sum_lists(
    lists: Sequence[tuple[int, TrendList]], schema: FeatureSchema, now_ms: int | None = None
) -> TrendingItems:
    """Add up the sources' lists, each counter brought to the newest reference time.

    Args:
        lists: each with the code of its event type.
        schema: what each type weighs.
        now_ms: no reference time is later; default: this process's clock.
    """
    total = _TrendSum([listed for _, listed in lists], schema, now_ms or current_ms())
    for code, listed in lists:
        total.add(code, listed)
    return total.items()


class _TrendSum:
    """A sum of lists that is made a list at a time, so that others get their turn in between.

    Args:
        lists: all that will be added.
        now_ms: no reference time is later.
    """

    def __init__(self, lists: Sequence[TrendList], schema: FeatureSchema, now_ms: int) -> None:
        newest = max((listed.counts[:, 0].max(initial=0) for listed in lists), default=0)
        self._reference_ms = int(min(newest, now_ms))
        self._schema = schema
        self._half_lives = np.asarray(schema.item_half_lives[:-1])
        self._place: dict[str, int] = {}
        most = sum(len(listed.item_ids) for listed in lists)
        self._total = np.zeros((most, len(self._half_lives)))

    def add(self, code: int, listed: TrendList) -> None:
        """Add a list of events of this type."""
        place = self._place
        rows = [place.setdefault(name, len(place)) for name in listed.item_ids]
        elapsed = np.maximum(0, self._reference_ms - listed.counts[:, :1])
        values = listed.counts[:, 1:-1] * 2.0 ** -(elapsed / self._half_lives)
        self._total[rows] += self._schema.weight[code] * values

    def items(self) -> TrendingItems:
        """The sum, most popular first."""
        ranked_by, names = self._schema.trending_index, list(self._place)
        # More may have been taken back than the lists have: they are short.
        total = np.maximum(0.0, self._total[: len(names)])
        order = np.argsort(-total[:, ranked_by], kind="stable")
        return TrendingItems(
            [names[row] for row in order],
            total[order],
            self._reference_ms,
            self._half_lives,
            ranked_by,
        )


class TrendingIndex:
    """Trends by a version's item indices: a dense table of places, so that nothing is searched.

    Attributes:
        items: what trends.
        vocabulary: the version's own.
        indices: int64[M], of what trends and the version knows, most popular first.
        places: int32[N], where in `indices` each item stands; -1 where it does not.
    """

    def __init__(self, items: TrendingItems, vocabulary: Vocabulary) -> None:
        self.items = items
        self.vocabulary = vocabulary
        indices = vocabulary.indices_of(items.item_ids)
        is_known = indices != vocabulary.unknown
        self.indices = indices[is_known]
        self.places = np.full(len(vocabulary), -1, np.int32)
        self.places[self.indices] = np.arange(len(self.indices))
        # Items that do not trend stand at the last place: its counts are 0.
        self._counts = np.pad(items.counts[is_known], ((0, 1), (0, 0)))

    def values(self, indices: Int64Array, times_ms: Sequence[int]) -> Float64Array:
        """What the model's trend weights weigh: float64[B, n, T] of int64[B, n] item indices."""
        factors = self.items.decay_factors(times_ms)[:, None]
        counts: Float64Array = self._counts[self.places[indices]] * factors
        return np.log1p(counts)


class TrendingSource:
    """A process's view of what trends, and its part in keeping the sources' lists in the store.

    Args:
        partitions: of the topics of interactions; each of their partitions is a source.
        limit: number of items in a source's list.
        refresh_s: largest age of the view, in seconds.

    Attributes:
        items: the view; replaced whole at each refresh.
    """

    def __init__(
        self, store: RowStore, schema: FeatureSchema, partitions: int, limit: int, refresh_s: float
    ) -> None:
        self._store = store
        self._schema = schema
        self._limit = limit
        self._refresh_s = refresh_s
        self._reads = [RowRead(TRENDING, n, TRENDING.columns) for n in item_sources(partitions)]
        self._changed: dict[str, dict[str, ItemGroup]] = {}
        self.items: TrendingItems = sum_lists([], schema)

    def record(self, groups: Mapping[ItemGroupKey, ItemGroup]) -> None:
        """Take note of groups that a batch has changed, for the next refresh."""
        for key, group in groups.items():
            self._changed.setdefault(key.column, {})[key.item_id] = group

    async def run(self) -> None:
        """Refresh for ever; while the store is away the view only grows old."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except StoreRestartedError:
                # It would raise so for ever: whoever reads and writes there has to begin anew.
                raise
            except ServerError as error:
                log.warning("trends_not_refreshed", error=str(error))

    async def refresh(self) -> None:
        """Write the lists that have changed, then add up all of them.

        Raises:
            ServerError: the store does not answer.
        """
        stored = await self._store.read(self._reads)
        lists: dict[str, TrendList] = {}
        for read, columns in zip(self._reads, stored, strict=True):
            lists[read.entity_id] = await self._decode(read, columns)
            # A list takes half a millisecond, and there are hundreds: answers do not wait for all.
            await asyncio.sleep(0)
        versions = {r.entity_id: s[VERSION] for r, s in zip(self._reads, stored, strict=True)}
        changed, self._changed = self._changed, {}
        for name, groups in changed.items():
            lists[name] = update_list(lists[name], groups, self._limit, self._schema)
        # A list that another worker wrote meanwhile stays: that worker has the partition now.
        await self._store.write(
            [_list_write(n, lists[n], groups, versions[n]) for n, groups in changed.items()]
        )
        total = _TrendSum(list(lists.values()), self._schema, current_ms())
        for name, listed in lists.items():
            total.add(_event_code(name), listed)
            await asyncio.sleep(0)
        self.items = total.items()

    async def _decode(self, read: RowRead, stored: Stored) -> TrendList:
        """A list; an empty one, which its source's next events fill, in place of a damaged one."""
        try:
            return decode_trending(stored, self._schema)
        except DamagedRowError as error:
            await set_aside(self._store, read, stored, error)
            return TrendList([], np.empty((0, 1 + len(self._schema.item_half_lives))))


def _list_write(
    name: str, listed: TrendList, groups: Mapping[str, ItemGroup], version: bytes | None
) -> RowWrite:
    newest = max(groups.values(), key=lambda group: group.offset)
    columns = encode_trending(listed, newest.source, newest.offset)
    return RowWrite(TRENDING, name, columns, newest.reference_ms, VERSION, version)


def _event_code(source: str) -> int:
    """The code of the event type of a source by its name, such as clicks_3."""
    return EVENT_TYPES.spec_of_topic(source.rpartition("_")[0]).code
