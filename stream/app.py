"""A worker: the serving core, what feeds it from Kafka, and the Faust app that runs both.

Its agents hold no state and no tables. A batch of events becomes features, and features become
recommendations.

While the model computes on one batch (`stream.pipeline`), the rows of the next one are updated.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

import faust
from faust.types import TP, EventT, Message, StreamT
from faust.types.auth import CredentialsT
from headwater_client import EVENT_TYPES, EventError, SettingsError
from headwater_client.topics import IDENTITIES, ITEMS, PEOPLE

from features.events import EventReader
from features.kafka import LogIdentity
from features.positions import PositionKeeper
from features.schema import FeatureSchema
from features.settings import BrokerSettings, EventSettings, SaslMechanism, SecurityProtocol
from features.store import popularity_table
from features.store.redis import RedisRowStore
from features.topics import Hash, partition_of
from stream import metrics
from stream.catalogue import ItemUpdate, parse_item, write_items
from stream.failures import critical_task, end_process, excuses, retry_while_unavailable
from stream.faust_internals import (
    AppFlow,
    WorkerApp,
    batches,
    commit_offsets,
    set_starts,
    set_transport,
)
from stream.identities import IdentityReader, IdentityRecord, IdentityUpdater, send_on
from stream.identity_stage import EventGate, IdentityStage
from stream.kafka_tokens import make_token_provider
from stream.people import AttributesUpdate, parse_attributes, write_attributes
from stream.pipeline import Commits, Pipeline, RecommendationProducer, stage
from stream.placed_lists import WorkerPlacement, make_placement
from stream.poison import PoisonNet
from stream.recommendations import EventPlace, RecommendationRequest
from stream.recommender import Recommender, make_recommender
from stream.rollout_follower import RolloutFollower, keep_routed, make_follower
from stream.routing import Routes
from stream.row_updates import ConsumerRecord, RowChanges, RowUpdater
from stream.settings import WorkerConfig
from stream.tracing import find_sender, trace_batch

ToldT = TypeVar("ToldT")
UpdateT = TypeVar("UpdateT")


class RecordDecoder:
    """Decodes messages; those that break the contract become dead letters.

    Args:
        sources: the source hash of each topic and partition.
        settings: which events count.
        answered: of each, the offset below which all was answered before.
    """

    def __init__(
        self,
        sources: Mapping[tuple[str, int], Hash],
        producer: RecommendationProducer,
        settings: EventSettings = EventSettings(),  # noqa: B008 (frozen)
        answered: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self._sources = sources
        self._answered = {} if answered is None else answered
        self._producer = producer
        self._reader = EventReader(settings, metrics.count_wrong_time)
        self._partitions = 1 + max((partition for _, partition in sources), default=0)

    async def interactions(self, events: Sequence[EventT[bytes]]) -> list[ConsumerRecord]:
        """The interactions of a batch, in its order."""
        records = []
        for event in events:
            try:
                records.append(self._decode(event))
            except EventError as error:
                await self._producer.send_to_dead_letter(event, error)
        metrics.count_events(event.message.topic for event in events)
        return records

    def _decode(self, event: EventT[bytes]) -> ConsumerRecord:
        message = event.message
        topic, partition = message.topic, message.partition
        decoded = self._reader.read(topic, message.value, _time_ms(message))
        source, column = self._sources[topic, partition], f"{topic}_{partition}"
        arrived_ms = self._reader.arrival_ms(_time_ms(message))
        self._check_place(decoded.user_id, message)
        answered = message.offset < self._answered.get((topic, partition), 0)
        sender = find_sender(message.headers)
        return ConsumerRecord(decoded, column, source, message.offset, arrived_ms, answered, sender)

    def _check_place(self, user_id: str, message: Message) -> None:
        """Count what is not where its person's events are: no recommendation earns by it."""
        if message.partition != partition_of(user_id, self._partitions):
            metrics.MISPLACED_EVENTS.labels(message.topic, "partition").inc()
        elif message.key != user_id.encode():
            metrics.MISPLACED_EVENTS.labels(message.topic, "key").inc()

    def check_person(self, person: str, field: str) -> None:
        """As `EventReader.check_person`."""
        self._reader.check_person(person, field)

    def identity(self, reader: IdentityReader, event: EventT[bytes]) -> IdentityRecord:
        """A message of `identities`.

        Raises:
            EventError: it breaks the contract.
        """
        message, place = event.message, (event.message.topic, event.message.partition)
        told, sent_on = reader.read(message.key, message.value)
        arrived_ms = self._reader.arrival_ms(_time_ms(message))
        answered = message.offset < self._answered.get(place, 0)
        source, offset = self._sources[place], message.offset
        return IdentityRecord(told, source, offset, arrived_ms, sent_on, answered)

    async def item_updates(self, events: Sequence[EventT[bytes]]) -> dict[str, ItemUpdate]:
        """The newest message of each item of a batch, by item_id."""
        return await self._newest_updates(events, parse_item, ItemUpdate)

    async def attribute_updates(
        self, events: Sequence[EventT[bytes]]
    ) -> dict[str, AttributesUpdate]:
        """The newest message about each person of a batch, by user_id."""
        return await self._newest_updates(events, parse_attributes, AttributesUpdate)

    async def _newest_updates(
        self,
        events: Sequence[EventT[bytes]],
        parse: Callable[[bytes | None, bytes | None], tuple[str, ToldT]],
        make: Callable[[ToldT, Hash, int, int], UpdateT],
    ) -> dict[str, UpdateT]:
        newest: dict[str, UpdateT] = {}
        for event in events:
            message = event.message
            try:
                name, told = parse(message.key, message.value)
            except EventError as error:
                await self._producer.send_to_dead_letter(event, error)
            else:
                source = self._sources[message.topic, message.partition]
                time_ms = self._reader.arrival_ms(_time_ms(message))
                newest[name] = make(told, source, message.offset, time_ms)
        metrics.count_events(event.message.topic for event in events)
        return newest


