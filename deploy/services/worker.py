"""Runs a worker in this process, under a name that no other worker of its group has."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import faust
import msgspec
import structlog
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import ServerError, SettingsError
from msgspec.structs import replace

from deploy.local import process
from deploy.services.health import (
    MissingPart,
    ServiceHealth,
    ask_servers,
    routing_problem,
    serve_health,
    store_problem,
)
from deploy.services.supervisor import END_S, end_by_force, relax_collector
from deploy.services.telemetry import begin_tracing
from deploy.settings import Settings
from features.kafka import LogIdentity, ensure_log
from features.kafka.access import Role, check_rights
from features.placement_topic import read_placements
from features.positions import PositionKeeper, claim_positions
from features.schema import FeatureSchema
from features.store import StoreRestartedError, claim_rows
from features.store.redis import RedisRowStore
from stream.app import make_app
from stream.failures import critical_task, exit_process
from stream.faust_internals import SignalledWorker, watch_consumer
from stream.placed_lists import check_known
from stream.settings import WorkerConfig

TURN_S = 1.0
log = structlog.get_logger()


def run_worker(settings: Settings) -> None:
    """Consume, answer, and end with the process when it is told to stop.

    Args:
        settings: with all addresses.

    Raises:
        SettingsError: rows of other settings are there, a worker of this name runs, or there is no
            such placement.
        ServerError: Kafka or the store does not answer at the start.
    """
    begin_tracing("worker")
    config = settings.worker_config
    identity = ensure_log(settings.kafka)
    check_rights(settings.kafka, Role.WORKER)
    if (placement := config.worker.placement) is not None:
        check_known(placement, read_placements(settings.kafka).known)
    asyncio.run(_claim(settings, identity))
    with WorkerName(settings).hold():
        _run(config, identity, ask_servers(settings, "kafka"))


def _run(config: WorkerConfig, identity: LogIdentity, servers: Mapping[str, MissingPart]) -> None:
    app, parts = make_app(config, identity)
    worker = config.worker
    health = ServiceHealth(
        {
            "partitions": _assignment_problem(app, worker.group),
            "store": lambda: store_problem(config.store),
            "model": lambda: routing_problem(parts.routes),
            **servers,
        }
    )
    relax_collector()
    with serve_health("worker", worker.metrics_port, worker.metrics_address, health):
        health.turn()
        services = [_Heartbeat(health), _ConsumerWatch(app)]
        faust_worker = SignalledWorker(app, services, lambda: end_by_force(END_S))
        try:
            faust_worker.run()
        except Exception as error:  # noqa: BLE001  (handed on: it ends the process)
            exit_process(error)


class _Heartbeat(faust.Service):
    """Says that the event loop turns."""

    def __init__(self, health: ServiceHealth) -> None:
        super().__init__()
        self._health = health

    @faust.Service.task
    async def _beat(self) -> None:
        while not self.should_stop:
            self._health.turn()
            await self.sleep(TURN_S)


class _ConsumerWatch(faust.Service):
    """Ends the process where its group does not take it; an app's own tasks wait for a group."""

    def __init__(self, app: faust.App) -> None:
        super().__init__()
        self._app = app

    @faust.Service.task
    async def _watch(self) -> None:
        await critical_task(partial(watch_consumer, self._app))()


def _assignment_problem(app: faust.App, group: str) -> MissingPart:
    """What is missing until Kafka has given this worker its part, be it no partition at all."""
    state = {"missing": f"has not joined group {group} yet"}

    @app.on_partitions_assigned.connect(weak=False)
    async def on_assigned(*_: object, **__: object) -> None:
        state["missing"] = ""

    @app.on_partitions_revoked.connect(weak=False)
    async def on_revoked(*_: object, **__: object) -> None:
        state["missing"] = f"group {group} gives partitions to other workers"

    return lambda: state["missing"]


@asynccontextmanager
async def _connect(settings: Settings) -> AsyncIterator[RedisRowStore]:
    store = RedisRowStore(settings.store)
    try:
        yield store
    finally:
        await store.close()


async def _claim(settings: Settings, identity: LogIdentity) -> None:
    """Rows of other settings, or of another log, stop the worker before it reads one."""
    group = settings.worker.group
    async with _connect(settings) as store:
        await claim_positions(store, settings.kafka, group, identity)
        await claim_rows(store, FeatureSchema(settings.features))
        await PositionKeeper(store, settings.kafka, group, identity).find_all_starts()


