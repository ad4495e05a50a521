"""The serving core without Kafka: rows in, ranked lists out, whatever the model server does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from headwater_client.events import Item
from prometheus_client import REGISTRY

from features.columns import TrendList, encode_item, encode_trending
from features.rollout_messages import Rollout, RoutedVersion
from features.rows import UserRow, empty_user
from features.schema import FeatureSchema, Vocabulary
from features.settings import BrokerSettings, FeatureSettings, StoreSettings
from features.topics import hash64
from stream.catalogue import CatalogueEntry, is_available
from stream.inference import InferenceError
from stream.recommendations import POPULAR_ITEMS, RankedLists, RecommendationRequest
from stream.recommender import Recommender, make_recommender
from stream.routing import Routes
from stream.settings import TritonSettings, WorkerConfig, WorkerSettings
from stream.version_calls import check_indices
from tests.harness.memory_store import MemoryRowStore

NOW_MS = 1_700_000_000_000
CONFIG = WorkerConfig(
    BrokerSettings(partitions=1),
    StoreSettings(),
    FeatureSettings(),
    TritonSettings(url="127.0.0.1:9"),
    WorkerSettings(top_k=3),
)
SCHEMA = FeatureSchema(CONFIG.features)


def store_where_trend(*items: str) -> MemoryRowStore:
    """A store where these items trend, most popular first."""
    store = MemoryRowStore()
    counts = [[NOW_MS, *[len(items) - place] * 4] for place in range(len(items))]
    listed = TrendList(list(items), np.array(counts, np.float64))
    store.rows["trending", "clicks_0"] = dict(encode_trending(listed, 1, 1))
    return store


def recommender(
    store: MemoryRowStore,
    routes: Routes | None = None,
    may_recommend: Callable[[CatalogueEntry], bool] = is_available,
) -> Recommender:
    return make_recommender(CONFIG, store, routes or Routes("m"), may_recommend)  # type: ignore[arg-type]


def routes_of(**shares: float) -> Routes:
    routes = Routes("m", load=lambda address: Vocabulary(["a", "b", "c", "d", "e"]))
    versions = [
        RoutedVersion(version=number, variant=name, share=share, address=f"memory://{name}")
        for number, (name, share) in enumerate(shares.items(), 1)
    ]
    routes.follow(Rollout(model="m", versions=versions, time=NOW_MS, rollout_id="r"))
    return routes


def recommend(found: Recommender, *users: tuple[str, UserRow]) -> list[RankedLists]:
    requests = [RecommendationRequest(name, NOW_MS, row) for name, row in users]

    async def run() -> list[RankedLists]:
        await found.start()
        try:
            return [await found.execute(call) for call in found.prepare(requests)]
        finally:
            await found.close()

    return asyncio.run(run())


def item_ids(lists: RankedLists) -> list[list[str]]:
    return [[item.item_id for item in items] for items in lists.items]


def test_without_a_version_popular_items_answer_everyone_in_order() -> None:
    seen = empty_user(SCHEMA)
    seen.seen.append(hash64("b"))
    found = recommender(store_where_trend("a", "b", "c", "d"))
    (lists,) = recommend(found, ("ann", empty_user(SCHEMA)), ("bob", seen))
    assert item_ids(lists) == [["a", "b", "c"], ["a", "c", "d"]]
    assert (lists.model_version, lists.variant, lists.fallback) == (POPULAR_ITEMS, "fallback", True)
    assert (lists.failed, lists.latency_ms) == ("", None)
    assert {item.reason.kind for items in lists.items for item in items} == {"popular"}


def test_each_request_has_a_list_of_its_own_length() -> None:
    found = recommender(store_where_trend("a", "b", "c", "d", "e"))
    row = empty_user(SCHEMA)
    limits = (None, 1, 5)
    requests = [RecommendationRequest("ann", NOW_MS, row, limit=limit) for limit in limits]

    async def run() -> RankedLists:
        await found.start()
        (call,) = found.prepare(requests)
        try:
            return await found.execute(call)
        finally:
            await found.close()

    assert item_ids(asyncio.run(run())) == [["a", "b", "c"], ["a"], ["a", "b", "c", "d", "e"]]


def test_what_trends_is_recalled_without_the_store() -> None:
    store = store_where_trend("a", "b", "c", "d", "e")
    hide(store, "b")
    found = recommender(store, routes_of(stable=0.5, canary=0.5))
    seen = empty_user(SCHEMA)
    seen.seen.append(hash64("c"))
    recommend(found, ("ann", seen))
    reads = store.reads
    lists = found.recall(RecommendationRequest("ann", NOW_MS, seen, limit=2), "the store is away")
    # What is off sale is remembered, too.
    assert item_ids(lists) == [["a", "d"]]
    assert lists.variant in ("stable", "canary")
    assert (lists.failed, lists.fallback, lists.rollout_id) == ("the store is away", True, "r")
    ordered = found.recall(RecommendationRequest("ann", NOW_MS, seen, candidates=("e", "c")), "")
    assert item_ids(ordered) == [["c", "e"]]
    assert store.reads == reads


def hide(store: MemoryRowStore, *item_ids: str) -> None:
    for name in item_ids:
        entry = encode_item(Item(item_id=name, available=False), 1, 1)
        store.rows["item_catalogue", name] = dict(entry)


def short_lists(filled_by: str) -> float:
    name = "headwater_short_lists_total"
    return REGISTRY.get_sample_value(name, {"filled_by": filled_by}) or 0.0


def test_popular_lists_are_full_though_all_that_trends_most_is_off_sale() -> None:
    names = [f"i{number}" for number in range(450)]
    store = store_where_trend(*names)
    hide(store, *names[:400])
    popular, nothing = short_lists("popular"), short_lists("nothing")
    (lists,) = recommend(recommender(store), ("ann", empty_user(SCHEMA)))
    assert item_ids(lists) == [names[400:403]]
    assert (short_lists("popular"), short_lists("nothing")) == (popular + 1, nothing)


def test_where_nothing_trends_a_list_has_what_the_version_knows() -> None:
    store = store_where_trend("b")
    hide(store, "a", "d")
    seen = empty_user(SCHEMA)
    seen.seen.append(hash64("c"))
    found = recommender(store, routes_of(stable=1.0))
    (lists,) = recommend(found, ("ann", empty_user(SCHEMA)), ("bob", seen))
    assert item_ids(lists) == [["b", "c", "e"], ["b", "e"]]
    assert lists.fallback
    assert {item.reason.kind for items in lists.items for item in items} == {"popular"}


def test_a_list_that_nothing_fills_is_counted_and_says_how_many_are_missing() -> None:
    store = store_where_trend("a", "b")
    hide(store, "a", "b")
    before = short_lists("nothing")
    found = recommender(store)
    (lists,) = recommend(found, ("ann", empty_user(SCHEMA)))
    assert (item_ids(lists), lists.top_k) == ([[]], 3)
    assert short_lists("nothing") == before + 1


def test_what_may_not_be_recommended_is_left_out() -> None:
    store = store_where_trend("a", "b", "c", "d")
    store.rows["item_catalogue", "a"] = dict(encode_item(Item(item_id="a", available=False), 1, 1))
    store.rows["item_catalogue", "b"] = dict(encode_item(Item(item_id="b", category=["x"]), 1, 1))
    ann = ("ann", empty_user(SCHEMA))
    (lists,) = recommend(recommender(store), ann)
    assert item_ids(lists) == [["b", "c", "d"]]
    without_x = recommender(store, may_recommend=lambda e: hash64("x") not in e.category_hashes)
    (lists,) = recommend(without_x, ann)
    assert item_ids(lists) == [["a", "c", "d"]]


def test_an_attribute_of_ones_own_filters_with_one_predicate() -> None:
    """`region` is named here alone: the catalogue brings whatever attributes an item has."""
    store = store_where_trend("a", "b", "c")
    north = Item(item_id="a", attributes={"region": "north"})
    store.rows["item_catalogue", "a"] = dict(encode_item(north, 1, 1))

    def is_sold_in_the_south(entry: CatalogueEntry) -> bool:
        return is_available(entry) and entry.attributes.get("region", "south") == "south"

    (lists,) = recommend(recommender(store, None, is_sold_in_the_south), ("a", empty_user(SCHEMA)))
    assert item_ids(lists) == [["b", "c"]]


def test_a_model_server_that_is_away_leaves_popular_items_and_says_why() -> None:
    found = recommender(store_where_trend("a", "b"), routes_of(stable=1.0))
    (lists,) = recommend(found, ("ann", empty_user(SCHEMA)))
    assert item_ids(lists) == [["a", "b", "c"]]
    assert (lists.variant, lists.rollout_id, lists.fallback) == ("stable", "r", True)
    assert lists.failed == "version 1: Triton is away, or does not have it"
    assert lists.latency_ms is not None


def test_a_stable_version_whose_graph_is_of_other_items_is_a_failure_too() -> None:
    found = recommender(store_where_trend("a", "b"), routes_of(stable=1.0))
    (call,) = found.prepare([RecommendationRequest("ann", NOW_MS, empty_user(SCHEMA))])
    assert call.shown
    candidates = call.shown.request.tensors["candidate_items"].shape
    good = {
        "top_items": np.full((1, 3), 6),
        "top_explained_by": np.full((1, 3), -1),
        "candidate_explained_by": np.full(candidates, -1),
        "candidate_scores": np.zeros(candidates, np.float32),
    }
    check_indices(good, call.shown)
    for name, array in (
        ("top_items", np.full((1, 3), 7)),
        ("top_explained_by", np.full((1, 3), SCHEMA.settings.history_length)),
        ("candidate_scores", np.zeros((1, candidates[1] + 1), np.float32)),
    ):
        with pytest.raises(InferenceError, match=f"version 1: {name}"):
            check_indices(good | {name: array}, call.shown)


def test_users_of_one_variant_share_a_call_and_shadows_are_calls_of_their_own() -> None:
    found = recommender(MemoryRowStore(), routes_of(stable=0.5, canary=0.5))
    users = [f"u{number}" for number in range(50)]
    calls = found.prepare(RecommendationRequest(u, NOW_MS, empty_user(SCHEMA)) for u in users)
    assert sorted(call.on_trial for call in calls) == [False, True]
    assert sorted(r.user_id for call in calls for r in call.requests) == sorted(users)
    shadowed = recommender(MemoryRowStore(), routes_of(stable=1.0, shadow=1.0))
    (call,) = shadowed.prepare([RecommendationRequest("ann", NOW_MS, empty_user(SCHEMA))])
    assert call.shadow
    assert not call.on_trial
    assert call.shadow.request.on_trial
    lists = asyncio.run(shadowed.execute_shadow(call.shadow))
    assert (item_ids(lists), lists.model_version) == ([[]], "2")
    assert lists.failed.startswith("version 2")


def test_a_call_has_the_row_as_it_was_when_it_was_prepared() -> None:
    found = recommender(MemoryRowStore(), routes_of(stable=1.0))
    row = empty_user(SCHEMA)
    (call,) = found.prepare([RecommendationRequest("ann", NOW_MS, row)])
    row.events.extend((NOW_MS, 1, hash64("a")))
    assert call.shown
    assert not call.shown.request.tensors["event_types"].any()
    (later,) = found.prepare([RecommendationRequest("ann", NOW_MS, row)])
    assert later.shown
    assert later.shown.request.tensors["event_types"].any()


def test_the_core_needs_no_kafka() -> None:
    hidden = "dict.fromkeys(('faust', 'aiokafka', 'confluent_kafka'))"
    code = f"import sys; sys.modules |= {hidden}; import stream.recommender"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