def _time_ms(message: Message) -> int | None:
    """The time that Kafka gives a message; Faust has it in seconds, and None for none."""
    return None if message.timestamp is None else int(message.timestamp * 1000)


class Followed(NamedTuple):
    """What a loop follows.

    Attributes:
        versions: which of them answers whom.
        placement: whose rules lists follow; None: no placement's.
        sources: the source hash of each topic and partition.
    """

    versions: RolloutFollower
    placement: WorkerPlacement | None
    sources: Mapping[tuple[str, int], Hash]


class FastLoop:
    """Handles batches of interactions."""

    def __init__(
        self,
        decoder: RecordDecoder,
        updater: RowUpdater,
        recommender: Recommender,
        followed: Followed,
        pipeline: Pipeline,
    ) -> None:
        self._decoder = decoder
        self._updater = updater
        self._recommender = recommender
        self._followed = followed
        self._pipeline = pipeline
        self._starting = asyncio.Lock()
        self._ready = False

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Apply a batch to the rows, and let it be answered while the next one is applied.

        Raises:
            StoreRestartedError: what was read since the last commit has to be read again.
            Exception: any other failure; one of an answer ends the process.
        """
        await self.start()
        metrics.BATCH_EVENTS.observe(len(events))
        records = await self._decoder.interactions(events)
        with trace_batch([record.sender for record in records]):
            await self._handle(events, records)

    async def _handle(
        self, events: Sequence[EventT[bytes]], records: Sequence[ConsumerRecord]
    ) -> None:
        with stage("absorb"):
            async for attempt in retry_while_unavailable():
                with attempt:
                    changes = await self._updater.apply(records)
        places = (event.message for event in events)
        metrics.note_absorbed(
            ((place.topic, place.partition, place.offset) for place in places),
            (record.arrived_ms for record in records),
        )
        await self._pipeline.send_on(send_on(records, changes.users))
        self._recommender.record(changes.groups)
        requests = _requests(records, changes, self._recommender.answers_since_ms())
        calls = self._recommender.prepare(await self._place(requests))
        await self._pipeline.start(calls, events)

    async def _place(
        self, requests: Sequence[RecommendationRequest]
    ) -> Sequence[RecommendationRequest]:
        """The requests with the rules of the worker's placement, if it has one."""
        if (placement := self._followed.placement) is not None:
            async for attempt in retry_while_unavailable():
                with attempt:
                    requests = await placement.place(requests)
        return requests

    async def skip(self, events: Sequence[EventT[bytes]]) -> None:
        """Take a batch for handled, once all before it is."""
        await self._pipeline.start([], events)

    async def drain(self) -> None:
        """Wait until all batches are answered."""
        await self._pipeline.drain()

    async def start(self) -> None:
        """Before the first answer: which version to call, and what trends.

        Where nothing happens yet, and a worker without a partition, know it too.
        """
        if self._ready:
            return
        async with self._starting:
            if not self._ready:
                async for attempt in retry_while_unavailable():
                    with attempt:
                        await self._followed.versions.start()
                        await self._recommender.start()
                        if (placement := self._followed.placement) is not None:
                            await placement.start(self._followed.sources)
            self._ready = True


