"""Ways to run the model, behind one interface, so that all are timed and compared alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import onnxruntime
import torch
from torch import nn

from features.inputs import model_inputs, model_outputs
from features.schema import FeatureSchema
from trainer.export.onnx import answers
from trainer.export.parity import Arrays
from trainer.export.recommender import Outputs, ScoringGraph

Tensors = dict[str, torch.Tensor]
Run = Callable[[Tensors], Tensors]


class Call(Protocol):
    """One batch of requests, to be answered again and again."""

    def load(self) -> None:
        """Bring the requests to where they are answered."""

    def run(self) -> None:
        """Answer them; on a GPU this only begins it."""

    def fetch(self) -> Arrays:
        """The answers, in the host's memory."""


class SessionCall:
    """ONNX Runtime on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession, feeds: Arrays) -> None:
        self._session, self._feeds = session, feeds
        self._found: Arrays = {}

    def load(self) -> None:
        """They are there."""

    def run(self) -> None:
        self._found = answers(self._session, self._feeds)

    def fetch(self) -> Arrays:
        return self._found


class TorchCall:
    """A function of tensors, on the device that they are on."""

    def __init__(self, run: Run, feeds: Arrays, device: str) -> None:
        pinned = device == "cuda"
        self._host = {
            name: one.pin_memory() if pinned else one
            for name, one in ((name, torch.from_numpy(array)) for name, array in feeds.items())
        }
        self._here = {name: one.to(device, copy=True) for name, one in self._host.items()}
        self._run = run
        self._found: Tensors = {}

    def load(self) -> None:
        for name, one in self._host.items():
            self._here[name].copy_(one, non_blocking=True)

    def run(self) -> None:
        self._found = self._run(self._here)

    def fetch(self) -> Arrays:
        return {name: one.cpu().numpy() for name, one in self._found.items()}


class GraphCall(TorchCall):
    """The same as one CUDA graph: the GPU is given all its work at once."""

    def __init__(self, run: Run, feeds: Arrays) -> None:
        super().__init__(run, feeds, "cuda")
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                run(self._here)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._found = run(self._here)

    def run(self) -> None:
        self._graph.replay()


def torch_run(
    recommender: ScoringGraph, schema: FeatureSchema, half: torch.dtype | None = None
) -> Run:
    """The model in torch; its products in half precision if asked for."""
    recommender = halved(recommender, half) if half else recommender
    return _run_of(recommender, recommender, schema, half)


def compiled_run(
    recommender: ScoringGraph, schema: FeatureSchema, half: torch.dtype | None = None
) -> Run:
    """The same through torch.compile, once for all sizes."""
    recommender = halved(recommender, half) if half else recommender
    return _run_of(torch.compile(recommender, dynamic=True), recommender, schema, half)


def halved(recommender: ScoringGraph, half: torch.dtype) -> ScoringGraph:
    """A copy whose weights and tables of products are in half precision; the rest stays."""
    copied = copy.deepcopy(recommender)
    for module in copied.modules():
        if isinstance(module, nn.Linear):
            module.to(half)
    copied.tables = copied.tables.to(half)
    copied.likeness.kinds = copied.likeness.kinds.to(half)
    for member in copied.model.members:
        member.neighbour_weights = member.neighbour_weights.to(half)
    return copied


def _run_of(
    called: Callable[..., Outputs],
    recommender: ScoringGraph,
    schema: FeatureSchema,
    half: torch.dtype | None,
) -> Run:
    names = [one.name for one in model_inputs(schema)]
    outputs = [one.name for one in model_outputs(schema)]
    device = recommender.item_bias.device.type

    def run(feeds: Tensors) -> Tensors:
        with torch.inference_mode(), torch.autocast(device, half, enabled=half is not None):
            found = called(*(feeds[name] for name in names))
        return dict(zip(outputs, found, strict=True))

    return run
