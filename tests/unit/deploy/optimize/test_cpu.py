"""Forms for CPUs: INT8 where it saves time, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy.optimize.precision import write_int8, write_narrow
from features.schema import FeatureSchema
from tests.unit.deploy.optimize.conftest import ITEMS
from trainer.export import answers, open_session, sample_inputs
from trainer.network import TemporalModel


@pytest.fixture(scope="module")
def int8(
    model: TemporalModel, schema: FeatureSchema, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("cpu")
    write_narrow(model, schema, folder / "narrow.onnx")
    write_int8(folder / "narrow.onnx", ITEMS, folder / "int8.onnx")
    return folder / "int8.onnx"


def test_products_over_events_and_items_are_in_int8_and_no_others(int8: Path) -> None:
    """Query, key and value, together, of two event layers, and what items are like."""
    kinds = [node.op_type for node in onnx.load(int8).graph.node]
    assert kinds.count("MatMulInteger") == 3
    assert kinds.count("MatMul") > 20


def test_int8_answers_nearly_as_the_graph_does(
    int8: Path, graph: Path, schema: FeatureSchema
) -> None:
    feeds = sample_inputs(ITEMS, schema, 64)
    expected, found = answers(open_session(graph), feeds), answers(open_session(int8), feeds)
    assert [one.shape for one in found.values()] == [one.shape for one in expected.values()]
    apart = np.abs(expected["candidate_scores"] - found["candidate_scores"])
    scale = expected["top_scores"][:, 0] - expected["top_scores"][:, -1]
    assert 0 < np.median(apart) < 0.1 * np.median(scale)
