"""The forms of the model that are compared: ways to run it, behind one interface.

What is timed are untrained models of any catalogue and history: weights do not change what a
request costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import onnxruntime
import torch
from torch import nn

from deploy.optimize import MatmulPrecision
from deploy.optimize.runtime import RunningEngine, read_record
from features.inputs import model_inputs, model_outputs
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.vocabulary import FIRST_ITEM
from trainer.export import Arrays, ScoringGraph, answers, open_session, sample_inputs
from trainer.export.scoring_graph import Outputs
from trainer.network import NEIGHBOURS, Architecture, TemporalModel, join_models
from trainer.settings import TrainerSettings
from trainer.text import BUCKETS, DIRECTIONS

Tensors = dict[str, torch.Tensor]
RunTensors = Callable[[Tensors], Tensors]


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
        self._answers: Arrays = {}

    def load(self) -> None:
        """They are there."""

    def run(self) -> None:
        self._answers = answers(self._session, self._feeds)

    def fetch(self) -> Arrays:
        return self._answers


class TorchCall:
    """A function of tensors, on the device that they are on."""

    def __init__(self, run: RunTensors, feeds: Arrays, device: str) -> None:
        pinned = device == "cuda"
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        self._host = {n: t.pin_memory() if pinned else t for n, t in tensors.items()}
        self._here = {n: t.to(device, copy=True) for n, t in self._host.items()}
        self._run = run
        self._answers: Tensors = {}

    def load(self) -> None:
        for name, tensor in self._host.items():
            self._here[name].copy_(tensor, non_blocking=True)

    def run(self) -> None:
        self._answers = self._run(self._here)

    def fetch(self) -> Arrays:
        return {name: tensor.cpu().numpy() for name, tensor in self._answers.items()}


class GraphCall(TorchCall):
    """The same as one CUDA graph: the GPU is given all its work at once."""

    def __init__(self, run: RunTensors, feeds: Arrays) -> None:
        super().__init__(run, feeds, "cuda")
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                run(self._here)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answers = run(self._here)

    def run(self) -> None:
        self._graph.replay()


def torch_run(
    recommender: ScoringGraph, schema: FeatureSchema, half: torch.dtype | None = None
) -> RunTensors:
    """The model in torch; its products in half precision if asked for."""
    recommender = to_half_precision(recommender, half) if half else recommender
    return _make_run(recommender, recommender, schema, half)


def compiled_run(
    recommender: ScoringGraph, schema: FeatureSchema, half: torch.dtype | None = None
) -> RunTensors:
    """The same through torch.compile, once for all sizes."""
    recommender = to_half_precision(recommender, half) if half else recommender
    return _make_run(torch.compile(recommender, dynamic=True), recommender, schema, half)


def to_half_precision(recommender: ScoringGraph, half: torch.dtype) -> ScoringGraph:
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


def _make_run(
    called: Callable[..., Outputs],
    recommender: ScoringGraph,
    schema: FeatureSchema,
    half: torch.dtype | None,
) -> RunTensors:
    names = [tensor.name for tensor in model_inputs(schema)]
    outputs = [tensor.name for tensor in model_outputs(schema)]
    device = recommender.item_bias.device.type

    def run(feeds: Tensors) -> Tensors:
        with torch.inference_mode(), torch.autocast(device, half, enabled=half is not None):
            answers_of = called(*(feeds[name] for name in names))
        return dict(zip(outputs, answers_of, strict=True))

    return run


Calls = Callable[[Arrays], Call]


@dataclass(frozen=True)
class ModelForm:
    """A way to run the model; `calls` is made when its turn comes.

    Attributes:
        gpu: whether it runs there.
        half: whether its products are in half precision.
    """

    name: str
    gpu: bool
    half: bool
    calls: Callable[[], Calls]


def session_form(name: str, graph: Path, threads: int) -> ModelForm:
    """A graph in ONNX Runtime, on the CPU."""

    def calls() -> Calls:
        session = open_session(graph, threads)
        return lambda feeds: SessionCall(session, feeds)

    return ModelForm(name, False, False, calls)


def cpu_form(recommender: ScoringGraph, schema: FeatureSchema) -> ModelForm:
    """Torch as it is."""
    return _torch_form("torch eager, CPU", "cpu", lambda: torch_run(recommender, schema))


def gpu_forms(recommender: ScoringGraph, schema: FeatureSchema) -> Iterator[ModelForm]:
    """Torch as it is, and as CUDA graphs."""
    for half in (None, torch.float16):
        run = torch_run(recommender, schema, half)
        yield from _torch_forms("torch eager", run, half)


def compiled_forms(recommender: ScoringGraph, schema: FeatureSchema) -> Iterator[ModelForm]:
    """Torch compiled, where the model is: a minute of work before the first answer."""
    if not recommender.item_bias.is_cuda:
        run = compiled_run(recommender, schema)
        yield _torch_form("torch.compile, CPU", "cpu", lambda: run)
        return
    for half in (None, torch.float16):
        run = compiled_run(recommender, schema, half)
        yield from _torch_forms("torch.compile", run, half)


def engine_forms(engine: Path) -> Iterator[ModelForm]:
    """A TensorRT engine that was built, called as it is and as a CUDA graph."""
    record = read_record(engine)
    for graphed in (False, True):
        yield _torch_form(
            f"{record.kind}{_graph_suffix(graphed)}, {record.products}",
            "cuda",
            lambda: RunningEngine(engine).run,
            record.products != MatmulPrecision.FLOAT32,
            graphed,
        )


def _torch_forms(name: str, run: RunTensors, half: torch.dtype | None) -> Iterator[ModelForm]:
    for graphed in (False, True):
        full = f"{name}{_graph_suffix(graphed)}, {'float16' if half else 'float32'}"
        yield _torch_form(full, "cuda", lambda: run, half is not None, graphed)


def _torch_form(
    name: str,
    device: str,
    run_of: Callable[[], RunTensors],
    half: bool = False,
    graphed: bool = False,
) -> ModelForm:
    def calls() -> Calls:
        run = run_of()
        return lambda feeds: GraphCall(run, feeds) if graphed else TorchCall(run, feeds, device)

    return ModelForm(name, device == "cuda", half, calls)


def _graph_suffix(graphed: bool) -> str:
    return ", CUDA graph" if graphed else ""


TEXT = 384
CANDIDATES, EXCLUDED = 50, 100


@dataclass(frozen=True)
class RequestSizes:
    """What is asked of every form: requests of these histories, in these batches."""

    histories: tuple[int, ...]
    batches: tuple[int, ...]
    items: int

    @property
    def schema(self) -> FeatureSchema:
        """Of the rows that the model is made for; it reads shorter histories, too."""
        return schema_of(max(self.histories))

    def make_model(self, device: str) -> ScoringGraph:
        """The model that all forms are of."""
        return make_recommender(self.items, self.schema, device)

    def requests(self) -> Iterator[tuple[int, int, Arrays]]:
        """History, batch, and such requests."""
        for history in self.histories:
            for batch in self.batches:
                yield history, batch, make_requests(self.items, schema_of(history), batch)


def schema_of(history: int) -> FeatureSchema:
    """Rows whose histories are so long."""
    return FeatureSchema(FeatureSettings(history_length=history))


def make_recommender(items: int, schema: FeatureSchema, device: str) -> ScoringGraph:
    """The default shape with all its parts, made on the device that will run it."""
    torch.manual_seed(0)
    rows = items + FIRST_ITEM
    shape = replace(architectures(rows, schema)["default"], text=0)
    with torch.device(device):
        model = TemporalModel(shape)
        # An item's companions differ, as the graph expects.
        steps = torch.arange(1, shape.neighbours + 1) * (rows // (shape.neighbours + 1))
        model.neighbours.copy_((torch.arange(rows)[:, None] + steps) % rows)
        model.neighbour_weights.uniform_()
        for buffer in (model.described, model.factors):
            buffer.normal_(std=0.1)
        return ScoringGraph(model).eval()


def make_requests(items: int, schema: FeatureSchema, batch: int) -> Arrays:
    """A batch of requests with histories of all lengths."""
    return sample_inputs(items + FIRST_ITEM, schema, batch, CANDIDATES, EXCLUDED)


def architectures(items: int, schema: FeatureSchema) -> dict[str, Architecture]:
    """The two shapes that are compared, by name."""
    settings = TrainerSettings()
    size: dict[str, Any] = {
        "items": items,
        "user_features": schema.user_feature_count,
        "trends": schema.trend_count,
        "history": schema.settings.history_length,
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "dropout": 0.0,
    }
    more: dict[str, Any] = {
        "text": TEXT + BUCKETS,
        "alike": DIRECTIONS + BUCKETS,
        "related": settings.factors,
        "neighbours": min(NEIGHBOURS, items),
    }
    return {"plain": Architecture(**size), "default": Architecture(**size, **more)}


def make_members(architecture: Architecture, members: int) -> ScoringGraph:
    """So many untrained models of this shape, averaged."""
    torch.manual_seed(0)
    models = [TemporalModel(architecture) for _ in range(members)]
    if architecture.neighbours:
        shape = models[0].neighbours.shape
        # An item's neighbours differ.
        best = torch.rand(architecture.items, architecture.items).topk(shape[1], dim=1)
        models[0].neighbours.copy_(best.indices)
    return ScoringGraph(join_models(models))
