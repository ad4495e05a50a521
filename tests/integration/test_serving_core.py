"""The serving core on a real Triton and a real store, where no Kafka runs at all."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Sequence
from dataclasses import replace

import pytest
from headwater_client.events import Click, Item

from deploy import local
from deploy.settings import Settings
from features.rollout_messages import Rollout, RoutedVersion
from features.rows import UserRow, empty_user
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from features.store import popularity_table
from features.store.redis import RedisRowStore
from features.topics import Hash, hash64
from stream.catalogue import LOADED_ITEMS, ItemUpdate, write_items
from stream.filtering import MAX_POOL, FilterableItems
from stream.inference import model_servers
from stream.ranking import is_seen
from stream.recommendations import RankedLists, RecommendationRequest
from stream.recommender import Recommender, make_recommender
from stream.routing import Routes
from stream.row_updates import ConsumerRecord, RowUpdater
from stream.settings import WorkerConfig
from tests.harness.models import ITEMS, SETTINGS, untrained
from trainer.registry import ModelRegistry

pytestmark = pytest.mark.integration
NOW_MS = 1_700_000_000_000


def serve_a_model(settings: Settings) -> Routes:
    """Routes to a model that Triton has loaded; nothing is announced to Kafka."""
    schema = FeatureSchema(settings.features)
    servers, nowhere = model_servers(settings.triton), BrokerSettings()
    registry = ModelRegistry(settings.model_repository, servers, nowhere, schema, SETTINGS)
    version = registry.write_version(untrained(schema, 1))
    registry.load_and_verify(version)
    routes = Routes(settings.triton.model, schema.contract)
    stable = RoutedVersion(
        version=version.number, variant="stable", share=1.0, address=version.address
    )
    routes.follow(Rollout(model=routes.model, versions=[stable], time=NOW_MS))
    return routes


async def click_on(
    item_id: str, config: WorkerConfig, store: RedisRowStore, core: Recommender
) -> UserRow:
    """The row of a user who clicked on an item, as a worker writes it."""
    popularity = popularity_table(config.kafka.partitions)
    updater = RowUpdater(
        store, FeatureSchema(config.features), core.items.catalogue, popularity, cache_size=10
    )
    click = Click(event_id="e", user_id="ann", item_id=item_id, timestamp=NOW_MS)
    changes = await updater.apply([ConsumerRecord(click, "clicks_0", LOADED_ITEMS, 0)])
    core.record(changes.groups)
    await core.start()
    return changes.users["ann"]


async def recommend(core: Recommender, *rows: UserRow) -> RankedLists:
    requests = [RecommendationRequest(f"u{n}", NOW_MS, row) for n, row in enumerate(rows)]
    (call,) = core.prepare(requests)
    return await core.execute(call)


def item_ids(lists: RankedLists, user: int) -> list[str]:
    return [item.item_id for item in lists.items[user]]


async def take_off_sale(store: RedisRowStore, item_ids: Sequence[str], offset: int) -> None:
    gone = {
        name: ItemUpdate(Item(item_id=name, available=False), Hash(1), offset, NOW_MS)
        for name in item_ids
    }
    await write_items(store, gone)


async def check_full_lists(config: WorkerConfig, routes: Routes, row: UserRow) -> None:
    """Of 200 items, of which the model answers 100, ever more are off sale."""
    store = RedisRowStore(config.store)
    wide = replace(config, worker=config.worker.model_copy(update={"top_k": 100}))
    top_k = config.worker.top_k
    nobody = empty_user(FeatureSchema(config.features))

    async def recommend_anew(config: WorkerConfig, *rows: UserRow) -> RankedLists:
        core = make_recommender(config, store, routes)
        await core.start()
        try:
            return await recommend(core, *rows)
        finally:
            await core.close()

    try:
        best = item_ids(await recommend_anew(wide, row), 0)
        # Her own best 60; all that the model answers at first; all but twelve; all but three.
        await take_off_sale(store, best[:60], 1)
        assert item_ids(await recommend_anew(config, row), 0) == best[60:70]
        await take_off_sale(store, best[60:], 2)
        ranked = await recommend_anew(config, row, nobody)
        for user in range(2):
            assert len(set(item_ids(ranked, user)) - set(best)) == top_k
            assert {item.reason.kind for item in ranked.items[user]} <= {"history", "trending"}
            scores = [item.score for item in ranked.items[user]]
            assert scores == sorted(scores, reverse=True)
        others = [f"i{n}" for n in range(ITEMS) if n != 7 and f"i{n}" not in best]
        await take_off_sale(store, others[12:], 3)
        again = item_ids(await recommend_anew(config, row), 0)
        assert len(again) == top_k
        assert set(again) <= set(others[:12])
        await take_off_sale(store, others[3:12], 4)
        ranked = await recommend_anew(config, row, nobody)
        assert set(item_ids(ranked, 0)) == set(others[:3])
        # What she has clicked on is still on sale, and no one else has taken it.
        assert set(item_ids(ranked, 1)) == {*others[:3], "i7"}
        for name in others[:2]:
            insort(row.seen, hash64(name))
        assert item_ids(await recommend_anew(config, row), 0) == [others[2]]
    finally:
        await store.close()


async def check_filters(
    config: WorkerConfig, routes: Routes, row: UserRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is the beginning of the whole order, of what the filter leaves; and full of it."""
    store = RedisRowStore(config.store)
    core, filterable = make_recommender(config, store, routes), FilterableItems()
    away = replace(config, triton=config.triton.model_copy(update={"url": "127.0.0.1:9"}))
    alone = make_recommender(away, store, routes)
    names = [f"i{n}" for n in range(ITEMS)]
    for number, name in enumerate(names):
        filterable.table.put(Item(item_id=name, attributes={"n": number}))
    try:
        await core.start()
        await alone.start()
        asked = RecommendationRequest("u", NOW_MS, row, candidates=names)
        (call,) = core.prepare([asked])
        (order,) = (await core.rank_candidates(call)).items
        on_sale = await core.items.check(names)
        shown = [i.item_id for i in order if on_sale[i.item_id] and not is_seen(row, i.item_id)]
        for left in (1, 2, 9, 10, 20, 100, 180, 200):
            found = filterable.make_filter(f"item.attributes.n < {left}", {})
            wanted = [name for name in shown if int(name[1:]) < left]
            # By the scores of all that is left; by the version's best, and what it is asked again.
            for most in (MAX_POOL, 0):
                monkeypatch.setattr("stream.filtering.MAX_POOL", most)
                requests = [
                    RecommendationRequest("u", NOW_MS, row, wanted=found),
                    RecommendationRequest("v", NOW_MS, row),
                ]
                for call in core.prepare(requests):
                    lists = await core.execute(call)
                    assert not lists.failed
                    for request, items in zip(call.requests, lists.items, strict=True):
                        expected = wanted if request.user_id == "u" else shown
                        top_k = config.worker.top_k
                        assert [item.item_id for item in items] == expected[:top_k], (left, most)
            (call,) = alone.prepare(requests[:1])
            lists = await alone.execute(call)
            assert lists.fallback
            recalled = alone.recall(requests[0], "away")
            for fallback in (lists, recalled):
                assert set(item_ids(fallback, 0)) <= set(wanted)
                assert len(item_ids(fallback, 0)) == min(len(wanted), config.worker.top_k)
    finally:
        await core.close()
        await alone.close()
        await store.close()


