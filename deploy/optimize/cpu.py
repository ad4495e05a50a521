"""The graph as a CPU answers it fastest: lists of companions, and products of weights in INT8."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from deploy.optimize.products import PRODUCTS
from features.rows import Layout
from trainer.ensemble import Model
from trainer.export import check, write_graph
from trainer.followers import Lists
from trainer.recommender import Recommender


def write_exact(model: Model, layout: Layout, path: Path) -> None:
    """Write a graph that answers as the model does, without what TensorRT asks of a graph.

    Raises:
        ExportError: ONNX Runtime's answers differ from torch's.
    """
    recommender = Recommender(model, Lists).eval()
    write_graph(recommender, layout, path)
    check(recommender, layout, path)


def write_int8(exact: Path, path: Path) -> None:
    """Write a graph whose weights are INT8, a scale for each column; what meets them is quantised
    as it comes (dynamic quantisation).
    """
    with _quiet():
        quantize_dynamic(
            exact,
            path,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Products of two things that are worked out keep their range: attention.
            extra_options={"MatMulConstBOnly": True},
        )
    onnx.checker.check_model(onnx.load(path))


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
