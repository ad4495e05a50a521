"""The Faust app of a worker, put together from its parts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import faust
from faust.types.auth import CredentialsT

from features.inputs import model_inputs, model_outputs
from features.kafka import ensure_sources
from features.schema import FeatureSchema
from features.settings import FeatureSettings, KafkaSettings, SecurityProtocol, StoreSettings
from features.store import RowStore, popularity_table
from stream.absorption import Absorber
from stream.agents import add_agents
from stream.answering import Answerer
from stream.asking import Asker
from stream.catalogue import Catalogue
from stream.commits import Commits
from stream.delivery import Delivery
from stream.ending import forever
from stream.loop import FastLoop
from stream.pipeline import Pipeline
from stream.routing import RolloutFollower, Routes
from stream.scoring import Scorer
from stream.settings import TritonSettings, WorkerSettings
from stream.shelving import Shelver
from stream.transport import Transport
from stream.trend_lists import TrendLists


@dataclass(frozen=True)
class WorkerConfig:
    """The settings that a worker needs, all addresses known."""

    kafka: KafkaSettings
    store: StoreSettings
    features: FeatureSettings
    triton: TritonSettings
    worker: WorkerSettings


def make_app(config: WorkerConfig) -> faust.App:
    """The worker's Faust app.

    Raises:
        ServerError: Kafka does not answer.
        SettingsError: a topic is missing, or has another number of partitions.
    """
    app = _faust_app(config)
    settings, partitions = config.worker, config.kafka.partitions
    schema = FeatureSchema(config.features)
    sources = ensure_sources(config.kafka)
    store = RowStore(config.store)
    catalogue = Catalogue(settings.catalogue_refresh_s)
    delivery = Delivery(config.kafka)
    commits = Commits(app, store, delivery, settings.commit_interval_s)
    trends = TrendLists(
        store, schema, partitions, settings.trending_items, settings.trends_refresh_s
    )
    routes = Routes(config.triton.model)
    follower = RolloutFollower(config.kafka, routes)
    scorer = Scorer(config.triton, model_inputs(schema), model_outputs(schema))
    absorber = Absorber(store, schema, catalogue, popularity_table(partitions), settings.row_cache)
    asker = Asker(settings, schema, trends, scorer)
    answerer = Answerer(settings, schema, store, catalogue, trends, routes, asker)
    pipeline = Pipeline(answerer, delivery, commits)
    loop = FastLoop(absorber, answerer, trends, follower, delivery, pipeline, sources)
    shelver = Shelver(store, delivery, commits, sources)
    add_agents(app, settings.batch_size, loop.handle, shelver.handle)
    for service in (follower.run, trends.run, commits.run):
        app.task(forever(service))
    return app


def _faust_app(config: WorkerConfig) -> faust.App:
    worker = config.worker
    brokers = (config.kafka.bootstrap_servers or "").split(",")
    app = faust.App(
        worker.group,
        broker=[f"aiokafka://{broker}" for broker in brokers],
        broker_credentials=_credentials(config.kafka),
        # Static membership: a restarted worker gets its partitions back without a rebalance.
        consumer_group_instance_id=worker.name,
        broker_session_timeout=worker.session_timeout_s,
        broker_heartbeat_interval=worker.session_timeout_s / 6,
        consumer_auto_offset_reset="earliest",
        # A full buffer pauses its partitions, and to resume one costs a fetch: room for more.
        stream_buffer_maxsize=32 * worker.batch_size,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        web_enabled=False,
        # Faust makes a folder for tables, which this worker has none of.
        datadir=str(Path(gettempdir()) / "headwater-faust"),
    )
    app.transport = Transport(app.conf.broker_consumer, app)
    return app


def _credentials(settings: KafkaSettings) -> CredentialsT | None:
    protocol = settings.security_protocol
    if protocol is SecurityProtocol.PLAINTEXT:
        return None
    encrypted = protocol in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)
    context = ssl.create_default_context(cafile=settings.ssl_ca_file) if encrypted else None
    if protocol is SecurityProtocol.SSL:
        return faust.SSLCredentials(context)
    password = settings.sasl_password
    return faust.SASLCredentials(
        username=settings.sasl_username,
        password=password.get_secret_value() if password else None,
        ssl_context=context,
        mechanism=settings.sasl_mechanism.value,
    )
