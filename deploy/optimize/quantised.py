"""INT8 in a graph: which products it saves time for, and explicit Q/DQ nodes for TensorRT."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from deploy.optimize.questions import portions
from trainer.export.parity import Arrays

# What the quantisers know: they leave products with a bias (Gemm) as they are.
QUANTISED = "MatMul"
# In the name of every node of them: as the model calls them.
EVENT_LAYERS = "/layers."
_CALIBRATED_AT_ONCE = 16
# TensorRT knows no zero points, and wants weights as they are behind the Q/DQ nodes.
_AS_TENSORRT_WANTS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "MatMulConstBOnly": True,
    "OpTypesToExcludeOutputQuantization": [QUANTISED],
}


@dataclass(frozen=True)
class Calibration:
    """What the ranges of INT8 are taken from.

    Attributes:
        items: of the model, the unknown one included.
        feeds: requests, all at once.
    """

    items: int
    feeds: Arrays


def with_explicit_int8(graph: Path, calibration: Calibration) -> onnx.ModelProto:
    """The graph with Q/DQ nodes around the products that INT8 saves time for.

    A scale for each column of the weights, one for all that meets them.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-int8-") as folder, quiet():
        written = Path(folder) / graph.name
        quantize_static(
            graph,
            written,
            _Requests(calibration.feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[QUANTISED],
            nodes_to_quantize=list(heavy(onnx.load(graph).graph, calibration.items)),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=_AS_TENSORRT_WANTS,
        )
        return onnx.load(written)


def heavy(graph: onnx.GraphProto, items: int) -> Iterator[str]:
    """Names of the products over every event, and over every item."""
    widths = {weight.name: weight.dims[-1] for weight in graph.initializer}
    for node in graph.node:
        width = widths.get(node.input[1]) if node.op_type == QUANTISED else None
        if width == items or (width and EVENT_LAYERS in node.name):
            yield node.name


@contextmanager
def quiet() -> Iterator[None]:
    """The quantisers advise on standard output and error."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


class _Requests(CalibrationDataReader):  # type: ignore[misc]
    """Requests, some at a time."""

    def __init__(self, feeds: Arrays) -> None:
        self._parts = portions(feeds, _CALIBRATED_AT_ONCE)

    def get_next(self) -> Arrays | None:
        return next(self._parts, None)
