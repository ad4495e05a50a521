"""A graph whose matrix products are in half precision, and nothing else.

TensorRT's networks are strongly typed: what is to be computed in half precision must be so in the
graph. Times, masks and softmaxes do not fit in half precision; products of learned numbers do. The
casts around each product cost nothing: builders fold them into it, and into the weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto, helper

from deploy.optimize.settings import Products

PRODUCTS = ("MatMul", "Gemm")
_TYPES = {
    Products.FLOAT16: TensorProto.FLOAT16,
    Products.BFLOAT16: TensorProto.BFLOAT16,
    # Of what is not in INT8 already.
    Products.INT8: TensorProto.FLOAT16,
}


def with_products_in(graph: onnx.ModelProto, products: Products) -> onnx.ModelProto:
    """The same graph with its matrix products in this precision; inputs and outputs stay."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    if products is not Products.FLOAT32:
        quantised = {
            node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
        }
        nodes = [
            each
            for node in graph.graph.node
            for each in (
                _around(node, _TYPES[products])
                if node.op_type in PRODUCTS and quantised.isdisjoint(node.input)
                else [node]
            )
        ]
        del changed.graph.node[:]
        changed.graph.node.extend(nodes)
    return changed


def _around(node: NodeProto, kind: int) -> Iterator[NodeProto]:
    """The product with a cast before each of its inputs and one after it."""
    half = NodeProto()
    half.CopyFrom(node)
    name = node.output[0]
    for at, source in enumerate(node.input):
        half.input[at] = f"{name}.half.{at}"
        yield helper.make_node("Cast", [source], [half.input[at]], to=kind)
    half.output[0] = f"{name}.half"
    yield half
    yield helper.make_node("Cast", [half.output[0]], [name], to=TensorProto.FLOAT)
