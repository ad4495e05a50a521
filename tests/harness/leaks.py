"""What a test leaves behind: threads, child processes, environment variables."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

# What ends by itself may take a moment.
_GRACE_S = 3.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Threads of libraries, by what their names have.
_LIBRARY_THREADS = (
    "_poll_wrapper",  # of grpc.aio: one for all channels, until the last closed one is collected
    "Dummy-",  # of C++ (Triton's client, torch) that has called into Python once
)
# Variables that libraries or pytest set by themselves, by how their names begin.
_LIBRARY_VARIABLES = ("PYTEST_", "TORCH", "KMP_", "TF_", "TOKENIZERS_", "CUDA_", "GRPC_")


@dataclass(frozen=True)
class Left:
    """What there is besides the process itself at one moment."""

    threads: frozenset[threading.Thread]
    children: dict[int, str]
    variables: frozenset[tuple[str, str]]
    time_s: float

    @classmethod
    def now(cls) -> Left:
        """What there is."""
        return cls(
            frozenset(t for t in threading.enumerate() if not _is_librarys(t)),
            dict(_children()),
            frozenset(v for v in os.environ.items() if not v[0].startswith(_LIBRARY_VARIABLES)),
            time.clock_gettime(time.CLOCK_BOOTTIME) - _TICK_S,
        )

    def since(self, before: Left) -> list[str]:
        """What is new or gone, one line each; nothing of a process that has ended."""
        threads = [f"thread {t.name}" for t in self.threads - before.threads if t.is_alive()]
        children = [f"process {pid}: {program}" for pid, program in self._new_children(before)]
        changed = {name for name, _ in self.variables ^ before.variables}
        return sorted([*threads, *children, *(f"variable {name}" for name in changed)])

    def _new_children(self, before: Left) -> Iterator[tuple[int, str]]:
        """Children that are new: pid and program."""
        ended = Counter(before.children[pid] for pid in before.children.keys() - self.children)
        for pid, program in sorted(self.children.items()):
            # A server gives itself another title once it has started.
            if pid in before.children or _began_s(pid) < before.time_s:
                continue
            # A server that a fixture holds may be killed and started again: as many run as before.
            if ended[program]:
                ended[program] -= 1
            else:
                yield pid, program


def _is_librarys(thread: threading.Thread) -> bool:
    return any(part in thread.name for part in _LIBRARY_THREADS)


def _children() -> Iterator[tuple[int, str]]:
    """The processes that this one has started and that run: pid, and the program as text."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            for pid in map(int, (task / "children").read_text().split()):
                if program := _program(pid):
                    yield pid, program


def _began_s(pid: int) -> float:
    """When a child was started, in seconds since the machine's start, to a tick.

    The kernel's list of children may leave one out for a moment. psutil's times are whole seconds
    of the clock off.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        # The name, in brackets, may have any characters: the 22nd field is the 20th behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]) * _TICK_S
    return 0.0


def _program(pid: int) -> str:
    """What a child runs; "" for one that has ended, or that lives as long as this process."""
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(pid)
        words = child.cmdline()
        # `multiprocessing` keeps one to clean up after its processes.
        if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(words):
            # Ports and folders of a program that is started again differ.
            return " ".join(words[:4])
    return ""


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or a changed environment behind.

    What fixtures of a module or the session have started was there before: they come first. The
    mark `leaves_behind(words, reason)` exempts what a library keeps.
    """
    exempt = [mark.args[0] for mark in request.node.iter_markers("leaves_behind")]
    before = Left.now()
    yield
    deadline = time.monotonic() + _GRACE_S
    while left := [
        line for line in Left.now().since(before) if not any(words in line for words in exempt)
    ]:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {'; '.join(left)}", pytrace=False)
        time.sleep(0.02)