async def check(config: WorkerConfig, routes: Routes) -> UserRow:
    store = RedisRowStore(config.store)
    core = make_recommender(config, store, routes)
    try:
        row, nobody = (
            await click_on("i7", config, store, core),
            empty_user(FeatureSchema(config.features)),
        )
        lists = await recommend(core, row, nobody)
        assert (lists.model_version, lists.variant, lists.fallback) == ("1", "stable", False)
        assert (lists.failed, lists.rollout_id) == ("", "")
        assert lists.latency_ms is not None
        for user in range(2):
            scores = [item.score for item in lists.items[user]]
            assert scores == sorted(scores, reverse=True)
            assert len(set(item_ids(lists, user))) == config.worker.top_k
            assert set(item_ids(lists, user)) <= {f"i{n}" for n in range(ITEMS)}
        assert "i7" not in item_ids(lists, 0)
        assert {item.reason.kind for item in lists.items[0]} <= {"history", "trending"}
        best = item_ids(lists, 0)[0]
        gone = ItemUpdate(Item(item_id=best, available=False), LOADED_ITEMS, 1, NOW_MS)
        await write_items(store, {best: gone})
        fresh = make_recommender(config, store, routes)
        assert best not in item_ids(await recommend(fresh, row), 0)
        everything = make_recommender(config, store, routes, lambda entry: True)
        assert item_ids(await recommend(everything, row), 0)[0] == best
        for other in (fresh, everything):
            await other.close()
        return row
    finally:
        await core.close()
        await store.close()


def test_a_row_becomes_a_ranked_list_where_no_kafka_runs(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = local.up(own, only=["store", "triton"])
    assert settings.kafka.bootstrap_servers is None
    config = WorkerConfig(
        settings.kafka, settings.store, settings.features, settings.triton, settings.worker
    )
    routes = serve_a_model(settings)
    row = asyncio.run(check(config, routes))
    asyncio.run(check_filters(config, routes, row, monkeypatch))
    asyncio.run(check_full_lists(config, routes, row))
