"""Start, find and stop the servers of one state folder: exactly those that it started."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from headwater_client.errors import ServerError, SettingsError

from deploy.local import process
from deploy.local.kafka import Kafka
from deploy.local.process import Launch, NotReadyError, Progress, Record, Server, StateFolder
from deploy.local.store import Store
from deploy.local.triton import Triton
from deploy.settings import Settings
from deploy.settings_text import variable

if TYPE_CHECKING:
    from features.rollout_messages import RoutedVersion

SERVERS: tuple[Server, ...] = (Kafka(), Store(), Triton())
NAMES = tuple(server.name for server in SERVERS)
POLL_S = 0.05
ATTEMPTS = 3


class ServerStatus(msgspec.Struct, frozen=True):
    """One line of `headwater status`. An external server has no pid here.

    Attributes:
        serving: of Triton, which versions it serves of those that take traffic.
    """

    name: str
    pid: int | None
    address: str | None
    healthy: bool
    external: bool
    detail: str
    serving: str = ""


class _TryAgainError(Exception):
    """A start failed for a reason that is gone by now."""


def quiet(_name: str, _text: str) -> None:
    """Progress that nobody watches."""


def up(settings: Settings, only: Collection[str] = NAMES, progress: Progress = quiet) -> Settings:
    """Start what the settings name no address for; return them with all addresses.

    A server that runs, is well and was started in today's way is kept, a dead one starts
    again over its data. ServerError says what could not be had, in one line.
    """
    state = StateFolder(settings.local.state_dir)
    chosen = [server for server in _find_servers(only) if server.address(settings) is None]
    if not chosen:
        return settings
    with state.lock(lambda: progress("", "waiting for another command on this folder")):
        with ThreadPoolExecutor(len(chosen)) as pool:
            starts = [pool.submit(_ensure, one, settings, state, progress) for one in chosen]
        addresses = [start.result() for start in starts]
    for server, address in zip(chosen, addresses, strict=True):
        settings = server.with_address(settings, address)
    if Triton.name in {server.name for server in chosen}:
        _load_routed(settings, progress)
    return settings


def connect(settings: Settings, only: Collection[str] = NAMES) -> Settings:
    """The settings with the addresses of what runs; ServerError if something does not."""
    records = StateFolder(settings.local.state_dir).records()
    for server in _find_servers(only):
        record, named = records.get(server.name), server.address(settings)
        if named is None and (record is None or process.find(record.process) is None):
            remedy = f"run `headwater up`, or set {variable(server.setting)}"
            raise ServerError(f"{server.name} is not running: {remedy}")
        # Ours is known by its address, too: what it is asked with is in the folder.
        if record and named in (None, record.address):
            settings = server.with_address(settings, record.address)
    return settings


def down(
    settings: Settings, only: Collection[str] = NAMES, progress: Progress = quiet
) -> list[str]:
    """Stop what `up` started in this state folder; return the names of what was running."""
    state = StateFolder(settings.local.state_dir)
    if not state.root.is_dir():
        return []
    with state.lock(lambda: progress("", "waiting for another command on this folder")):
        records = {name: state.records().get(name) for name in _names(only)}
        running = [name for name, one in records.items() if one and process.find(one.process)]
        with ThreadPoolExecutor(len(NAMES)) as pool:
            stops = [
                pool.submit(_stop, name, record, settings, state, progress)
                for name, record in records.items()
                if record is not None
            ]
        for stop in stops:
            stop.result()
    return running


def status(settings: Settings) -> list[ServerStatus]:
    """How each server is, wherever it runs."""
    records = StateFolder(settings.local.state_dir).records()
    with ThreadPoolExecutor(len(SERVERS)) as pool:
        found = list(pool.map(lambda one: _status(one, settings, records.get(one.name)), SERVERS))
    well = {one.name for one in found if one.healthy}
    if not {Kafka.name, Triton.name} <= well:
        return found
    reached = connect(settings, only=[Kafka.name, Triton.name])
    return [_with_routing(one, reached) if one.name == Triton.name else one for one in found]


def find_ailment(settings: Settings, name: str) -> str:
    """Why a server does not answer at its address; "" if it does."""
    [server] = _find_servers([name])
    return _ailment(server, settings)


def addresses(settings: Settings) -> dict[str, str | None]:
    """Where the settings say that each server is, by name."""
    return {server.name: server.address(settings) for server in SERVERS}


def log_path(settings: Settings, name: str) -> Path:
    """The log of the server of this name."""
    [known] = _names([name])
    return StateFolder(settings.local.state_dir).log(known)


def _load_routed(settings: Settings, progress: Progress) -> None:
    """Load what takes traffic into a Triton that may have been started again: it has forgotten it.

    It is the workers' and the controller's to keep it so; a failure is theirs to tell.
    """
    from features.model_server import load_beside, missing_versions
    from stream.inference import model_servers

    try:
        routed = _routed_versions(connect(settings, only=[Kafka.name]))
        for server in model_servers(settings.triton):
            for version in missing_versions(server, routed):
                progress(Triton.name, f"loading version {version.version}, which takes traffic")
                load_beside(server, version, settings.worker.model_addresses)
    except (ServerError, OSError) as error:
        progress(Triton.name, f"what takes traffic is not loaded: {error}")


def _with_routing(found: ServerStatus, settings: Settings) -> ServerStatus:
    """A Triton that answers, and whether it serves what takes traffic."""
    from features.model_server import missing_versions
    from stream.inference import model_servers

    try:
        routed = _routed_versions(settings)
        missing = [
            one.version
            for server in model_servers(settings.triton)
            for one in missing_versions(server, routed)
        ]
    except ServerError as error:
        return msgspec.structs.replace(found, serving=f"routing is not known: {error}")
    numbers = sorted({one.version for one in routed})
    told = f"(routed: {_join_numbers(numbers) or 'none'})"
    if missing:
        detail = f"does not serve version {_join_numbers(sorted(set(missing)))} {told}"
        return msgspec.structs.replace(found, healthy=False, detail=detail)
    served = f"serves version {_join_numbers(numbers)} {told}" if numbers else "no version is live"
    return msgspec.structs.replace(found, serving=served)


def _join_numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _routed_versions(settings: Settings) -> list["RoutedVersion"]:
    """The versions that take traffic; none where Kafka has no such topic yet."""
    from headwater_client.topics import ROLLOUTS

    from features.inputs import MODEL_NAME
    from features.kafka import topic_ids
    from features.rollouts import RolloutView

    if not topic_ids(settings.kafka, [ROLLOUTS]):
        return []
    with closing(RolloutView(settings.kafka, MODEL_NAME)) as view:
        rollout = view.refresh()
    return rollout.versions if rollout else []


def _names(names: Iterable[str]) -> list[str]:
    """The names, if all are servers of ours."""
    for name in (names := list(names)):
        if name not in NAMES:
            raise SettingsError(f"no server is named {name}: there are {', '.join(NAMES)}")
    return names


def _find_servers(names: Iterable[str]) -> list[Server]:
    wanted = _names(names)
    return [server for server in SERVERS if server.name in wanted]


def _status(server: Server, settings: Settings, record: Record | None) -> ServerStatus:
    elsewhere = server.address(settings)
    if elsewhere is not None:
        detail = _ailment(server, settings) or server.examine(settings)
        return ServerStatus(server.name, None, elsewhere, not detail, True, detail or "ok")
    if record is None:
        return ServerStatus(server.name, None, None, False, False, "not started")
    if process.find(record.process) is None:
        return ServerStatus(server.name, None, record.address, False, False, "died")
    reached = server.with_address(settings, record.address)
    detail = _local_ailment(server, reached, record) or server.examine(reached)
    pid = record.process.pid
    return ServerStatus(server.name, pid, record.address, not detail, False, detail or "ok")


def _ailment(server: Server, settings: Settings) -> str:
    """Why a server does not answer; nothing if it does."""
    try:
        server.check(settings)
    except NotReadyError as error:
        return str(error) or type(error.__cause__).__name__
    return ""


def _local_ailment(server: Server, settings: Settings, record: Record) -> str:
    """As `_ailment`, of a server started here: another one at its address does not count."""
    port = next(iter(record.ports.values()))
    if not process.listens(record.process, port):
        return f"does not listen on port {port}"
    return _ailment(server, settings)


def _ensure(server: Server, settings: Settings, state: StateFolder, progress: Progress) -> str:
    """The address of a server that runs and is well, started if need be."""
    record = state.records().get(server.name)
    if record:
        reason = _reason_to_restart(server, settings, record, progress)
        if reason is None:
            progress(server.name, f"runs at {record.address}")
            return record.address
        progress(server.name, f"{reason}: starting again")
        _stop(server.name, record, settings, state, progress)
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            return _start(server, settings, state, record, progress)
        except _TryAgainError as error:
            progress(server.name, f"{error}: starting again")
            reason = str(error)
    raise ServerError(f"{server.name}: {reason}, {ATTEMPTS} times: try again")


def _reason_to_restart(
    server: Server, settings: Settings, record: Record, progress: Progress
) -> str | None:
    """Why a server that was started before cannot be kept; None if it can."""
    if process.find(record.process) is None:
        return "died"
    if server.launch(settings, record.ports, progress).fingerprint != record.fingerprint:
        return "its settings changed"
    return None if _answers(server, settings, record) else "does not answer"


def _answers(server: Server, settings: Settings, record: Record) -> bool:
    """Whether a running server answers, given a moment: it may still be starting."""
    reached = server.with_address(settings, record.address)
    return _wait(
        lambda: not _local_ailment(server, reached, record),
        lambda: process.find(record.process) is not None,
        settings.local.start_timeout_s,
    )


def _start(
    server: Server, settings: Settings, state: StateFolder, last: Record | None, progress: Progress
) -> str:
    """Start a server on its usual, its last or other ports; return where it answers."""
    wanted = last.ports if last else server.ports(settings)
    ports = process.choose(wanted)
    launch = server.launch(settings, ports, progress)
    log = state.log(server.name)
    since = log.stat().st_size if log.exists() else 0
    address = f"{process.LOOPBACK}:{next(iter(ports.values()))}"
    progress(server.name, f"starting at {address}")
    started = _spawn(launch, log)
    record = Record(started, address, ports, launch.fingerprint)
    state.record(server.name, record)
    if not _answers(server, settings, record):
        raise _failure(server, settings, record, log, since)
    try:
        server.prove(server.with_address(settings, address))
    except ServerError:
        # Left running, the next `up` would find it well and keep it.
        _stop(server.name, record, settings, state, progress)
        raise
    progress(server.name, f"ready at {address}")
    return address


def _spawn(launch: Launch, log: Path) -> process.ProcessId:
    for path, text in launch.files.items():
        path.write_text(text)
    return process.start(launch.command, launch.environment, launch.folder, log)


def _failure(
    server: Server, settings: Settings, record: Record, log: Path, since: int
) -> Exception:
    """Why a start failed. What still runs stays recorded: `down` stops it."""
    if process.find(record.process):
        ailment = _local_ailment(server, server.with_address(settings, record.address), record)
        waited = f"{settings.local.start_timeout_s:g} s"
        return ServerError(f"{server.name} does not answer after {waited} ({ailment}): see {log}")
    if not all(process.is_free(port) for port in record.ports.values()):
        return _TryAgainError("another program took its port")
    words = process.last_words(log, since)
    if mended := server.mend(settings, words):
        return _TryAgainError(mended)
    return ServerError(f"{server.name} died at its start: {words}: {log}")


def _stop(
    name: str, record: Record, settings: Settings, state: StateFolder, progress: Progress
) -> None:
    running = process.find(record.process) is not None
    if running:
        progress(name, "stopping")
    process.stop(record.process, settings.local.stop_timeout_s)
    if running:
        progress(name, "stopped")
    state.record(name, None)


def _wait(ready: Callable[[], bool], alive: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until ready, but no longer than the process lives or the time lasts."""
    deadline = time.monotonic() + timeout_s
    while alive() and time.monotonic() < deadline:
        if ready():
            return alive()
        time.sleep(POLL_S)
    return False
