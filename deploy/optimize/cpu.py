"""The graph as a CPU answers it fastest: lists of companions, narrow likeness, weights in INT8."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from features.rows import Layout
from trainer.ensemble import Model
from trainer.export import check, write_graph
from trainer.followers import Lists
from trainer.likeness import Widths
from trainer.recommender import Recommender

# What dynamic quantisation knows: it leaves products with a bias (Gemm) as they are.
QUANTISED = "MatMul"
# In the name of every node of them: as the model calls them.
EVENT_LAYERS = "/layers."
# Of MovieLens-100K's 320 and 64: 99.98 % of the best 10 are the same. With 96 and 32 96.7 % are.
WIDTHS = Widths(alike=128, related=64)


def write_exact(model: Model, layout: Layout, path: Path) -> None:
    """Write a graph that answers as the model does, without what TensorRT asks of a graph.

    Raises:
        ExportError: ONNX Runtime's answers differ from torch's.
    """
    _write(Recommender(model, Lists), layout, path)


def write_narrow(model: Model, layout: Layout, path: Path) -> None:
    """Write such a graph whose items are alike in fewer numbers, which is nearly the same.

    Raises:
        ExportError: ONNX Runtime's answers differ from those of torch with as few.
    """
    _write(Recommender(model, Lists, WIDTHS), layout, path)


def _write(recommender: Recommender, layout: Layout, path: Path) -> None:
    write_graph(recommender.eval(), layout, path)
    check(recommender, layout, path)


def write_int8(graph: Path, items: int, path: Path) -> None:
    """Write a graph with weights in INT8, a scale for each column, where that saves time.

    What meets them is quantised as it comes (dynamic quantisation). Products of a request's own few
    rows stay as they are: they take no time, and they are what quality hangs on.

    Args:
        items: of the model, the unknown one included.
    """
    with _quiet():
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=[QUANTISED],
            nodes_to_quantize=list(_heavy(onnx.load(graph).graph, items)),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    onnx.checker.check_model(onnx.load(path))


def _heavy(graph: onnx.GraphProto, items: int) -> Iterator[str]:
    """Names of the products over every event, and over every item."""
    widths = {weight.name: weight.dims[-1] for weight in graph.initializer}
    for node in graph.node:
        width = widths.get(node.input[1]) if node.op_type == QUANTISED else None
        if width == items or (width and EVENT_LAYERS in node.name):
            yield node.name


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises on standard output and error."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
