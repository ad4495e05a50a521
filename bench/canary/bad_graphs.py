"""Graphs that answer badly: with numbers that are none, or too late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SCORES = "top_scores"
SIDE = 1024


def answers_nan(graph: Path) -> None:
    """Let every score of a graph be NaN."""
    model = onnx.load(graph)
    nan = numpy_helper.from_array(np.array(np.nan, np.float32), "nan")
    model.graph.initializer.append(nan)
    _added_to_scores(model, [], "nan")
    onnx.save(model, graph)


def answers_late(graph: Path, products: int) -> None:
    """Let a graph multiply large matrices first: each product takes tens of milliseconds."""
    model = onnx.load(graph)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros((SIDE, SIDE), np.float32), "zeros"),
            numpy_helper.from_array(np.array(products, np.int64), "products"),
            numpy_helper.from_array(np.array(True), "always"),
        ]
    )
    square = [SIDE, SIDE]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_on"], ["still_going_on"]),
            helper.make_node("MatMul", ["factor", "zeros"], ["product"]),
        ],
        "one_product",
        [
            value("round", TensorProto.INT64, []),
            value("going_on", TensorProto.BOOL, []),
            value("factor", TensorProto.FLOAT, square),
        ],
        [
            value("still_going_on", TensorProto.BOOL, []),
            value("product", TensorProto.FLOAT, square),
        ],
    )
    late = [
        # From an input, or it would be computed once for all.
        helper.make_node("Cast", ["request_time_ms"], ["time"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["time"], ["newest"], keepdims=0),
        helper.make_node("Add", ["zeros", "newest"], ["first"]),
        helper.make_node("Loop", ["products", "always", "first"], ["last"], body=body),
        helper.make_node("ReduceMax", ["last"], ["nothing"], keepdims=0),
    ]
    _added_to_scores(model, late, "nothing")
    onnx.save(model, graph)


def _added_to_scores(model: ModelProto, nodes: list[NodeProto], term: str) -> None:
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == SCORES:
                node.output[place] = "good_scores"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["good_scores", term], [SCORES])])
