"""Engines are built for real, by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from headwater_client.errors import DataError
from onnx import numpy_helper

from deploy.optimize import BuildError, EngineUnavailableError, MatmulPrecision, OptimizeSettings
from deploy.optimize.precision import (
    PRODUCTS,
    CalibrationSet,
    with_explicit_int8,
    with_products_in,
    write_exact,
)
from deploy.optimize.runtime import (
    ENGINE,
    EngineRecord,
    EngineSpec,
    RunningEngine,
    TensorRTPackage,
    build_engine,
    engine_file,
    load_package,
    profile_refusals,
    read_record,
    record_path,
    shape_profiles,
)
from features.inputs import graph_outputs, model_inputs
from features.schema import FeatureSchema
from tests.unit.deploy.optimize.conftest import HISTORY, ITEMS
from trainer.disk import sha256
from trainer.export import answers, open_session, sample_inputs
from trainer.export.triton_config import (
    MAX_BATCH,
    Backend,
    config_refusals,
    graph_file,
    render_config,
)
from trainer.network import TemporalModel

KIND = TensorRTPackage.TENSORRT_RTX
SETTINGS = OptimizeSettings()


@pytest.fixture(scope="module")
def calibration(schema: FeatureSchema) -> CalibrationSet:
    return CalibrationSet(ITEMS, sample_inputs(ITEMS, schema, 40))


@pytest.fixture(scope="module")
def built(
    graph: Path,
    schema: FeatureSchema,
    calibration: CalibrationSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, EngineRecord]:
    engine = tmp_path_factory.mktemp("engine") / ENGINE
    return engine, build_engine(graph, engine, EngineSpec(KIND, schema, SETTINGS, calibration))


def test_an_engine_has_the_inputs_and_outputs_of_the_contract(
    built: tuple[Path, EngineRecord], schema: FeatureSchema
) -> None:
    _, record = built
    assert list(record.inputs) == [tensor.name for tensor in model_inputs(schema)]
    assert record.outputs == {one.name: (-1, *one.shape) for one in graph_outputs(schema)}


def test_an_engine_is_built_for_every_batch_and_history(
    built: tuple[Path, EngineRecord], schema: FeatureSchema
) -> None:
    _, record = built
    for name, (smallest, _, largest) in record.inputs.items():
        assert smallest[0] == 1, name
        assert largest[0] == MAX_BATCH, name
    assert record.inputs["item_indices"][0][1] == 1
    assert record.inputs["item_indices"][2][1] == HISTORY
    shapes = shape_profiles(schema, SETTINGS)
    for batch in (1, 7, 256):
        for name, array in sample_inputs(ITEMS, schema, batch).items():
            assert shapes[name].accepts(array.shape), name
    assert not shapes["item_indices"].accepts((257, HISTORY))
    assert not shapes["item_indices"].accepts((256, HISTORY + 1))


def test_an_engine_is_what_triton_is_told_of_it(
    built: tuple[Path, EngineRecord], graph: Path, schema: FeatureSchema
) -> None:
    _, record = built
    engine = engine_file(record, graph_file(graph))
    placed = replace(engine, path=Path("temporal_llm/7") / ENGINE)
    assert list(config_refusals(render_config(schema, Backend.TENSORRT), placed)) == []
    assert list(profile_refusals(record)) == []
    few = {
        name: (low, usual, (64, *high[1:])) for name, (low, usual, high) in record.inputs.items()
    }
    refused = list(profile_refusals(msgspec.structs.replace(record, inputs=few)))
    assert refused[0] == "input item_indices: built for batches of 1 to 64, max_batch_size is 256"


def test_a_record_says_what_an_engine_is_of(built: tuple[Path, EngineRecord], graph: Path) -> None:
    engine, record = built
    assert engine.stat().st_size > 10_000
    assert read_record(engine) == record
    assert record.graph_sha256 == sha256(graph)
    assert (record.kind, record.version) == (KIND, load_package(KIND).__version__)
    assert record.products == MatmulPrecision.FLOAT16


@pytest.mark.parametrize("products", list(MatmulPrecision))
def test_each_precision_is_built(
    graph: Path,
    schema: FeatureSchema,
    calibration: CalibrationSet,
    tmp_path: Path,
    products: MatmulPrecision,
) -> None:
    settings = OptimizeSettings(products=products)
    spec = EngineSpec(KIND, schema, settings, calibration, tmp_path / "cache")
    record = build_engine(graph, tmp_path / ENGINE, spec)
    assert record.products == products


def test_an_operator_that_is_not_supported_is_named(
    model: TemporalModel, schema: FeatureSchema, calibration: CalibrationSet, tmp_path: Path
) -> None:
    """The graph for CPUs has a scatter with a sum."""
    write_exact(model, schema, tmp_path / "cpu.onnx")
    with pytest.raises(BuildError, match="ScatterElements") as raised:
        build_engine(
            tmp_path / "cpu.onnx",
            tmp_path / ENGINE,
            EngineSpec(KIND, schema, SETTINGS, calibration),
        )
    assert "\n" not in str(raised.value)
    assert not (tmp_path / ENGINE).exists()


def test_a_tensorrt_that_is_not_installed_is_named(
    graph: Path, schema: FeatureSchema, calibration: CalibrationSet, tmp_path: Path
) -> None:
    spec = EngineSpec(TensorRTPackage.TENSORRT, schema, SETTINGS, calibration)
    with pytest.raises(EngineUnavailableError, match="tensorrt is not installed"):
        build_engine(graph, tmp_path / ENGINE, spec)


def test_an_engine_of_another_version_is_refused(built: tuple[Path, EngineRecord]) -> None:
    engine, _ = built
    text = record_path(engine).read_text()
    try:
        record_path(engine).write_text(text.replace(load_package(KIND).__version__, "0.9"))
        with pytest.raises(EngineUnavailableError, match=r"built by tensorrt_rtx 0\.9"):
            RunningEngine(engine)
        record_path(engine).write_text("{}")
        with pytest.raises(DataError, match="no record of an engine"):
            RunningEngine(engine)
    finally:
        record_path(engine).write_text(text)


def test_products_in_half_precision_leave_everything_else(
    graph: Path, schema: FeatureSchema
) -> None:
    whole = onnx.load(graph)
    half = with_products_in(whole, MatmulPrecision.FLOAT16)
    onnx.checker.check_model(half)
    kinds = [node.op_type for node in half.graph.node if node.op_type != "Cast"]
    assert kinds == [node.op_type for node in whole.graph.node if node.op_type != "Cast"]
    assert sum(kind in PRODUCTS for kind in kinds) > 20
    session = onnxruntime.InferenceSession(
        half.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = sample_inputs(ITEMS, schema, 7)
    expected, found = answers(open_session(graph), feeds), answers(session, feeds)
    furthest = np.abs(expected["candidate_scores"] - found["candidate_scores"]).max()
    assert 0 < furthest < 0.1


def test_int8_has_explicit_nodes_and_the_rest_is_in_half_precision(
    graph: Path, schema: FeatureSchema, calibration: CalibrationSet
) -> None:
    """Around the products of two event layers, of what items are alike by, and of nothing else."""
    whole = with_products_in(with_explicit_int8(graph, calibration), MatmulPrecision.INT8)
    onnx.checker.check_model(whole)
    kinds = [node.op_type for node in whole.graph.node]
    assert kinds.count("QuantizeLinear") == 2 * 3
    assert kinds.count("DequantizeLinear") == 2 * 3
    zero_points = {node.input[2] for node in whole.graph.node if node.op_type == "QuantizeLinear"}
    values = {one.name: numpy_helper.to_array(one) for one in whole.graph.initializer}
    assert not any(values[name].any() for name in zero_points)
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = sample_inputs(ITEMS, schema, 64)
    expected, found = answers(open_session(graph), feeds), answers(session, feeds)
    apart = np.abs(expected["candidate_scores"] - found["candidate_scores"])
    scale = expected["top_scores"][:, 0] - expected["top_scores"][:, -1]
    assert 0 < np.median(apart) < 0.1 * np.median(scale)
