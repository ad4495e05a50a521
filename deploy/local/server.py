"""What a local server is: where it is named in the settings, how it starts, when it is well."""

from __future__ import annotations

import fcntl
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
from headwater_client.errors import ServerError

from deploy.local.process import ProcessId
from deploy.settings import Settings

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
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Record])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, NotADirectoryError) as error:
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
            self.root.mkdir(parents=True, exist_ok=True)
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
