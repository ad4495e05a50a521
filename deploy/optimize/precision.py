"""Other precisions of a graph: half and INT8 for TensorRT, INT8 and narrow embeddings for CPUs.

TensorRT's networks are strongly typed: what is to be computed in half precision must be so in the
graph. Times, masks and softmaxes do not fit in half precision; products of learned numbers do. The
casts around each product cost nothing: builders fold them into it, and into the weights. For INT8
the graph gets explicit Q/DQ nodes.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper
from onnxruntime import quantization

from deploy.optimize.settings import MatmulPrecision
from features.schema import FeatureSchema
from trainer.evaluation import split_feeds
from trainer.export import Arrays, ScoringGraph
from trainer.export.onnx import check_graph, write_graph
from trainer.export.scoring_graph import SparseCooccurrence, Widths
from trainer.network import Model

PRODUCTS = ("MatMul", "Gemm")
_TYPES = {
    MatmulPrecision.FLOAT16: TensorProto.FLOAT16,
    MatmulPrecision.BFLOAT16: TensorProto.BFLOAT16,
    # Of the products that are not in INT8 already.
    MatmulPrecision.INT8: TensorProto.FLOAT16,
}
# Of MovieLens-100K's 320 and 64: 99.98 % of the best 10 are the same. With 96 and 32 96.7 % are.
WIDTHS = Widths(alike=128, related=64)


def with_products_in(graph: onnx.ModelProto, products: MatmulPrecision) -> onnx.ModelProto:
    """The same graph with its matrix products in this precision; inputs and outputs stay."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    if products is not MatmulPrecision.FLOAT32:
        quantised = {
            node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
        }
        nodes = [
            each
            for node in graph.graph.node
            for each in (
                _cast_product(node, _TYPES[products])
                if node.op_type in PRODUCTS and quantised.isdisjoint(node.input)
                else [node]
            )
        ]
        del changed.graph.node[:]
        changed.graph.node.extend(nodes)
    return changed


def _cast_product(node: NodeProto, kind: int) -> Iterator[NodeProto]:
    """The product with a cast before each of its inputs and one after it."""
    half = NodeProto()
    half.CopyFrom(node)
    name = node.output[0]
    for index, source in enumerate(node.input):
        half.input[index] = f"{name}.half.{index}"
        yield helper.make_node("Cast", [source], [half.input[index]], to=kind)
    half.output[0] = f"{name}.half"
    yield half
    yield helper.make_node("Cast", [half.output[0]], [name], to=TensorProto.FLOAT)


# The operator that the quantisers know: they leave products with a bias (Gemm) as they are.
QUANTISED = "MatMul"
# In the names of their nodes: the model's own name for its layers.
EVENT_LAYERS = "/layers."
_CALIBRATION_BATCH = 16
# TensorRT knows no zero points, and wants weights as they are behind the Q/DQ nodes.
_AS_TENSORRT_WANTS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "MatMulConstBOnly": True,
    "OpTypesToExcludeOutputQuantization": [QUANTISED],
}


@dataclass(frozen=True)
class CalibrationSet:
    """Requests from which the ranges of INT8 are taken.

    Attributes:
        items: of the model, the unknown one included.
        feeds: the graph's inputs by name.
    """

    items: int
    feeds: Arrays


def with_explicit_int8(graph: Path, calibration: CalibrationSet) -> onnx.ModelProto:
    """The graph with Q/DQ nodes around the products that INT8 saves time for.

    One scale for each column of the weights, one for all activations.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-int8-") as folder, silence_quantiser():
        written = Path(folder) / graph.name
        quantization.quantize_static(
            graph,
            written,
            _CalibrationReader(calibration.feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[QUANTISED],
            nodes_to_quantize=list(quantised_nodes(onnx.load(graph).graph, calibration.items)),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options=_AS_TENSORRT_WANTS,
        )
        return onnx.load(written)


def quantised_nodes(graph: onnx.GraphProto, items: int) -> Iterator[str]:
    """Names of the products over every event, and over every item."""
    widths = {weight.name: weight.dims[-1] for weight in graph.initializer}
    for node in graph.node:
        width = widths.get(node.input[1]) if node.op_type == QUANTISED else None
        if width == items or (width and EVENT_LAYERS in node.name):
            yield node.name


@contextmanager
def silence_quantiser() -> Iterator[None]:
    """Keep the quantisers' advice out of standard output and error."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


class _CalibrationReader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives the quantiser its calibration requests, some at a time."""

    def __init__(self, feeds: Arrays) -> None:
        self._batches = split_feeds(feeds, _CALIBRATION_BATCH)

    def get_next(self) -> Arrays | None:
        return next(self._batches, None)


def write_exact(model: Model, schema: FeatureSchema, path: Path) -> None:
    """Write a graph that answers as the model does, in operators that CPUs are fast at.

    Raises:
        ExportError: ONNX Runtime's answers differ from torch's.
    """
    _write(ScoringGraph(model, SparseCooccurrence), schema, path)


def write_narrow(model: Model, schema: FeatureSchema, path: Path) -> None:
    """Write such a graph with narrower item embeddings, which answers nearly the same.

    Raises:
        ExportError: ONNX Runtime's answers differ from those of torch with the same widths.
    """
    _write(ScoringGraph(model, SparseCooccurrence, WIDTHS), schema, path)


def _write(recommender: ScoringGraph, schema: FeatureSchema, path: Path) -> None:
    write_graph(recommender.eval(), schema, path)
    check_graph(recommender, schema, path)


def write_int8(graph: Path, items: int, path: Path) -> None:
    """Write a graph with weights in INT8, a scale for each column, where that saves time.

    Activations are quantised at run time (dynamic quantisation). Products over a request's own few
    rows stay in float32: they take no time, and quality depends on them.

    Args:
        items: number of items of the model, with the unknown one.
    """
    with silence_quantiser():
        quantization.quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=[QUANTISED],
            nodes_to_quantize=list(quantised_nodes(onnx.load(graph).graph, items)),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    onnx.checker.check_model(onnx.load(path))
