"""Which cores processes run on, and how much of their time they have used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """What is started in this block runs on the last so many cores; the caller itself returns.

    Pinned before its start, because later only one thread of a process would move.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def out_of_the_way(cores: int) -> Iterator[None]:
    """The caller measures from the cores that `pinned` leaves free, where there are any."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:-cores] or allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


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


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0
