"""What a TensorRT engine is built for: shapes, GPU and package, in a JSON file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from headwater_client.errors import DataError

from deploy.optimize.settings import OptimizeSettings
from features.inputs import Tensor, model_inputs
from features.schema import FeatureSchema
from trainer.export.onnx import LENGTHS
from trainer.export.triton_config import MAX_BATCH, VARIES, ModelFile, ModelTensor

ENGINE = "model.plan"
SUFFIX = ".json"

Shape = tuple[int, ...]
# Few requests have more.
_USUAL_CANDIDATES, _USUAL_EXCLUDED = 64, 128


@dataclass(frozen=True)
class ShapeProfile:
    """The shapes of one input."""

    smallest: Shape
    usual: Shape
    largest: Shape

    def accepts(self, shape: Shape) -> bool:
        """Whether the engine takes a tensor of this shape."""
        bounds = zip(self.smallest, shape, self.largest, strict=True)
        return all(low <= length <= high for low, length, high in bounds)


def shape_profiles(schema: FeatureSchema, settings: OptimizeSettings) -> dict[str, ShapeProfile]:
    """The profile of each input by its name, for every batch from 1 to `MAX_BATCH`."""
    history = schema.settings.history_length
    lengths = {
        "history": (1, history, history),
        "candidates": (0, min(_USUAL_CANDIDATES, settings.max_candidates), settings.max_candidates),
        "excluded": (0, min(_USUAL_EXCLUDED, settings.max_excluded), settings.max_excluded),
    }
    return {tensor.name: _profile(tensor, lengths, settings) for tensor in model_inputs(schema)}


def _profile(
    tensor: Tensor, lengths: dict[str, tuple[int, int, int]], settings: OptimizeSettings
) -> ShapeProfile:
    low, usual, high = (
        lengths[LENGTHS[tensor.name]] if -1 in tensor.shape else tensor.shape * 3  # (F,) thrice
    )
    return ShapeProfile((1, low), (settings.batch, usual), (MAX_BATCH, high))


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was built from, by which package, and for which GPU and shapes.

    Attributes:
        kind: the package that built it, and can run it: `tensorrt` or `tensorrt_rtx`.
        gpu: the name of the GPU that it was built for; None: built without one, for any that the
            package knows.
        compute_capability: of that GPU.
        graph_sha256: of the ONNX graph that it answers as.
        engine_sha256: of the engine itself.
        products: what it multiplies matrices in.
        inputs: of each input the smallest, the usual and the largest shape.
        outputs: of each output the shape, -1 for what varies.
        seconds: how long it took to build.
    """

    kind: str
    version: str
    gpu: str | None
    compute_capability: str | None
    graph_sha256: str
    engine_sha256: str
    products: str
    inputs: dict[str, tuple[Shape, Shape, Shape]]
    outputs: dict[str, Shape]
    seconds: float


def write_record(record: EngineRecord, engine: Path) -> None:
    """Write it beside its engine."""
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    record_path(engine).write_bytes(text + b"\n")


def read_record(engine: Path) -> EngineRecord:
    """The record of an engine.

    Raises:
        DataError: there is none, or it is no record.
    """
    path = record_path(engine)
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: no record of an engine: {error}: build it again") from error


def record_path(engine: Path) -> Path:
    """The path of an engine's record."""
    return engine.with_name(engine.name + SUFFIX)


def engine_file(record: EngineRecord, graph: ModelFile) -> ModelFile:
    """The inputs and outputs of an engine, as Triton's TensorRT backend sees them.

    Args:
        graph: what it was built of: the types are the graph's.
    """
    shapes = {name: _engine_dims(*shapes) for name, shapes in record.inputs.items()}
    return ModelFile(
        Path(ENGINE), _reshape(graph.inputs, shapes), _reshape(graph.outputs, record.outputs)
    )


def profile_refusals(record: EngineRecord) -> Iterator[str]:
    """Batches that Triton may send and the engine does not take, a line for each input."""
    for name, (smallest, _, largest) in record.inputs.items():
        if smallest[0] > 1 or largest[0] < MAX_BATCH:
            yield (
                f"input {name}: built for batches of {smallest[0]} to {largest[0]}, max_batch_size "
                f"is {MAX_BATCH}"
            )


def _engine_dims(smallest: Shape, _: Shape, largest: Shape) -> Shape:
    return tuple(
        low if low == high else VARIES for low, high in zip(smallest, largest, strict=True)
    )


def _reshape(
    tensors: Mapping[str, ModelTensor], shapes: Mapping[str, Shape]
) -> dict[str, ModelTensor]:
    """The tensors in these shapes; one without a type is none of the graph's."""
    return {name: replace(tensors[name], dims=tuple(dims)) for name, dims in shapes.items()}
