"""The forms of the model that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.model.calls import (
    Call,
    GraphCall,
    Run,
    SessionCall,
    TorchCall,
    compiled_run,
    torch_run,
)
from deploy.optimize.engine_record import read_record
from deploy.optimize.runtime import RunningEngine
from deploy.optimize.settings import MatmulPrecision
from features.schema import FeatureSchema
from trainer.export.onnx import open_session
from trainer.export.parity import Arrays
from trainer.export.recommender import ScoringGraph

Calls = Callable[[Arrays], Call]


@dataclass(frozen=True)
class Form:
    """A way to run the model; `calls` is made when its turn comes.

    Attributes:
        gpu: whether it runs there.
        half: whether its products are in half precision.
    """

    name: str
    gpu: bool
    half: bool
    calls: Callable[[], Calls]


def session_form(name: str, graph: Path, threads: int) -> Form:
    """A graph in ONNX Runtime, on the CPU."""

    def calls() -> Calls:
        session = open_session(graph, threads)
        return lambda feeds: SessionCall(session, feeds)

    return Form(name, False, False, calls)


def on_cpu(recommender: ScoringGraph, schema: FeatureSchema) -> Form:
    """Torch as it is."""
    return _of_torch("torch eager, CPU", "cpu", lambda: torch_run(recommender, schema))


def on_gpu(recommender: ScoringGraph, schema: FeatureSchema) -> Iterator[Form]:
    """Torch as it is, and as CUDA graphs."""
    for half in (None, torch.float16):
        run = torch_run(recommender, schema, half)
        yield from _plain_and_graphed("torch eager", run, half)


def compiled(recommender: ScoringGraph, schema: FeatureSchema) -> Iterator[Form]:
    """Torch compiled, where the model is: a minute of work before the first answer."""
    if not recommender.item_bias.is_cuda:
        run = compiled_run(recommender, schema)
        yield _of_torch("torch.compile, CPU", "cpu", lambda: run)
        return
    for half in (None, torch.float16):
        run = compiled_run(recommender, schema, half)
        yield from _plain_and_graphed("torch.compile", run, half)


def engine_forms(engine: Path) -> Iterator[Form]:
    """A TensorRT engine that was built, called as it is and as a CUDA graph."""
    record = read_record(engine)
    for graphed in (False, True):
        yield _of_torch(
            f"{record.kind}{_graphed(graphed)}, {record.products}",
            "cuda",
            lambda: RunningEngine(engine).run,
            record.products != MatmulPrecision.FLOAT32,
            graphed,
        )


def _plain_and_graphed(name: str, run: Run, half: torch.dtype | None) -> Iterator[Form]:
    for graphed in (False, True):
        full = f"{name}{_graphed(graphed)}, {'float16' if half else 'float32'}"
        yield _of_torch(full, "cuda", lambda: run, half is not None, graphed)


def _of_torch(
    name: str, device: str, run_of: Callable[[], Run], half: bool = False, graphed: bool = False
) -> Form:
    def calls() -> Calls:
        run = run_of()
        return lambda feeds: GraphCall(run, feeds) if graphed else TorchCall(run, feeds, device)

    return Form(name, device == "cuda", half, calls)


def _graphed(graphed: bool) -> str:
    return ", CUDA graph" if graphed else ""
