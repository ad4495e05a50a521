"""Triton's `config.pbtxt`, and whether it fits a model file or a schema.

A server with strict configuration completes nothing by itself: it wants every tensor there, with
the names, types and dims of the model file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from features.inputs import MODEL_NAME, Tensor, graph_outputs, model_inputs, part_outputs
from features.schema import FeatureSchema

MAX_BATCH = 256

_TEXT = """\
# Rendered from features/inputs.py by trainer/export/triton_config.py; a test compares the two.
# Requests are batched only with others of equal lengths: histories stand at the right end.
name: "{name}"
backend: "{backend}"
default_model_filename: "{file}"
max_batch_size: {max_batch}
input [
{inputs}
]
output [
{outputs}
]
instance_group [{{ count: 1, kind: {device} }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
version_policy {{ latest {{ num_versions: 1 }} }}
"""
_THREADS = """\
parameters { key: "intra_op_thread_count", value: { string_value: "1" } }
parameters { key: "inter_op_thread_count", value: { string_value: "1" } }
"""


class Backend(StrEnum):
    """What Triton runs a version with."""

    ONNX_RUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


def render_config(
    schema: FeatureSchema, backend: Backend = Backend.ONNX_RUNTIME, *, parts: bool = True
) -> str:
    """The whole `config.pbtxt` for rows of this schema.

    Args:
        parts: whether the model tells the parts of its scores.
    """
    on_cpu, outputs = backend is Backend.ONNX_RUNTIME, graph_outputs(schema)
    text = _TEXT.format(
        name=MODEL_NAME,
        backend=backend.value,
        file="model.onnx" if on_cpu else "model.plan",
        device="KIND_CPU" if on_cpu else "KIND_GPU",
        max_batch=MAX_BATCH,
        inputs=_tensors(model_inputs(schema)),
        outputs=_tensors(outputs if parts else outputs[: -len(part_outputs())]),
    )
    return text + _THREADS if on_cpu else text


def _tensors(tensors: Sequence[Tensor]) -> str:
    return ",\n".join(
        f'  {{ name: "{one.name}", data_type: TYPE_{one.triton_type}, dims: {list(one.shape)} }}'
        for one in tensors
    )


_TYPES: dict[int, int] = {
    onnx.TensorProto.INT64: DataType.TYPE_INT64,
    onnx.TensorProto.INT32: DataType.TYPE_INT32,
    onnx.TensorProto.FLOAT: DataType.TYPE_FP32,
    onnx.TensorProto.FLOAT16: DataType.TYPE_FP16,
}
VARIES = -1


@dataclass(frozen=True)
class ModelTensor:
    """A tensor of a model file.

    Attributes:
        data_type: as Triton names it.
        dims: the batch first; -1 where they vary.
    """

    data_type: int
    dims: tuple[int, ...]


@dataclass(frozen=True)
class ModelFile:
    """A model file, and what goes in and comes out."""

    path: Path
    inputs: Mapping[str, ModelTensor]
    outputs: Mapping[str, ModelTensor]


def graph_file(path: Path) -> ModelFile:
    """An ONNX graph."""
    graph = onnx.load(path, load_external_data=False).graph
    return ModelFile(path, _read_tensors(graph.input), _read_tensors(graph.output))


def config_refusals(config: str, model: ModelFile) -> Iterator[str]:
    """Why Triton would not serve a model file with this `config.pbtxt`, a line each.

    Args:
        model: in its place, MODEL/VERSION/FILE.
    """
    try:
        found = text_format.Parse(config, ModelConfig())
    except text_format.ParseError as error:
        yield f"config.pbtxt: {error}"
        return
    yield from _place_refusals(found, model.path)
    yield from _backend_refusals(found)
    outputs = _as_configured(model.outputs, found.output)
    yield from _tensor_refusals("input", found.input, model.inputs, found.max_batch_size)
    yield from _tensor_refusals("output", found.output, outputs, found.max_batch_size)
    if not found.HasField("version_policy"):
        yield "version_policy: none: Triton would serve the newest version by itself"


def tensor_refusals(config: str, schema: FeatureSchema) -> Iterator[str]:
    """What a `config.pbtxt` says otherwise of tensors than models of a schema have, a line each."""
    try:
        found = text_format.Parse(config, ModelConfig())
    except text_format.ParseError as error:
        yield f"config.pbtxt: {error}"
        return
    yield from _tensor_refusals("input", found.input, _declare(model_inputs(schema)), MAX_BATCH)
    outputs = _as_configured(_declare(graph_outputs(schema)), found.output)
    yield from _tensor_refusals("output", found.output, outputs, MAX_BATCH)


def _as_configured(
    outputs: Mapping[str, ModelTensor], configured: Sequence[Any]
) -> dict[str, ModelTensor]:
    """The outputs, without parts of scores that a `config.pbtxt` of before does not have.

    A server then does not tell them, and all else is as it was.
    """
    left_out = {one.name for one in part_outputs()} - {one.name for one in configured}
    return {name: tensor for name, tensor in outputs.items() if name not in left_out}


def _declare(tensors: Sequence[Tensor]) -> dict[str, ModelTensor]:
    return {
        one.name: ModelTensor(DataType.Value(f"TYPE_{one.triton_type}"), (VARIES, *one.shape))
        for one in tensors
    }


def _place_refusals(config: ModelConfig, path: Path) -> Iterator[str]:
    folder = path.parent.parent.name
    if config.name != folder:
        yield f"name: {config.name!r}, but its folder is {folder!r}"
    if config.default_model_filename != path.name:
        yield f"default_model_filename: {config.default_model_filename!r}, there is {path.name!r}"


def _backend_refusals(config: ModelConfig) -> Iterator[str]:
    if config.backend not in list(Backend):
        yield f"backend: {config.backend!r}, not one of {', '.join(Backend)}"
    gpu = any(one.kind == ModelInstanceGroup.KIND_GPU for one in config.instance_group)
    if config.backend == Backend.TENSORRT and not gpu:
        yield "instance_group: TensorRT runs on a GPU only: kind has to be KIND_GPU"
    if config.max_batch_size < 1:
        yield f"max_batch_size: {config.max_batch_size}: requests would not be joined"


def _tensor_refusals(
    kind: str, configured: Sequence[Any], held: Mapping[str, ModelTensor], max_batch: int
) -> Iterator[str]:
    known = {one.name: one for one in configured}
    for name in sorted(known.keys() ^ held.keys()):
        where = "config.pbtxt" if name in known else "the model"
        yield f"{kind} {name}: in {where} only"
    for name in sorted(known.keys() & held.keys()):
        wanted, own = known[name], held[name]
        if wanted.data_type != own.data_type:
            names = (DataType.Name(one) for one in (wanted.data_type, own.data_type))
            yield "{} {}: {}, in the model {}".format(kind, name, *names)
        dims = ((VARIES,) if max_batch else ()) + tuple(wanted.dims)
        if dims != own.dims:
            yield f"{kind} {name}: dims {list(dims)} with the batch, in the model {list(own.dims)}"


def _read_tensors(tensors: Sequence[onnx.ValueInfoProto]) -> dict[str, ModelTensor]:
    found = {}
    for one in tensors:
        kind = one.type.tensor_type
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else VARIES for dim in kind.shape.dim
        )
        found[one.name] = ModelTensor(_TYPES.get(kind.elem_type, DataType.TYPE_INVALID), dims)
    return found
