"""ONNX Runtime's settings on a CPU: how many calls at once, on how many threads, and how they wait.

A call at a time is what one worker makes; Triton runs as many at once as a version has instances,
each with a session of its own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import onnxruntime

from bench.model.progress import Progress
from bench.model.shapes import Sizes
from trainer.export.onnx import answers
from trainer.export.parity import Arrays

SECONDS = 0.4
_ROUNDS, _WARM_UP = 5, 2
AS_SERVED = "1 call, 1 thread: as served"


@dataclass(frozen=True)
class Setting:
    """How sessions are opened, and how many run at once.

    Attributes:
        spin: threads that have nothing to do wait awake.
        parallel: operators that do not need each other run at once.
        arena: memory is kept for the next call.
    """

    calls: int = 1
    threads: int = 1
    spin: bool = True
    parallel: bool = False
    arena: bool = True

    def session(self, graph: Path) -> onnxruntime.InferenceSession:
        """A session of one caller."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = self.threads if self.parallel else 1
        if self.parallel:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.enable_cpu_mem_arena = self.arena
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spin)))
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def settings_of(cores: int) -> Mapping[str, Setting]:
    """What is compared on so many cores, by what it is called."""
    return {
        AS_SERVED: Setting(),
        "no arena": Setting(arena=False),
        f"1 call, {cores} threads": Setting(threads=cores),
        f"1 call, {cores} threads, no spinning": Setting(threads=cores, spin=False),
        f"1 call, {cores} threads, operators in parallel": Setting(threads=cores, parallel=True),
        f"{cores} calls, 1 thread each": Setting(calls=cores),
        f"{cores} calls, {cores} threads each": Setting(calls=cores, threads=cores),
    }


def compare_settings(
    progress: Progress, graph: Path, sizes: Sizes, seconds: float = SECONDS
) -> None:
    """Note users/s by setting and batch, all in turns, at the longest history.

    Args:
        seconds: that each is called, in each of some rounds.
    """
    settings = settings_of(len(os.sched_getaffinity(0)))
    sessions = {
        name: [one.session(graph) for _ in range(one.calls)] for name, one in settings.items()
    }
    found: dict[str, dict[str, Any]] = {name: {} for name in settings}
    longest = replace(sizes, histories=(max(sizes.histories),))
    for _, batch, feeds in longest.cells():
        rounds = [
            {name: _rate(own, feeds, batch, seconds) for name, own in sessions.items()}
            for _ in range(_ROUNDS)
        ]
        for name in settings:
            rates = [one[name] for one in rounds]
            over = [one[name] / one[AS_SERVED] for one in rounds]
            found[name][str(batch)] = {
                "users_per_second": statistics.median(rates),
                "over_served": statistics.median(over),
            }
    progress.figures["settings"] = found


def _rate(
    sessions: Sequence[onnxruntime.InferenceSession], feeds: Arrays, batch: int, seconds: float
) -> float:
    """Users a second of all callers together, each calling again and again."""
    ready = Barrier(len(sessions))

    def call(session: onnxruntime.InferenceSession) -> float:
        for _ in range(_WARM_UP):
            answers(session, feeds)
        ready.wait()
        started, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - started < seconds:
            answers(session, feeds)
            calls += 1
        return calls * batch / (time.perf_counter() - started)

    with ThreadPoolExecutor(len(sessions)) as pool:
        return sum(pool.map(call, sessions))
