"""Who holds a lock, where the volume grants it to everybody: it is written in the locked file."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from threading import Event, Thread

import msgspec
from headwater_client.documents import DocumentError, read_json

BEAT_S = 2.0
# So many beats that nobody sees, and whoever holds a lock from elsewhere is dead.
MISSED_BEATS = 4
HOLDER_BYTES = 512


class LockHolder(msgspec.Struct, frozen=True):
    """Who holds the lock, as it says itself, every few seconds.

    Attributes:
        space: of process ids: a boot of a machine, and a container in it.
        started: when the process was, in the kernel's own ticks: ids are given again.
        beats: how many times it has said so.
    """

    host: str
    space: str
    pid: int
    started: str
    beats: int = 0

    @property
    def runs_here(self) -> bool | None:
        """Whether that process still runs; None where it is of another machine or container."""
        return None if self.space != _space() else _start_time(self.pid) == self.started


def find_other_holder(lock: int, path: Path) -> LockHolder | None:
    """Who else holds a lock that was just granted: on a volume that grants it to everybody.

    Args:
        lock: the open file.
        path: of it, to be opened anew: what others write is seen then.
    """
    try:
        found = read_json(os.pread(lock, HOLDER_BYTES, 0).rstrip(), LockHolder)
    except DocumentError:
        return None
    if (runs := found.runs_here) is not None:
        return found if runs else None
    before = path.read_bytes()
    for _ in range(MISSED_BEATS):
        time.sleep(BEAT_S)
        if (now := path.read_bytes()) != before:
            return found if now else None
    return None


@contextmanager
def announce_holder(lock: int) -> Iterator[None]:
    """Say in the file of a lock who holds it, for as long as the block."""
    me = LockHolder(gethostname(), _space(), os.getpid(), _start_time(os.getpid()))
    ended = Event()

    def say(beats: int) -> None:
        said = msgspec.json.encode(msgspec.structs.replace(me, beats=beats))
        with suppress(OSError):
            os.pwrite(lock, said.ljust(HOLDER_BYTES), 0)

    def beat() -> None:
        beats = 1
        while not ended.wait(BEAT_S):
            say(beats)
            beats += 1

    say(0)
    beating = Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(OSError):
            os.ftruncate(lock, 0)


def _space() -> str:
    """Within what process ids mean something."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return gethostname()


def _start_time(pid: int) -> str:
    """When a process was started; "" where none of that id runs."""
    with suppress(OSError):
        # The name in brackets may hold blanks and brackets.
        state, *told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else told[18]
    return ""