class NameHolder(msgspec.Struct, frozen=True):
    """Who has a worker's name: a mark in the store, which its process renews.

    Attributes:
        machine: a boot of a system and a name space of process ids, in which `running` counts.
        turn: how often it was renewed.
    """

    machine: str
    host: str
    running: process.ProcessId
    turn: int = 0


def _this_process() -> NameHolder:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return NameHolder(machine, socket.gethostname(), process.identify(os.getpid()))


class WorkerName:
    """A worker's name in its group, which one running worker has.

    Kafka takes two members of one name for one that was restarted, and each pushes the other out:
    all would be handled twice. So a worker marks its name in the store, and renews the mark. One
    that starts looks at the mark before: on the same machine, whether that process runs; elsewhere,
    whether the mark changes within `watch_s`.
    """

    def __init__(self, settings: Settings, renew_s: float = 1.0, watch_s: float = 4.0) -> None:
        self._settings = settings
        self._key = f"headwater:worker:{settings.worker.group}:{settings.worker.name}"
        self._mine = _this_process()
        self._renew_s = renew_s
        self._watch_s = watch_s

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Have the name for the block.

        Raises:
            SettingsError: another worker that runs has it.
            ServerError: the store does not answer.
        """
        asyncio.run(self._take())
        ended = threading.Event()
        keeping = threading.Thread(
            target=lambda: asyncio.run(self._keep(ended)), name="worker name", daemon=True
        )
        keeping.start()
        try:
            yield
        finally:
            ended.set()
            keeping.join(self._watch_s)

    async def _take(self) -> None:
        async with _connect(self._settings) as store:
            mine = self._mark()
            found = await store.claim(self._key, mine)
            if found == mine:
                return
            taken = await self._is_alive(store, found)
            # Of two that start at the same moment, the first goes on: it finds its mark again.
            if taken or await store.claim(self._key, mine, replace=True) != found:
                raise self._refusal(found)

    async def _keep(self, ended: threading.Event) -> None:
        async with _connect(self._settings) as store:
            while not ended.wait(self._renew_s):
                try:
                    await self._renew(store)
                except StoreRestartedError:
                    # The name is written there anew; rows are the worker's own concern.
                    await store.close()
                except ServerError as error:
                    log.debug("worker_name_not_renewed", error=str(error))
                except Exception as error:  # noqa: BLE001  (a name that nobody keeps is nobody's)
                    exit_process(error)
            try:
                await store.claim(self._key, "", replace=True)
            except ServerError as error:
                log.debug("worker_name_not_released", error=str(error))

    async def _renew(self, store: RedisRowStore) -> None:
        found = await store.claim(self._key, self._mark())
        # Another's, where this process has slept and another one was started meanwhile.
        if not self._is_mine(found) and await self._is_alive(store, found):
            raise self._refusal(found)
        self._mine = replace(self._mine, turn=self._mine.turn + 1)
        await store.claim(self._key, self._mark(), replace=True)

    def _is_mine(self, found: str) -> bool:
        holder = _read_mark(found)
        return holder is not None and replace(holder, turn=self._mine.turn) == self._mine

    async def _is_alive(self, store: RedisRowStore, found: str) -> bool:
        holder = _read_mark(found)
        if holder is None:
            return False
        if holder.machine == self._mine.machine:
            return process.find(holder.running) is not None
        loop = asyncio.get_running_loop()
        until = loop.time() + self._watch_s
        while loop.time() < until:
            await asyncio.sleep(self._renew_s / 4)
            if await store.claim(self._key, found) != found:
                return True
        return False

    def _mark(self) -> str:
        return msgspec.json.encode(self._mine).decode()

    def _refusal(self, found: str) -> SettingsError:
        holder = _read_mark(found)
        where = f" on {holder.host}, process {holder.running.pid}" if holder else ""
        worker = self._settings.worker
        return SettingsError(
            f"worker.name: {worker.name}: a worker of group {worker.group} has this name and runs"
            f"{where}: give each its own name, or stop that one"
        )


def _read_mark(text: str) -> NameHolder | None:
    """Who has the name; None for a name that was given back."""
    try:
        return read_json(text, NameHolder)
    except DocumentError:
        return None
