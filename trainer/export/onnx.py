"""Export to ONNX, and the check that ONNX Runtime answers as torch does."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from headwater_client.errors import HeadwaterError
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from features.inputs import Tensor, graph_outputs, model_inputs, part_outputs
from features.schema import FeatureSchema
from features.settings import DAY_MS
from trainer.export.scoring_graph import ScoringGraph
from trainer.network import Model

OPSET = 17
CHECKED_BATCHES = (1, 7, 256)
EXAMPLE_TIME_MS = 1_700_000_000_000
# What ONNX Runtime says of a graph that it cannot read or run.
_RUNTIME_ERRORS = (
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NoSuchFile,
    runtime.NotImplemented,
    runtime.RuntimeException,
)

# Axes that vary beside the batch; equal names mean equal lengths.
LENGTHS = {
    "item_indices": "history",
    "event_types": "history",
    "event_times_ms": "history",
    "candidate_items": "candidates",
    "candidate_scores": "candidates",
    "candidate_explained_by": "candidates",
    "candidate_parts": "candidates",
    "excluded_items": "excluded",
}


class ExportError(HeadwaterError):
    """There is no graph of the trained model, or it does not answer as the model does."""


def export(model: Model, schema: FeatureSchema, path: Path) -> None:
    """Write the model's ONNX graph and check it.

    Raises:
        ExportError: ONNX Runtime's answers differ from torch's, or weights are no numbers.
    """
    check_graph(export_unchecked(model, schema, path), schema, path)


def export_unchecked(model: Model, schema: FeatureSchema, path: Path) -> ScoringGraph:
    """Write the model's ONNX graph, to be checked before it answers anyone; what it was made from.

    Raises:
        ExportError: weights are no numbers.
    """
    if broken := not_finite(model):
        raise ExportError(f"{path}: not exported: {broken} weights are no finite numbers")
    recommender = ScoringGraph(model).eval()
    write_graph(recommender, schema, path)
    return recommender


def not_finite(model: Model) -> int:
    """How many of the model's numbers are none, or infinite."""
    numbers = model.state_dict().values()
    return sum(int((~torch.isfinite(one)).sum()) for one in numbers)


def write_graph(recommender: ScoringGraph, schema: FeatureSchema, path: Path) -> None:
    """Write the ONNX graph, with names and types of `features.inputs`."""
    inputs, outputs = model_inputs(schema), graph_outputs(schema)
    with warnings.catch_warnings():
        # The newer exporter needs one more package, and takes lengths 0 and 1 for constants.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            recommender,
            _arguments(sample_inputs(recommender.architecture.items, schema, 3), schema),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[one.name for one in inputs],
            output_names=[one.name for one in outputs],
            dynamic_axes={one.name: _dynamic_axes(one) for one in (*inputs, *outputs)},
        )
    graph = onnx.load(path)
    _name_shapes(graph, outputs)
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


class _Twice(torch.nn.Module):
    def forward(self, number: torch.Tensor) -> torch.Tensor:
        return 2 * number


PROBE_CONFIG = """\
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 8
input [{ name: "number", data_type: TYPE_FP32, dims: [1] }]
output [{ name: "twice", data_type: TYPE_FP32, dims: [1] }]
instance_group [{ count: 1, kind: KIND_CPU }]
"""


def write_probe(folder: Path) -> None:
    """Write a model of one multiplication, by the exporter and in the formats of a version.

    Args:
        folder: to be made, in a model repository; its name is the model's.
    """
    graph = folder / "1" / "model.onnx"
    graph.parent.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Twice().eval(),
            (torch.ones(1, 1),),
            graph,
            dynamo=False,
            opset_version=OPSET,
            input_names=["number"],
            output_names=["twice"],
            dynamic_axes={"number": {0: "batch"}, "twice": {0: "batch"}},
        )
    (folder / "config.pbtxt").write_text(PROBE_CONFIG)


def check_graph(recommender: ScoringGraph, schema: FeatureSchema, path: Path) -> None:
    """Compare ONNX Runtime with torch at batches of several sizes.

    Raises:
        ExportError: naming what differs, or why there is no answer.
    """
    session = open_session(path)
    with _named_in_errors(path):
        for batch in CHECKED_BATCHES:
            feeds = sample_inputs(recommender.architecture.items, schema, batch)
            expected = torch_answers(recommender, schema, feeds)
            for difference in differences(expected, answers(session, feeds)):
                raise ExportError(f"{path}: batch of {batch}: not as trained: {difference}")


def open_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, as the server runs it.

    Raises:
        ExportError: there is no graph that it can read.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with _named_in_errors(path):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except _RUNTIME_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"{path}: ONNX Runtime does not run it: {reason}") from error


