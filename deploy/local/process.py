"""Processes that outlive the command that started them, known by pid and time of start."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

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
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    return ProcessId(child.pid, _started_s(psutil.Process(child.pid)))


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
