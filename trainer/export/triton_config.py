"""Triton's `config.pbtxt` of the model, from the tensors that `features.inputs` defines."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from features.inputs import MODEL_NAME, Tensor, model_inputs, model_outputs
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


def render_config(schema: FeatureSchema, backend: Backend = Backend.ONNX_RUNTIME) -> str:
    """The whole `config.pbtxt` for rows of this schema."""
    on_cpu = backend is Backend.ONNX_RUNTIME
    text = _TEXT.format(
        name=MODEL_NAME,
        backend=backend.value,
        file="model.onnx" if on_cpu else "model.plan",
        device="KIND_CPU" if on_cpu else "KIND_GPU",
        max_batch=MAX_BATCH,
        inputs=_tensors(model_inputs(schema)),
        outputs=_tensors(model_outputs(schema)),
    )
    return text + _THREADS if on_cpu else text


def with_versions(config: str, versions: Sequence[int]) -> str:
    """A `config.pbtxt` as the load call takes it (JSON), with exactly these versions served."""
    parsed = text_format.Parse(config, ModelConfig())
    parsed.version_policy.Clear()
    parsed.version_policy.specific.versions.extend(sorted(versions))
    return str(json_format.MessageToJson(parsed, preserving_proto_field_name=True))


def _tensors(tensors: Sequence[Tensor]) -> str:
    return ",\n".join(
        f'  {{ name: "{one.name}", data_type: TYPE_{one.triton_type}, dims: {list(one.shape)} }}'
        for one in tensors
    )
