"""Runs the HTTP API in this process: puts its parts together, and keeps them up to date."""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from headwater_client.errors import SettingsError
from starlette.types import ASGIApp

from deploy.services.health import ServiceHealth, ask_servers, routing_problem, store_problem
from deploy.services.supervisor import END_S, end_by_force, relax_collector
from deploy.services.telemetry import begin_tracing
from deploy.services.trial_desk import ControllerDesk
from deploy.settings import Settings
from features.events import EventReader
from features.kafka import LogIdentity, ensure_log, read_retention
from features.kafka.access import Role, check_rights
from features.positions import watch_identity
from features.schema import FeatureSchema
from features.store import check_rows
from features.store.redis import RedisRowStore
from stream.api.answers import Answerer, Batching
from stream.api.compat.gorse import GorseDialect
from stream.api.compat.metarank import MetarankDialect
from stream.api.http import HttpApi
from stream.api.intake import EventIntake, EventPublisher
from stream.api.keys import KeyRing
from stream.api.oidc import AccessTokens
from stream.api.parts import ApiParts
from stream.api.readiness import Readiness
from stream.api.rpc import RpcApi, RpcListener
from stream.api.service import ApiService
from stream.conversions import ConversionFollower
from stream.failures import retry_while_unavailable
from stream.item_follower import ItemFollower
from stream.metrics import count_wrong_time
from stream.people import read_attributes, read_people
from stream.placement_follower import PlacementFollower
from stream.recommender import make_recommender
from stream.rollout_follower import RolloutFollower, keep_routed, make_follower
from stream.row_updates import RowReader
from stream.segment_rates import EventHorizon, SegmentRates
from stream.shown import ShownItems, ShownSettings
from stream.together import TogetherTables

TURN_S = 1.0
DRAIN_S = 10
DIALECTS = (GorseDialect, MetarankDialect)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Work = Callable[[], Coroutine[Any, Any, None]]
log = structlog.get_logger()


def run_api(settings: Settings, *, is_local: bool) -> None:
    """Answer until told to stop; what is under way then is answered.

    Args:
        settings: with all addresses.
        is_local: whether all servers are this machine's own: then it needs no keys on loopback.

    Raises:
        SettingsError: keys are missing, the port is taken, or rows of other settings are there.
        ServerError: Kafka or the store does not answer at the start; or a topic was made anew, or
            has more partitions.
    """
    begin_tracing("api")
    api = settings.api
    keys, works = open_keys(settings, find_keys_file(settings, "api", is_local=is_local))
    identity = check_servers(settings, Role.API)
    with closing(listen("api", api.address, api.port)) as listener:
        asyncio.run(_run(settings, keys, works, identity, listener))


async def _run(
    settings: Settings,
    keys: KeyRing,
    works: Sequence[Work],
    identity: LogIdentity,
    listener: socket.socket,
) -> None:
    api, core = settings.api, make_core(settings, identity)
    service = ApiService(core.parts)
    dialects = [kind(service, core.parts, api.event_aliases) for kind in DIALECTS]
    transport = HttpApi(service, keys, core.readiness, api.max_body_bytes)
    if api.grpc_port is not None:
        taking = RpcListener(api.address, api.grpc_port, api.max_body_bytes, DRAIN_S / 2)
        works = [*works, RpcApi(service, keys, core.readiness, taking).serve]
    log.info("api_listens", address=api.address, port=api.port, grpc_port=api.grpc_port)
    await core.serve(transport.make_app(dialects), listener, works)


def open_keys(settings: Settings, path: Path | None) -> tuple[KeyRing, list[Work]]:
    """Who may do what, and what keeps it up to date.

    Args:
        path: of the file of keys.

    Raises:
        SettingsError: the file cannot be read or has no key; or an OpenID provider guards what is
            open.
    """
    oidc = settings.oidc
    if path is None and oidc.issuer:
        raise SettingsError(
            "oidc.issuer: is set, and api.keys_file is not: without keys whoever is on this "
            "machine may do all: make one: headwater keys add NAME --scope view"
        )
    if not (oidc.issuer and oidc.audience):
        return KeyRing(path), []
    tokens = AccessTokens(oidc.issuer, oidc.audience)
    return KeyRing(path, find_other=tokens.find_key), [tokens.follow]


def find_keys_file(settings: Settings, section: str, *, is_local: bool) -> Path | None:
    """The file of keys; None where none are asked for.

    Args:
        section: of the settings that say where is listened.

    Raises:
        SettingsError: keys are missing where they have to be.
    """
    address = getattr(settings, section).address
    if settings.api.keys_file is not None or (is_local and address in LOOPBACK):
        return settings.api.keys_file
    why = (
        f"{section}.address is {address}" if is_local else "the servers are not this machine's own"
    )
    raise SettingsError(
        f"api.keys_file: is not set, and {why}: without keys only a service of this machine "
        "answers: make a key: headwater keys add NAME --scope ask --file keys.toml"
    )


def listen(section: str, address: str, port: int) -> socket.socket:
    """A socket that listens there.

    Args:
        section: of the settings that say so.

    Raises:
        SettingsError: it cannot be.
    """
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"{section}.port: {address} port {port}: {error.strerror or error}: choose another"
        ) from error


def check_servers(settings: Settings, role: Role) -> LogIdentity:
    """What makes the log the one that is read, once the topics and the rows are as they must be.

    Args:
        role: whose rights in Kafka this process needs.

    Raises:
        SettingsError, ServerError: they are not.
    """
    identity = ensure_log(settings.kafka)
    check_rights(settings.kafka, role)
    asyncio.run(_check_store(settings))
    return identity


