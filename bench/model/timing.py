"""How long a call takes, on a CPU or a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.model.calls import Call

_WARM_UP = 3
_MS = 1e3


@dataclass(frozen=True)
class Timed:
    """Medians of a call.

    Attributes:
        run_ms: with the requests where they are answered; on a GPU by its own clock.
        served_ms: from requests in the host's memory to answers there.
        spread: the middle half of the runs over their median; what is nearer is the same.
    """

    run_ms: float
    served_ms: float
    spread: float


def timed(call: Call, gpu: bool, seconds: float = 0.25, least: int = 7) -> Timed:
    """Call again and again, for so long each way."""
    for _ in range(_WARM_UP):
        _served(call, gpu)
    runs = _repeated(lambda: _run_ms(call, gpu), seconds, least)
    served = _repeated(lambda: _host_ms(lambda: _served(call, gpu)), seconds, least)
    low, median, high = statistics.quantiles(runs, n=4)
    return Timed(median, statistics.median(served), (high - low) / median)


def _repeated(once: Callable[[], float], seconds: float, least: int) -> list[float]:
    end = time.perf_counter() + seconds
    found: list[float] = []
    while len(found) < least or time.perf_counter() < end:
        found.append(once())
    return found


def _served(call: Call, gpu: bool) -> None:
    call.load()
    call.run()
    call.fetch()
    if gpu:
        torch.cuda.synchronize()


def _run_ms(call: Call, gpu: bool) -> float:
    if not gpu:
        return _host_ms(call.run)
    first, last = events()
    first.record()
    call.run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def _host_ms(once: Callable[[], None]) -> float:
    started = time.perf_counter()
    once()
    return _MS * (time.perf_counter() - started)


def events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Marks on the GPU's own clock."""
    first, last = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    return first, last