def answers(session: onnxruntime.InferenceSession, feeds: "Arrays") -> "Arrays":
    """ONNX Runtime's outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def torch_answers(recommender: ScoringGraph, schema: FeatureSchema, feeds: "Arrays") -> "Arrays":
    """Torch's outputs by name."""
    with torch.no_grad():
        outputs = recommender(*_arguments(feeds, schema))
    names = [one.name for one in graph_outputs(schema)]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


def sample_inputs(
    items: int, schema: FeatureSchema, batch: int, candidates: int = 9, excluded: int = 40
) -> "Arrays":
    """Random but plausible inputs for a model of so many items.

    Histories are of all lengths, in a larger batch one is empty; some requests lie before the
    newest event.
    """
    random = np.random.default_rng(batch)
    length = schema.settings.history_length
    times = np.sort(random.integers(0, 400 * DAY_MS, (batch, length))) + EXAMPLE_TIME_MS
    lengths = np.linspace(0, length, batch).round() if batch > 1 else np.array([length])
    there = np.arange(length) >= length - lengths[:, None]
    return {
        "item_indices": random.integers(1, items, (batch, length)) * there,
        "event_types": random.integers(1, 1 + len(schema.event_codes), (batch, length)) * there,
        "event_times_ms": times * there,
        "request_time_ms": times[:, -1:] + random.integers(-DAY_MS, 10 * DAY_MS, (batch, 1)),
        "user_features": random.random((batch, schema.user_feature_count), np.float32),
        "candidate_items": random.integers(0, items, (batch, candidates)),
        "excluded_items": random.integers(0, items, (batch, excluded)),
    }


def _name_shapes(graph: onnx.ModelProto, outputs: tuple[Tensor, ...]) -> None:
    """Write the known lengths into the outputs: the exporter follows them no further than top K."""
    for node, tensor in zip(graph.graph.output, outputs, strict=True):
        for axis, length in enumerate(tensor.shape, 1):
            if length > 0:
                node.type.tensor_type.shape.dim[axis].dim_value = length


def _arguments(feeds: "Arrays", schema: FeatureSchema) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(feeds[one.name]) for one in model_inputs(schema))


def _dynamic_axes(tensor: Tensor) -> dict[int, str]:
    return {0: "batch"} | ({1: LENGTHS[tensor.name]} if -1 in tensor.shape else {})


# Parity: ties may fall either way, rounding may differ.


TOLERANCE = 1e-4

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def differences(expected: Mapping[str, Array], found: Mapping[str, Array]) -> Iterator[str]:
    """What differs between two answers of the model, a line each.

    Parts of scores are compared where both have them.
    """
    parts = {one.name for one in part_outputs()}
    shared = {*expected} if parts <= found.keys() else {*expected} - parts
    for name in sorted(shared):
        array = expected[name]
        if found[name].shape != array.shape or found[name].dtype != array.dtype:
            yield (
                f"{name}: {found[name].dtype}{list(found[name].shape)} "
                f"instead of {array.dtype}{list(array.shape)}"
            )
            return
    # Of places that changed with a neighbour the parts are another item's.
    same = (expected["top_items"] == found["top_items"])[:, :, None]
    if "top_parts" in shared:
        found = {**found, "top_parts": np.where(same, found["top_parts"], expected["top_parts"])}
    for name in sorted({"top_scores", "candidate_scores", "trend_weights", *(shared & parts)}):
        # Not `>`: what is no number differs too.
        if not (furthest := _furthest(expected[name], found[name])) <= TOLERANCE:
            yield f"{name}: differs by {furthest:.2g}"
    other = expected["top_items"] != found["top_items"]
    if count := int((other & ~_find_ties(expected["top_scores"])).sum()):
        yield f"top_items: {count} of {other.size} differ"
    for name, compared in (("top", ~other), ("candidate", True)):
        yield from _explanations(f"{name}_explained_by", expected, found, compared)


def _furthest(expected: Array, found: Array) -> float:
    return float(np.abs(expected - found).max(initial=0))


def _find_ties(scores: Array) -> Array:
    """Places whose item may change with a neighbour, or with the first one left out: bool[B, K]."""
    close = np.abs(np.diff(scores, axis=1)) <= 2 * TOLERANCE
    tied = np.zeros(scores.shape, np.bool_)
    tied[:, :-1] |= close
    tied[:, 1:] |= close
    tied[:, -1] = True
    return tied


def _explanations(
    name: str, expected: Mapping[str, Array], found: Mapping[str, Array], compared: Array | bool
) -> Iterator[str]:
    """Two past events can explain an item equally well, which is rare."""
    other = (expected[name] != found[name]) & compared
    if (count := int(other.sum())) > 1 + other.size // 1000:
        yield f"{name}: {count} of {other.size} differ"