async def _check_store(settings: Settings) -> None:
    """Rows of other settings stop the service before it reads one."""
    store = RedisRowStore(settings.store)
    try:
        await check_rows(store, FeatureSchema(settings.features))
    finally:
        await store.close()


class ApiServer(uvicorn.Server):
    """Uvicorn's server, which is told to stop by whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would end the process by the signal that it was sent."""
        yield


@dataclass(frozen=True)
class ApiCore:
    """What answers, and what keeps it up to date, whatever it is asked by.

    Attributes:
        readiness: what is not there yet.
        parts: what the operations use.
        follower: keeps the routes up to date.
        items: keeps what filters are evaluated over up to date.
        placements: keeps placements up to date.
        conversions: keeps up to date how often items are bought.
    """

    settings: Settings
    identity: LogIdentity
    readiness: Readiness
    parts: ApiParts
    health: ServiceHealth
    follower: RolloutFollower
    items: ItemFollower
    placements: PlacementFollower
    conversions: ConversionFollower
    store: RedisRowStore

    async def serve(
        self,
        app: ASGIApp,
        listener: socket.socket,
        works: Sequence[Work] = (),
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Answer until told to stop.

        Args:
            works: what else is done meanwhile.
            on_stop: called when it is told to: what would not end by itself is ended.
        """
        relax_collector()
        server = ApiServer(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )

        def stop() -> None:
            end_by_force(END_S)
            server.should_exit = True
            on_stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            await _run_until_first(
                server.serve([listener]),
                *(work() for work in works),
                self._start(),
                self.follower.run(),
                self.items.run(),
                self.placements.run(),
                self.conversions.run(),
                self.parts.segment_rates.run(),
                self._beat(),
                watch_identity(self.settings.kafka, self.identity),
                keep_routed(self.settings.worker_config, self.follower.routes),
            )
        finally:
            await self._close()

    async def _start(self) -> None:
        """Read what the first answer needs, then keep what trends up to date, for ever."""
        recommender, starting = self.parts.recommender, self.readiness.starting
        async for attempt in retry_while_unavailable():
            with attempt:
                await self.follower.start()
                await recommender.start()
                await self.items.start(self.parts.sources)
                await self.placements.start()
        starting.clear()
        log.info("api_started", versions=self.follower.routes.loaded)
        await recommender.run()

    async def _beat(self) -> None:
        """Say that the event loop turns, for ever."""
        while True:
            self.health.turn()
            await asyncio.sleep(TURN_S)

    async def _close(self) -> None:
        """Deliver what is under way, and close the connections."""
        await asyncio.to_thread(self.parts.publisher.close)
        await self.parts.recommender.close()
        await self.items.close()
        await self.placements.close()
        await self.store.close()


def make_core(settings: Settings, identity: LogIdentity) -> ApiCore:
    """Put the parts together, in the event loop that they are to run in."""
    config = settings.worker_config
    api, schema = settings.api, FeatureSchema(settings.features)
    store, follower = RedisRowStore(settings.store, any_server=True), make_follower(config)
    recommender = make_recommender(config, store, follower.routes)
    rows = RowReader(store, schema, recommender.items.catalogue)
    items = ItemFollower(
        settings.kafka,
        store,
        follower.routes,
        recommender.items.trending,
        settings.worker.catalogue_refresh_s,
    )
    placements = PlacementFollower(settings.kafka)
    refresh_s = settings.worker.catalogue_refresh_s
    conversions = ConversionFollower(settings.kafka, store, schema, items.items, refresh_s)
    publisher = EventPublisher(settings.kafka, api.deliver_within_s)
    deadline_s = api.deadline_ms / 1000
    batching = Batching(api.batch_size, api.batch_wait_ms / 1000)
    parts = ApiParts(
        answerer=Answerer(rows, recommender, batching, deadline_s),
        recommender=recommender,
        items=items.items,
        placements=placements.table,
        placement_log=placements,
        segment_rates=SegmentRates(
            settings.kafka,
            EventReader(settings.events),
            schema,
            partial(read_people, store),
            EventHorizon(
                api.segment_events, api.segment_horizon_s, settings.worker.trends_refresh_s
            ),
        ),
        shown=ShownItems(store, ShownSettings(api.shown_items, api.shown_for_s, deadline_s / 4)),
        together=TogetherTables(follower.routes, deadline_s),
        trials=follower.trials,
        trial_desk=ControllerDesk(settings),
        rows=rows,
        routes=follower.routes,
        schema=schema,
        intake=EventIntake(settings.events, count_wrong_time),
        publisher=publisher,
        read_attributes=partial(read_attributes, store),
        read_retention=partial(read_retention, settings.kafka),
        sources=identity.sources,
        top_k=settings.worker.top_k,
        deadline_s=deadline_s,
    )
    health = ServiceHealth(
        {
            "store": lambda: store_problem(settings.store),
            "model": lambda: routing_problem(follower.routes),
            **ask_servers(settings, "kafka", "triton"),
        }
    )
    return ApiCore(
        settings=settings,
        identity=identity,
        readiness=Readiness(health),
        parts=parts,
        health=health,
        follower=follower,
        items=items,
        placements=placements,
        conversions=conversions,
        store=store,
    )


async def _run_until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one of them ends: the server, when it is told to; any other by its failure."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
