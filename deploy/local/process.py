"""Processes that outlive the command that started them, known by pid and time of start.

What a local server is: where it is named in the settings, how it starts, when it is well.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import psutil
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import ServerError

from deploy.settings import Settings
from deploy.settings_text import PREFIX

ROTATE_LOG_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 64 * 1024
CLOCK_TOLERANCE_S = 0.005  # half a tick of the kernel, which is what start times are kept in

# A child that ended stays a zombie until someone asks: what this process started is kept here.
_children: dict[int, subprocess.Popen[bytes]] = {}


class ProcessId(msgspec.Struct, frozen=True):
    """A process that cannot be confused with a later one of the same pid.

    `started_s` counts from the boot: the wall clock may be set while a server runs.
    """

    pid: int
    started_s: float


def start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> ProcessId:
    """Start a process in a session of its own: Ctrl-C in this terminal does not reach it."""
    _rotate(log)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            # What it is told it is told by its options; passwords of ours are not its business.
            env={k: v for k, v in environment.items() if not k.startswith(PREFIX)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    return identify(child.pid)


def identify(pid: int) -> ProcessId:
    """The process that has this pid now."""
    return ProcessId(pid, _started_s(psutil.Process(pid)))


def find(process_id: ProcessId) -> psutil.Process | None:
    """The process itself while it runs; None once it ended, whoever has its pid now."""
    if process_id.pid in _children:
        _children[process_id.pid].poll()
    try:
        process = psutil.Process(process_id.pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process if alive and _is(process, process_id) else None
    except psutil.NoSuchProcess:
        return None


def listens(process_id: ProcessId, port: int) -> bool:
    """Whether it is this process, and not another program, that answers on a port."""
    process = find(process_id)
    try:
        connections = process.net_connections("tcp") if process else []
    except psutil.NoSuchProcess:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def stop(process_id: ProcessId, timeout_s: float) -> None:
    """Ask the process to end; after `timeout_s` make it, and whatever it left behind."""
    process = find(process_id)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            psutil.wait_procs([process], timeout=timeout_s)
    left = _family(process_id)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=timeout_s)
    find(process_id)


def _family(process_id: ProcessId) -> list[psutil.Process]:
    """The process and its descendants, which keep its session when it is gone.

    While a session has members its number is given to no other process; so if another one has
    it, none of the family is left.
    """
    try:
        if not _is(psutil.Process(process_id.pid), process_id):
            return []
    except psutil.NoSuchProcess:
        pass
    return [process for process in psutil.process_iter() if _session(process) == process_id.pid]


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is(process: psutil.Process, process_id: ProcessId) -> bool:
    return abs(_started_s(process) - process_id.started_s) < CLOCK_TOLERANCE_S


def _started_s(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > ROTATE_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


_TROUBLE = re.compile(r"\b(ERROR|FATAL|Error|Exception|error:|failed)|^E\d{4} ")
_DETAIL = re.compile(r"^\s+at |^\s*\.\.\. \d+ more|^[+|\s-]*$")


def last_words(log: Path, since: int = 0) -> str:
    """The line of a log from byte `since` on that best says why its server died."""
    if not log.exists():
        return "(its log is empty)"
    with log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if not _DETAIL.match(line)]
    trouble = [line for line in lines if _TROUBLE.search(line)]
    return next(iter(trouble or lines[-1:]), "(its log is empty)")


# Free ports of this machine.


LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still timing out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose(preferred: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: the preferred one, else one that the system hands out."""
    chosen: dict[str, int] = {}
    for name, port in preferred.items():
        free = is_free(port) and port not in chosen.values()
        chosen[name] = port if free else free_port({*chosen.values(), *preferred.values()})
    return chosen


def free_port(taken: Collection[int] = ()) -> int:
    """A port that the system hands out, but none of those."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


Progress = Callable[[str, str], None]
"""Called with the name of a server and what is happening to it."""


class NotReadyError(Exception):
    """A server does not answer, or not yet; never leaves this package."""


class Launch(msgspec.Struct, frozen=True):
    """How to start a server; `files` are written first."""

    command: list[str]
    folder: Path
    environment: dict[str, str]
    files: dict[Path, str] = {}

    @property
    def fingerprint(self) -> str:
        """The same for two launches that start the same server."""
        parts = [*self.command, *(f"{path}\n{text}" for path, text in self.files.items())]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Server(Protocol):
    """One of the servers that Headwater needs."""

    name: str
    setting: str
    """The key of the setting that names a server elsewhere."""

    def address(self, settings: Settings) -> str | None:
        """Where the settings say that the server is."""

    def with_address(self, settings: Settings, address: str) -> Settings:
        """The settings with this address."""

    def ports(self, settings: Settings) -> dict[str, int]:
        """The ports that it would like, by use; the first one is the address."""

    def launch(self, settings: Settings, ports: Mapping[str, int], progress: Progress) -> Launch:
        """How to start it here; fetches what it needs. ServerError if it cannot be had."""

    def check(self, settings: Settings) -> None:
        """Return if the server at the settings' address answers, else raise NotReadyError."""

    def prove(self, settings: Settings) -> None:
        """Once after a start: a known request has its known answer, else ServerError."""

    def examine(self, settings: Settings) -> str:
        """Why one that answers cannot do its work all the same; "" where it can."""

    def mend(self, settings: Settings, last_words: str) -> str:
        """What was mended of that it died of at its start; "" for nothing."""


# The state folder: which servers were started here, where they listen, and their logs.


class Record(msgspec.Struct, frozen=True):
    """One started server. `fingerprint` tells whether today's settings would start the same."""

    process: ProcessId
    address: str
    ports: dict[str, int]
    fingerprint: str


class StateFolder:
    """The records of one state folder, written whole and replaced at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._file = root / "servers.json"
        self._writing = threading.Lock()

    def log(self, name: str) -> Path:
        """Where the server of this name writes its output."""
        return self.root / "logs" / f"{name}.log"

    def records(self) -> dict[str, Record]:
        """What was started, by name; nothing where no server was."""
        try:
            return read_json(self._file.read_bytes(), dict[str, Record])
        except (FileNotFoundError, PermissionError):
            # Another user's folder has no server of ours.
            return {}
        except (DocumentError, NotADirectoryError) as error:
            raise ServerError(f"{self._file}: cannot be read ({error}): delete it") from error

    def record(self, name: str, record: Record | None) -> None:
        """Remember a server, or with None forget it."""
        with self._writing:
            records = self.records() | {name: record}
            kept = {name: value for name, value in records.items() if value is not None}
            fresh = self._file.with_suffix(".new")
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
            fresh.replace(self._file)

    @contextmanager
    def lock(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Alone among all commands on this folder; `waiting` is called if another is at work."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Events, rows, logs and keys are in it: nobody else's, also where it was there before.
            self.root.chmod(0o700)
        except OSError as error:
            raise ServerError(f"local.state_dir {self.root}: {error.strerror}") from error
        with lock_file(self.root / "lock", waiting):
            yield


@contextmanager
def lock_file(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an advisory lock on a file; it goes with the process, however that ends."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