def _requests(
    records: Sequence[ConsumerRecord], changes: RowChanges, since_ms: float
) -> list[RecommendationRequest]:
    """One request per user, for the last of the batch's events that was not answered before.

    A user asks at the newest event of the row, which an event that arrives late is not.

    Args:
        since_ms: nobody waits any more for the answer to an event that arrived before.
    """
    new = [record for record in records if not record.answered]
    last = {record.event.user_id: record for record in new if record.arrived_ms >= since_ms}
    if late := sum(record.arrived_ms < since_ms for record in new):
        metrics.UNANSWERED.labels("late").inc(late)
    if again := len(records) - len(new):
        metrics.UNANSWERED.labels("answered").inc(again)
    requests = []
    for user_id, record in last.items():
        row = changes.users[user_id]
        time_ms = max(record.event.timestamp, row.reference_ms)
        topic, _, partition = record.column.rpartition("_")
        place = EventPlace(topic, int(partition), record.offset, row.sequence)
        requests.append(
            RecommendationRequest(
                user_id,
                time_ms,
                row,
                record.event,
                place,
                arrived_ms=record.arrived_ms,
                sender=record.sender,
            )
        )
    return requests


class NewestWriter(Generic[UpdateT]):
    """Handles batches of messages of which the newest of each key becomes a row.

    Args:
        read: the newest updates of a batch, by key.
        write: writes them, where the store has nothing newer.
    """

    def __init__(
        self,
        read: Callable[[Sequence[EventT[bytes]]], Awaitable[Mapping[str, UpdateT]]],
        write: Callable[[Mapping[str, UpdateT]], Awaitable[None]],
        commits: Commits,
    ) -> None:
        self._read = read
        self._write = write
        self._commits = commits

    async def handle(self, events: Sequence[EventT[bytes]]) -> None:
        """Write the rows of a batch of messages."""
        updates = await self._read(events)
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._write(updates)
        self._commits.mark_done(events)

    async def start(self) -> None:
        """Nothing has to be known before the first message."""

    async def skip(self, events: Sequence[EventT[bytes]]) -> None:
        """Take a batch for handled."""
        self._commits.mark_done(events)

    async def drain(self) -> None:
        """A batch is done when it is handled."""


Handle = Callable[[Sequence[EventT[bytes]]], Awaitable[None]]
"""Handles one batch of messages; a failure ends the process."""


def make_app(config: WorkerConfig, identity: LogIdentity) -> "tuple[faust.App, WorkerServices]":
    """The worker's Faust app, and what it runs.

    Args:
        identity: of the log that its rows were claimed for.
    """
    app = make_faust_app(config, identity.fingerprint)
    services = make_services(config, app, identity)
    excuses.append(services.net.take_back)
    set_starts(app, partial(find_starts, app, services.positions))

    handle = partial(services.net.run, services.loop)
    gate = EventGate(services.positions, handle, config.worker.batch_size, AppFlow(app))
    add_agents(
        app,
        config.worker.batch_size,
        {
            "actions": (EVENT_TYPES.topics, gate.handle),
            "catalogue": ((ITEMS,), partial(services.net.run, services.catalogue)),
            "people": ((PEOPLE,), partial(services.net.run, services.people)),
            "identities": ((IDENTITIES,), partial(services.net.run, services.identities)),
        },
    )
    for run in services.tasks:
        app.task(critical_task(run))
    return app, services


async def find_starts(
    app: faust.App, positions: PositionKeeper, committed: Mapping[TP, int | None]
) -> Mapping[TP, int]:
    """Where to go on reading an assignment; what must not be read ends the process."""
    try:
        async for attempt in retry_while_unavailable():
            with attempt:
                found = await positions.find_starts(
                    {(t, p): at for (t, p), at in committed.items()}
                )
        starts = {TP(*source): start for source, start in found.items()}
        # So that the group's lag is what has to be read.
        if resumed := {place: starts[place] for place in starts if place in positions.resumed}:
            await commit_offsets(app, resumed)
            positions.resumed.clear()
    except Exception as error:  # noqa: BLE001  (handed on: it ends the process)
        await end_process(error)
    return starts


@dataclass(frozen=True)
class WorkerServices:
    """What a worker runs: a handler for each agent, and tasks beside them.

    Attributes:
        routes: which version answers whom, as the tasks keep it up to date.
    """

    net: PoisonNet
    loop: FastLoop
    catalogue: NewestWriter[ItemUpdate]
    people: NewestWriter[AttributesUpdate]
    identities: IdentityStage
    positions: PositionKeeper
    tasks: Sequence[Callable[[], Awaitable[None]]]
    routes: Routes


