"""Graphs for CPUs: sparse co-occurrence, narrow content similarity, weights in INT8."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from deploy.optimize.precision import QUANTISED, quantised_nodes, silence_quantiser
from features.schema import FeatureSchema
from trainer.export.likeness import Widths
from trainer.export.onnx import check_graph, write_graph
from trainer.export.scoring_graph import ScoringGraph, SparseCooccurrence
from trainer.network import Model

# Of MovieLens-100K's 320 and 64: 99.98 % of the best 10 are the same. With 96 and 32 96.7 % are.
WIDTHS = Widths(alike=128, related=64)


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
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=[QUANTISED],
            nodes_to_quantize=list(quantised_nodes(onnx.load(graph).graph, items)),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    onnx.checker.check_model(onnx.load(path))
