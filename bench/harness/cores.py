"""Which cores processes run on, how much of their time they have used, how much memory."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Of Linux's proportional set size what is no file's, in memory and swapped out.
_OWN = {"Pss_Anon", "Pss_Shmem", "SwapPss"}


@dataclass(frozen=True)
class SharedCores:
    """The cores that everything measured shares, and those left to whoever measures."""

    shared: frozenset[int]
    left: frozenset[int]

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is started in this block runs on the shared cores.

        Pinned before its start, because later only one thread of a process would move.
        """
        with _pin_to(self.shared):
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The caller keeps away from the shared cores, where there are others."""
        with _pin_to(self.left or self.shared):
            yield


def split_cores(number: int) -> SharedCores:
    """The cores that this process may use: the last so many of them are shared."""
    allowed = sorted(os.sched_getaffinity(0))
    return SharedCores(frozenset(allowed[-number:]), frozenset(allowed[:-number]))


@contextmanager
def _pin_to(cores: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class CpuMeter:
    """The CPU time of processes and of all that they have started.

    Args:
        pids: of each process by its name. What they start later is not seen.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._families = {name: _family(pid) for name, pid in pids.items()}

    def read(self) -> dict[str, float]:
        """User and system seconds so far, by name."""
        return {
            name: sum(_seconds(process) for process in family)
            for name, family in self._families.items()
        }


def memory_bytes(pid: int) -> int:
    """The memory of a process and of all that it has started; what they share counts once.

    Without pages of files, programs' and libraries' among them: how many of those are there, and
    who shares them, depends on whoever else is at work on the machine.
    """
    return sum(_own_bytes(process.pid) for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def _own_bytes(pid: int) -> int:
    total = 0
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, size = line.partition(":")
            if name in _OWN:
                total += int(size.removesuffix("kB")) * 1024
    return total
