"""How long a call takes, and the time that none can go below.

The floor is operations over the rate of products, or bytes over bandwidth, whichever is longer.
Both rates are measured here, by a large product and a large copy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.model.forms import Call, Tensors, torch_run
from features.schema import FeatureSchema
from trainer.export import Arrays, ScoringGraph
from trainer.network import NEWEST

_WARM_UP = 3
_MS = 1e3


@dataclass(frozen=True)
class CallTimes:
    """Medians of a call.

    Attributes:
        run_ms: with the requests where they are answered; on a GPU by its own clock.
        served_ms: from requests in the host's memory to answers there.
        spread: the middle half of the runs over their median; what is nearer is the same.
    """

    run_ms: float
    served_ms: float
    spread: float


def time_call(call: Call, gpu: bool, seconds: float = 0.25, least: int = 7) -> CallTimes:
    """Call again and again, for so long each way."""
    for _ in range(_WARM_UP):
        _serve(call, gpu)
    runs = _repeat(lambda: _run_ms(call, gpu), seconds, least)
    served = _repeat(lambda: _host_ms(lambda: _serve(call, gpu)), seconds, least)
    low, median, high = statistics.quantiles(runs, n=4)
    return CallTimes(median, statistics.median(served), (high - low) / median)


def _repeat(once: Callable[[], float], seconds: float, least: int) -> list[float]:
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < least or time.perf_counter() < end:
        times.append(once())
    return times


def _serve(call: Call, gpu: bool) -> None:
    call.load()
    call.run()
    call.fetch()
    if gpu:
        torch.cuda.synchronize()


def _run_ms(call: Call, gpu: bool) -> float:
    if not gpu:
        return _host_ms(call.run)
    first, last = gpu_events()
    first.record()
    call.run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def _host_ms(once: Callable[[], None]) -> float:
    started = time.perf_counter()
    once()
    return _MS * (time.perf_counter() - started)


def gpu_events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Marks on the GPU's own clock."""
    first, last = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    return first, last


# What a request reads some rows of, not all.
_LOOKED_UP = ("explaining", "explained")
# What the graph has made its own tables of.
_FOLDED = ("items.", "item_bias", "text.", "text_bias.")
_REPEATS = 10
_COPIED_BYTES = 1 << 30
_MULTIPLIED = 8192


@dataclass(frozen=True)
class Ceilings:
    """What the GPU can do, measured.

    Attributes:
        bytes_per_second: of a copy, read and written.
        operations_per_second: of a product, in true float32, in float16.
    """

    bytes_per_second: float
    float32_operations_per_second: float
    float16_operations_per_second: float


@dataclass(frozen=True)
class MinimalWork:
    """What a batch cannot do without.

    Attributes:
        operations: of products.
        table_bytes: of weights and tables, each read once; half of that in half precision.
        request_bytes: of inputs and outputs.
    """

    operations: int
    table_bytes: int
    request_bytes: int

    def floor_ms(self, ceilings: Ceilings, half: bool) -> float:
        """The larger of the two times."""
        rate = (
            ceilings.float16_operations_per_second
            if half
            else ceilings.float32_operations_per_second
        )
        moved = self.request_bytes + self.table_bytes / (2 if half else 1)
        return 1e3 * max(self.operations / rate, moved / ceilings.bytes_per_second)


def measure_ceilings() -> Ceilings:
    """Measure this GPU; random numbers, since products of zeros are faster."""
    source = torch.empty(_COPIED_BYTES // 4, device="cuda").normal_()
    target = torch.empty_like(source)
    copied = 2 * _COPIED_BYTES / _seconds(lambda: target.copy_(source))
    return Ceilings(copied, _products(torch.float32), _products(torch.float16))


def minimal_work(recommender: ScoringGraph, schema: FeatureSchema, feeds: Arrays) -> MinimalWork:
    """What this batch takes at least, on the device of the model."""
    device = recommender.item_bias.device
    here = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
    run = torch_run(recommender, schema)
    with FlopCounterMode(display=False) as counter:
        outputs = run(here)
    whole = sum(map(_bytes, _read_whole(recommender)))
    return MinimalWork(
        counter.get_total_flops(),
        whole + _looked_up_bytes(recommender, here, outputs),
        sum(map(_bytes, [*here.values(), *outputs.values()])),
    )


def _read_whole(recommender: ScoringGraph) -> Iterator[Tensor]:
    """Weights and tables that every batch needs all of."""
    for name, table in recommender.named_buffers(recurse=False):
        if name not in _LOOKED_UP:
            yield table
    for member in recommender.model.members:
        for name, weight in member.named_parameters():
            if not name.startswith(_FOLDED):
                yield weight


def _looked_up_bytes(recommender: ScoringGraph, feeds: Tensors, outputs: Tensors) -> int:
    """Rows of tables, one a request and item."""
    people, history = feeds["item_indices"].shape
    wanted = feeds["candidate_items"].shape[1] + outputs["top_items"].shape[1]
    neighbours = recommender.architecture.neighbours
    companions = people * min(NEWEST, history) * neighbours * 8
    explaining = people * history * _row_bytes(recommender.explaining)
    return companions + explaining + people * wanted * _row_bytes(recommender.explained)


def _row_bytes(table: Tensor) -> int:
    return table.shape[1] * table.element_size()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _products(kind: torch.dtype) -> float:
    left, right = (
        torch.empty(_MULTIPLIED, _MULTIPLIED, device="cuda", dtype=kind).normal_() for _ in range(2)
    )
    return 2 * _MULTIPLIED**3 / _seconds(lambda: left @ right)


def _seconds(once: Callable[[], object]) -> float:
    for _ in range(3):
        once()
    first, last = gpu_events()
    first.record()
    for _ in range(_REPEATS):
        once()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / _REPEATS