def make_services(config: WorkerConfig, app: faust.App, identity: LogIdentity) -> WorkerServices:
    """The parts of a worker.

    Args:
        app: whose consumer commits offsets.
        identity: of the log that is read.
    """
    store = RedisRowStore(config.store)
    producer = RecommendationProducer(config.kafka)
    positions = PositionKeeper(store, config.kafka, config.worker.group, identity)
    commits = Commits(app, store, producer, positions, config.worker.commit_interval_s)
    decoder = RecordDecoder(identity.sources, producer, config.events, positions.answered)
    schema = FeatureSchema(config.features)
    follower = make_follower(config)
    recommender = make_recommender(config, store, follower.routes)
    updater = RowUpdater(
        store,
        schema,
        recommender.items.catalogue,
        popularity_table(config.kafka.partitions),
        config.worker.row_cache,
    )
    pipeline = Pipeline(recommender, producer, commits)
    placement = make_placement(config, store, follower.routes, recommender.items.trending)
    followed = Followed(follower, placement, identity.sources)
    loop = FastLoop(decoder, updater, recommender, followed, pipeline)
    return WorkerServices(
        PoisonNet(store, identity.sources, producer.send_to_dead_letter),
        loop,
        NewestWriter(decoder.item_updates, partial(write_items, store), commits),
        NewestWriter(decoder.attribute_updates, partial(write_attributes, store), commits),
        IdentityStage(
            partial(decoder.identity, IdentityReader(schema, decoder.check_person)),
            IdentityUpdater(store, schema, recommender.items.catalogue),
            producer,
            commits,
            positions,
        ),
        positions,
        (
            loop.start,
            follower.run,
            recommender.run,
            commits.run,
            positions.watch,
            partial(keep_routed, config, follower.routes),
            *(placement.tasks if placement else ()),
        ),
        follower.routes,
    )


def add_agents(
    app: faust.App, batch_size: int, agents: Mapping[str, tuple[Sequence[str], Handle]]
) -> None:
    """Register agents, by name: the topics that each reads, and what handles its batches."""
    for name, (topics, handle) in agents.items():
        app.agent(_topic(app, *topics), name=name)(_make_agent(app, batch_size, handle))


def _make_agent(
    app: faust.App, batch_size: int, handle: Handle
) -> Callable[[StreamT[bytes]], Awaitable[None]]:
    async def on_messages(stream: StreamT[bytes]) -> None:
        await _handle_batches(app, stream, batch_size, handle)

    return on_messages


def _topic(app: faust.App, *names: str) -> Any:
    # acks=False: `Commits` commits, and Faust must not.
    return app.topic(
        *names,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        acks=False,
    )


async def _handle_batches(
    app: faust.App, stream: StreamT[bytes], batch_size: int, handle: Handle
) -> None:
    try:
        async for batch in batches(app, cast("faust.Stream[bytes]", stream), batch_size):
            await handle(batch)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001
        # Faust would restart the agent, past the batch that failed.
        await end_process(error)


def make_faust_app(config: WorkerConfig, fingerprint: str) -> faust.App:
    """A Faust app without agents, as a worker configures it.

    Args:
        fingerprint: of the log that it reads.
    """
    worker = config.worker
    brokers = config.kafka.client_settings.brokers
    app = WorkerApp(
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
    )
    set_transport(app, fingerprint)
    return app


def _credentials(settings: BrokerSettings) -> CredentialsT | None:
    protocol = settings.security_protocol
    if protocol is SecurityProtocol.PLAINTEXT:
        return None
    encrypted = protocol in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)
    context = _tls_context(settings) if encrypted else None
    if protocol is SecurityProtocol.SSL:
        return faust.SSLCredentials(context)
    if settings.sasl_mechanism is SaslMechanism.OAUTHBEARER:
        return faust.OAuthCredentials(oauth_cb=make_token_provider(settings), ssl_context=context)
    password = settings.sasl_password
    return faust.SASLCredentials(
        username=settings.sasl_username,
        password=password.get_secret_value() if password else None,
        ssl_context=context,
        mechanism=settings.sasl_mechanism.value,
    )


def _tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
        if settings.ssl_certificate_file:
            context.load_cert_chain(settings.ssl_certificate_file, settings.ssl_key_file)
    except OSError as error:
        raise SettingsError(
            f"kafka.ssl_ca_file, kafka.ssl_certificate_file or kafka.ssl_key_file: {error}: name "
            "PEM files, of a key without a password"
        ) from error
    return context
