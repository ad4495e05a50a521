"""What a Redis or Valkey says of itself and of its append-only file, and when that is written anew.

A file that had no room may not be readable any more. Valkey 8.1 takes off again what it had begun
to write, and once it has rewritten its file it does so at a wrong place: zeros stay in the middle,
and the next start refuses the file. Written anew (BGREWRITEAOF) it holds what the server has in
memory.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple


class StoreServer(NamedTuple):
    """A server as it says it is.

    Attributes:
        identity: changes when it is restarted, and when it becomes the primary.
        tells_truth: its WAITAOF is known to wait for the fsync.
    """

    identity: tuple[str, str]
    tells_truth: bool

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> "StoreServer":
        identity = str(info.get("run_id")), str(info.get("master_replid"))
        return cls(identity, waits_for_fsync(info))


class FileLook(NamedTuple):
    """What a server says of its append-only file.

    Attributes:
        is_on_disk: by WAITAOF.
        is_settled: nothing waits to be written or synced, and the last time neither failed.
        rewrites: of the file, since the server was started.
    """

    server: StoreServer
    is_on_disk: bool
    is_settled: bool
    rewrites: int

    @classmethod
    def from_info(cls, info: Mapping[str, Any], is_on_disk: bool) -> "FileLook":
        settled = (
            info.get("aof_pending_bio_fsync") == 0
            and info.get("aof_buffer_length") == 0
            and info.get("aof_last_write_status") == "ok"
        )
        rewrites = int(info.get("aof_rewrites", 0))
        return cls(StoreServer.from_info(info), is_on_disk, is_on_disk and settled, rewrites)


def waits_for_fsync(info: Mapping[str, Any]) -> bool:
    """Whether WAITAOF of such a version is known to answer only after the fsync.

    >>> [waits_for_fsync({"redis_version": version}) for version in ("7.2.4", "7.4.2", "8.0.1")]
    [True, False, True]
    >>> waits_for_fsync({"redis_version": "7.2.4", "valkey_version": "8.1.8"})
    False
    """
    text = info.get("valkey_version") or info.get("redis_version") or ""
    version = tuple(int(part) for part in str(text).split(".")[:3] if part.isdigit())
    if "valkey_version" in info or info.get("server_name", "redis") != "redis":
        return version[:2] == (7, 2) and info.get("server_name") == "valkey"
    return version[:2] == (7, 2) or version >= (7, 4, 3)


class FileStep(Enum):
    """What is to be done about the append-only file."""

    NOTHING = auto()
    ASK = auto()
    """Ask for it to be written anew."""
    WAIT = auto()
    RENEWED = auto()
    """It has been; from now on there is nothing to do."""


class FileRenewal:
    """Whether a server's append-only file has to be written anew before it can be relied on.

    >>> renewal = FileRenewal()
    >>> full = {"aof_last_write_status": "err", "aof_rewrites": 4}
    >>> free = {"aof_last_write_status": "ok", "aof_rewrites": 4}
    >>> [renewal.look(info).name for info in (free, full, free)]
    ['NOTHING', 'WAIT', 'ASK']
    >>> busy = free | {"aof_rewrites": 5, "aof_rewrite_in_progress": 1}
    >>> done = free | {"aof_rewrites": 5, "aof_last_bgrewrite_status": "ok"}
    >>> [renewal.look(info).name for info in (busy, done, done)]
    ['WAIT', 'RENEWED', 'NOTHING']
    """

    def __init__(self) -> None:
        self._is_due = False
        # Rewrites that had begun when the file could not be written, the last time that was seen.
        self._rewrites = -1

    @property
    def is_due(self) -> bool:
        """Whether it has to be written anew, or that is under way."""
        return self._is_due

    def note_failure(self) -> None:
        """The server has refused a write because it cannot write its file."""
        self._is_due, self._rewrites = True, -1

    def give_up(self) -> None:
        """The server does not let this user ask for it."""
        self._is_due = False

    def look(self, info: Mapping[str, Any]) -> FileStep:
        """Take in an answer to INFO."""
        rewrites = int(info.get("aof_rewrites", 0))
        if info.get("aof_last_write_status", "ok") != "ok":
            self._is_due, self._rewrites = True, rewrites
            return FileStep.WAIT
        if not self._is_due:
            return FileStep.NOTHING
        if self._rewrites < 0:
            self._rewrites = rewrites
        if info.get("aof_rewrite_in_progress") or info.get("aof_rewrite_scheduled"):
            return FileStep.WAIT
        if rewrites > self._rewrites and info.get("aof_last_bgrewrite_status") == "ok":
            self._is_due = False
            return FileStep.RENEWED
        self._rewrites = rewrites
        return FileStep.ASK
