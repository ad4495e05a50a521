"""What Triton's own backends refuse with strict configuration, told before a version is there.

A server that completes nothing by itself wants every tensor in `config.pbtxt`, with the names,
types and dims of the model file. This tells what it would not take, a line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from features.inputs import Tensor, model_inputs, model_outputs
from features.schema import FeatureSchema
from trainer.export.triton_config import MAX_BATCH, Backend

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
    return ModelFile(path, _held(graph.input), _held(graph.output))


def config_refusals(config: str, model: ModelFile) -> Iterator[str]:
    """Why Triton would not serve a model file with this `config.pbtxt`, a line each.

    Args:
        model: in its place, MODEL/VERSION/FILE.
    """
    try:
        parsed = text_format.Parse(config, ModelConfig())
    except text_format.ParseError as error:
        yield f"config.pbtxt: {error}"
        return
    yield from _of_place(parsed, model.path)
    yield from _of_backend(parsed)
    yield from _of_tensors("input", parsed.input, model.inputs, parsed.max_batch_size)
    yield from _of_tensors("output", parsed.output, model.outputs, parsed.max_batch_size)
    if not parsed.HasField("version_policy"):
        yield "version_policy: none: Triton would serve the newest version by itself"


def tensor_refusals(config: str, schema: FeatureSchema) -> Iterator[str]:
    """What a `config.pbtxt` says otherwise of tensors than models of a schema have, a line each."""
    try:
        parsed = text_format.Parse(config, ModelConfig())
    except text_format.ParseError as error:
        yield f"config.pbtxt: {error}"
        return
    yield from _of_tensors("input", parsed.input, _declared(model_inputs(schema)), MAX_BATCH)
    yield from _of_tensors("output", parsed.output, _declared(model_outputs(schema)), MAX_BATCH)


def _declared(tensors: Sequence[Tensor]) -> dict[str, ModelTensor]:
    return {
        one.name: ModelTensor(DataType.Value(f"TYPE_{one.triton_type}"), (VARIES, *one.shape))
        for one in tensors
    }


def _of_place(config: ModelConfig, path: Path) -> Iterator[str]:
    folder = path.parent.parent.name
    if config.name != folder:
        yield f"name: {config.name!r}, but its folder is {folder!r}"
    if config.default_model_filename != path.name:
        yield f"default_model_filename: {config.default_model_filename!r}, there is {path.name!r}"


def _of_backend(config: ModelConfig) -> Iterator[str]:
    if config.backend not in list(Backend):
        yield f"backend: {config.backend!r}, not one of {', '.join(Backend)}"
    gpu = any(one.kind == ModelInstanceGroup.KIND_GPU for one in config.instance_group)
    if config.backend == Backend.TENSORRT and not gpu:
        yield "instance_group: TensorRT runs on a GPU only: kind has to be KIND_GPU"
    if config.max_batch_size < 1:
        yield f"max_batch_size: {config.max_batch_size}: requests would not be joined"


def _of_tensors(
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


def _held(tensors: Sequence[onnx.ValueInfoProto]) -> dict[str, ModelTensor]:
    found = {}
    for one in tensors:
        kind = one.type.tensor_type
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else VARIES for dim in kind.shape.dim
        )
        found[one.name] = ModelTensor(_TYPES.get(kind.elem_type, DataType.TYPE_INVALID), dims)
    return found
