"""A source's list of trending items."""

from __future__ import annotations

import asyncio

import numpy as np
from headwater_client.event_types import CLICK

from features.columns import TrendList, encode_trending
from features.rows import ItemGroup
from features.schema import FeatureSchema
from features.settings import DAY_MS, FeatureSettings
from features.store import item_sources
from stream.ranking import popular_items
from stream.row_updates import ItemGroupKey
from stream.trending import TrendingSource, sum_lists, update_list
from tests.harness.memory_store import MemoryRowStore

SCHEMA = FeatureSchema(FeatureSettings())
NOW_MS = 1_700_000_000_000
YEAR_2200_MS = 7_258_118_400_000
NOTHING = TrendList([], np.zeros((0, 5)))


def group(count: float, age_days: int = 0) -> ItemGroup:
    return ItemGroup([count] * 4, 1, 1, NOW_MS - age_days * DAY_MS)


def test_the_most_popular_stay() -> None:
    listed = update_list(NOTHING, {"a": group(1), "b": group(3), "c": group(2)}, 2, SCHEMA)
    assert listed.item_ids == ["b", "c"]


def test_an_old_count_has_decayed_when_it_is_compared() -> None:
    listed = update_list(NOTHING, {"old": group(10, age_days=28), "new": group(2)}, 1, SCHEMA)
    assert listed.item_ids == ["new"]


def test_a_changed_group_replaces_what_was_listed() -> None:
    before = update_list(NOTHING, {"a": group(1), "b": group(2)}, 5, SCHEMA)
    after = update_list(before, {"a": group(3)}, 5, SCHEMA)
    assert after.item_ids == ["a", "b"]
    assert after.counts[:, 1].tolist() == [3.0, 2.0]


def test_an_item_of_the_year_2200_takes_no_other_items_trend_away() -> None:
    spoiled = TrendList(
        ["future", "a", "b"],
        np.array([[YEAR_2200_MS, *[1.0] * 4], [NOW_MS, *[500.0] * 4], [NOW_MS, *[900.0] * 4]]),
    )
    trends = sum_lists([(CLICK.code, spoiled)], SCHEMA, NOW_MS)
    assert list(trends.item_ids) == ["b", "a", "future"]
    assert trends.counts[:, 0].tolist() == [900.0, 500.0, 1.0]
    assert trends.reference_ms == NOW_MS


def test_a_list_that_was_spoiled_recovers_with_its_next_item() -> None:
    spoiled = TrendList(
        ["future", "a"], np.array([[YEAR_2200_MS, *[1.0] * 4], [NOW_MS, *[5.0] * 4]])
    )
    listed = update_list(spoiled, {"new": group(1000)}, 2, SCHEMA, NOW_MS)
    assert listed.item_ids == ["new", "a"]
    kept = update_list(spoiled, {"new": group(0.5)}, 3, SCHEMA, NOW_MS)
    assert kept.item_ids == ["a", "future", "new"]
    assert kept.counts[:, 0].tolist() == [NOW_MS] * 3


def test_nothing_trends_in_an_empty_store() -> None:
    trends = sum_lists([], SCHEMA)
    assert list(trends.item_ids) == []
    assert trends.decay_factors([NOW_MS]).shape == (1, 3)


def test_a_further_half_life_does_not_change_what_is_ranked_by() -> None:
    """Ranked by seven days: with four half-lives their middle would be thirty."""
    settings = FeatureSettings(item_half_lives_ms=(DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 90 * DAY_MS))
    schema = FeatureSchema(settings)
    groups = {
        "by seven days": ItemGroup([0, 9, 1, 1, 9], 1, 1, NOW_MS),
        "by thirty": ItemGroup([0, 1, 9, 1, 9], 1, 1, NOW_MS),
    }
    nothing = TrendList([], np.zeros((0, 6)))
    assert update_list(nothing, groups, 1, schema).item_ids == ["by seven days"]
    trends = sum_lists([(CLICK.code, update_list(nothing, groups, 2, schema))], schema)
    assert list(trends.item_ids) == ["by seven days", "by thirty"]
    assert popular_items(trends, NOW_MS, 1)[0].item_id == "by seven days"


async def refreshed_ids(source: TrendingSource, **counts: float) -> list[str]:
    """What trends once groups with these counts have changed."""
    source.record({ItemGroupKey(name, "clicks_0"): group(count) for name, count in counts.items()})
    await source.refresh()
    return list(source.items.item_ids)


def test_a_worker_writes_what_its_batches_changed_and_sees_what_others_wrote() -> None:
    async def run() -> None:
        store = MemoryRowStore()
        mine, other = (TrendingSource(store, SCHEMA, 1, 2, 1.0) for _ in range(2))  # type: ignore[arg-type]
        assert await refreshed_ids(mine, a=1, b=3, c=2) == ["b", "c"]
        assert await refreshed_ids(other) == ["b", "c"]
        assert await refreshed_ids(other, a=9) == ["a", "b"]
        assert await refreshed_ids(mine) == ["a", "b"]

    asyncio.run(run())


def test_a_list_that_another_worker_wrote_meanwhile_stays() -> None:
    async def run() -> None:
        store = MemoryRowStore()
        source = TrendingSource(store, SCHEMA, 1, 2, 1.0)  # type: ignore[arg-type]
        theirs = encode_trending(update_list(NOTHING, {"x": group(5)}, 2, SCHEMA), 1, 7)

        def intrude(writes: object) -> None:
            store.before_write = lambda writes: None
            store.rows["trending", "clicks_0"] = dict(theirs)

        store.before_write = intrude
        await refreshed_ids(source, a=1)
        assert await refreshed_ids(source) == ["x"]

    asyncio.run(run())


def test_others_get_their_turn_while_lists_are_read() -> None:
    async def run() -> int:
        source = TrendingSource(MemoryRowStore(), SCHEMA, 50, 2, 1.0)  # type: ignore[arg-type]
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(count_turns())
        await source.refresh()
        others.cancel()
        return turns

    assert asyncio.run(run()) > len(item_sources(50))
