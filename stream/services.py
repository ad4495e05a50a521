"""A worker's parts, put together: the serving core, and what feeds it from Kafka."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from faust import App

from features.kafka import ensure_sources
from features.schema import FeatureSchema
from features.store import popularity_table
from features.store.redis import RedisRowStore
from stream.commits import Commits
from stream.loop import CatalogueWriter, FastLoop, RecordDecoder
from stream.pipeline import Pipeline
from stream.producer import RecommendationProducer
from stream.recommender import make_recommender
from stream.rollout_follower import RolloutFollower
from stream.routing import Routes
from stream.row_updates import RowUpdater
from stream.settings import WorkerConfig


@dataclass(frozen=True)
class WorkerServices:
    """What a worker runs: a handler for each agent, and tasks that never end by themselves."""

    loop: FastLoop
    catalogue: CatalogueWriter
    tasks: Sequence[Callable[[], Awaitable[None]]]


def make_services(config: WorkerConfig, app: App) -> WorkerServices:
    """The parts of a worker.

    Args:
        app: whose consumer commits offsets.

    Raises:
        ServerError: Kafka does not answer.
        SettingsError: a topic is missing, or has another number of partitions.
    """
    sources = ensure_sources(config.kafka)
    store = RedisRowStore(config.store)
    producer = RecommendationProducer(config.kafka)
    commits = Commits(app, store, producer, config.worker.commit_interval_s)
    decoder = RecordDecoder(sources, producer)
    schema = FeatureSchema(config.features)
    routes = Routes(config.triton.model, schema.contract)
    follower = RolloutFollower(config.kafka, routes)
    recommender = make_recommender(config, store, routes)
    updater = RowUpdater(
        store,
        schema,
        recommender.items.catalogue,
        popularity_table(config.kafka.partitions),
        config.worker.row_cache,
    )
    pipeline = Pipeline(recommender, producer, commits)
    return WorkerServices(
        FastLoop(decoder, updater, recommender, follower, pipeline),
        CatalogueWriter(store, decoder, commits),
        (follower.run, recommender.run, commits.run),
    )
