"""The exported graph: as torch, and right where histories, lists and the catalogue are empty."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from features.inputs import TOP_ITEMS, graph_outputs, model_inputs
from features.schema import PADDING, UNKNOWN, FeatureSchema
from tests.harness.models import every_part
from trainer.export import (
    Arrays,
    ExportError,
    ScoringGraph,
    answers,
    export,
    open_session,
    sample_inputs,
)
from trainer.export.onnx import check_graph, differences, torch_answers, write_graph
from trainer.export.scoring_graph import SparseCooccurrence
from trainer.network import LOWEST, Architecture, TemporalModel

ITEMS = 130
HISTORY = 8
OF_EVENTS = ("item_indices", "event_types", "event_times_ms")


@pytest.fixture(scope="module")
def path(
    model: TemporalModel, schema: FeatureSchema, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export(model, schema, path)
    return path


@pytest.fixture(scope="module")
def session(path: Path) -> onnxruntime.InferenceSession:
    return open_session(path)


@pytest.fixture
def feeds(schema: FeatureSchema) -> Arrays:
    return sample_inputs(ITEMS, schema, 5)


def test_the_graph_has_the_names_and_types_of_the_contract(
    session: onnxruntime.InferenceSession, schema: FeatureSchema
) -> None:
    kinds = {np.int64: "tensor(int64)", np.float32: "tensor(float)"}
    for nodes, tensors in (
        (session.get_inputs(), model_inputs(schema)),
        (session.get_outputs(), graph_outputs(schema)),
    ):
        assert [node.name for node in nodes] == [tensor.name for tensor in tensors]
        assert [node.type for node in nodes] == [kinds[tensor.dtype] for tensor in tensors]
        for node, tensor in zip(nodes, tensors, strict=True):
            assert node.shape[0] == "batch"
            assert [-1 if isinstance(one, str) else one for one in node.shape[1:]] == list(
                tensor.shape
            )


def test_a_graph_with_other_weights_is_refused(
    model: TemporalModel, schema: FeatureSchema, path: Path
) -> None:
    other = TemporalModel(model.architecture).eval()
    with pytest.raises(ExportError, match="not as trained"):
        check_graph(ScoringGraph(other), schema, path)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_the_graph_answers_as_torch_does(
    session: onnxruntime.InferenceSession, model: TemporalModel, schema: FeatureSchema, batch: int
) -> None:
    feeds = sample_inputs(ITEMS, schema, batch, excluded=5)
    found, expected = answers(session, feeds), torch_answers(ScoringGraph(model), schema, feeds)
    for name in ("top_scores", "candidate_scores", "trend_weights"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-3)
    # Two items may be as good as each other; no other item is among the best.
    assert not list(differences(expected, found))
    best, last = expected["top_items"], expected["top_scores"][:, -1:]
    for row in range(batch):
        other = set(best[row]) ^ set(found["top_items"][row])
        assert len(other) <= 2
        at = np.isin(best[row], list(other))
        assert (expected["top_scores"][row][at] - last[row] < 1e-3).all()


@pytest.mark.parametrize("part", ["neighbours", "factors", "described", "texts"])
def test_every_part_of_the_model_is_in_the_graph(
    session: onnxruntime.InferenceSession, model: TemporalModel, schema: FeatureSchema, part: str
) -> None:
    feeds = sample_inputs(ITEMS, schema, 7)
    other = copy.deepcopy(model)
    held = getattr(other, part)
    held.copy_(held.flip(0))
    found = answers(session, feeds)["candidate_scores"]
    changed = torch_answers(ScoringGraph(other), schema, feeds)["candidate_scores"]
    assert np.abs(found - changed)[1:].max() > 0.05


@pytest.mark.parametrize("length", [1, 3, HISTORY - 1])
def test_a_short_history_is_a_padded_long_one(
    session: onnxruntime.InferenceSession, schema: FeatureSchema, length: int
) -> None:
    feeds = sample_inputs(ITEMS, schema, 7)
    short = dict(feeds)
    for name in OF_EVENTS:
        feeds[name] = feeds[name].copy()
        feeds[name][:, :-length] = 0
        short[name] = feeds[name][:, -length:]
    found, expected = answers(session, short), answers(session, feeds)
    np.testing.assert_allclose(found["top_scores"], expected["top_scores"], atol=1e-3)
    np.testing.assert_allclose(found["candidate_scores"], expected["candidate_scores"], atol=1e-3)
    some = expected["candidate_explained_by"] >= 0
    np.testing.assert_array_equal(
        found["candidate_explained_by"][some] + HISTORY - length,
        expected["candidate_explained_by"][some],
    )


def test_a_history_of_unknown_items_gets_defined_answers(
    session: onnxruntime.InferenceSession, feeds: Arrays
) -> None:
    feeds["item_indices"] = np.where(feeds["item_indices"] > 0, UNKNOWN, PADDING)
    found = answers(session, feeds)
    for name in ("top_scores", "candidate_scores", "trend_weights"):
        assert np.isfinite(found[name]).all()
    assert (found["top_items"] != UNKNOWN).all()


@pytest.mark.parametrize("clock", ["request before all", "descending", "all equal", "at zero"])
def test_clocks_that_run_backwards_get_defined_answers(
    session: onnxruntime.InferenceSession,
    model: TemporalModel,
    schema: FeatureSchema,
    feeds: Arrays,
    clock: str,
) -> None:
    times = feeds["event_times_ms"]
    there = feeds["item_indices"] > 0
    if clock == "request before all":
        feeds["request_time_ms"] = np.full((5, 1), 1000)
    elif clock == "descending":
        feeds["event_times_ms"] = times[:, ::-1].max(1, keepdims=True) - times * there
    elif clock == "all equal":
        feeds["event_times_ms"] = there * feeds["request_time_ms"]
    else:
        feeds["event_times_ms"] = np.zeros_like(times)
    found, expected = answers(session, feeds), torch_answers(ScoringGraph(model), schema, feeds)
    assert not list(differences(expected, found))
    for name in ("top_scores", "candidate_scores", "trend_weights"):
        assert np.isfinite(found[name]).all()
    assert (found["top_scores"][:, 0] > LOWEST / 2).all()


@pytest.mark.parametrize("part", ["alike", "related", "neighbours", "text", "time", "decay"])
def test_a_model_without_a_part_is_exported(
    shape: Architecture, schema: FeatureSchema, tmp_path: Path, part: str
) -> None:
    """The graph has the same inputs and outputs, and answers as torch does."""
    export(every_part(Architecture(**{**vars(shape), part: 0})), schema, tmp_path / "without.onnx")
    nodes = open_session(tmp_path / "without.onnx").get_inputs()
    assert [node.name for node in nodes] == [tensor.name for tensor in model_inputs(schema)]


def test_no_scatter_adds_up(path: Path) -> None:
    """TensorRT builds none that does."""
    for node in onnx.load(path).graph.node:
        if node.op_type.startswith("Scatter"):
            kinds = [a.s for a in node.attribute if a.name == "reduction"]
            assert kinds in ([], [b"none"])


@pytest.mark.parametrize("batch", [1, 7])
def test_empty_histories_get_finite_answers_without_an_explanation(
    session: onnxruntime.InferenceSession, schema: FeatureSchema, batch: int
) -> None:
    feeds = sample_inputs(ITEMS, schema, batch)
    for name in ("item_indices", "event_types", "event_times_ms"):
        feeds[name] = np.zeros((batch, 1), np.int64)
    found = answers(session, feeds)
    assert np.isfinite(found["top_scores"]).all()
    assert np.isfinite(found["trend_weights"]).all()
    assert (found["top_explained_by"] == -1).all()
    assert (found["candidate_explained_by"] == -1).all()


def test_lists_may_be_empty(session: onnxruntime.InferenceSession, feeds: Arrays) -> None:
    whole = answers(session, feeds)
    feeds["candidate_items"] = np.zeros((5, 0), np.int64)
    without = answers(session, feeds)
    assert without["candidate_scores"].shape == (5, 0)
    assert without["candidate_explained_by"].shape == (5, 0)
    np.testing.assert_array_equal(without["top_items"], whole["top_items"])
    feeds["excluded_items"] = np.zeros((5, 0), np.int64)
    assert (answers(session, feeds)["top_items"] > 1).all()


def test_what_is_excluded_is_never_recommended(
    session: onnxruntime.InferenceSession, feeds: Arrays
) -> None:
    feeds["excluded_items"][:, :5] = 0
    first = answers(session, feeds)["top_items"]
    feeds["excluded_items"] = np.concatenate([feeds["excluded_items"], first[:, :10]], 1)
    second = answers(session, feeds)
    for row in range(5):
        assert not set(second["top_items"][row]) & set(feeds["excluded_items"][row]) - {0}
        assert not set(second["top_items"][row]) & {1}
    kept = second["top_scores"] > LOWEST / 2
    assert ((second["top_items"] == 0) == ~kept).all()
    # 130 rows without padding, the unknown item and up to 50 excluded do not fill 100 places.
    assert (~kept).any()


def test_candidates_are_scored_whatever_is_excluded(
    session: onnxruntime.InferenceSession, feeds: Arrays
) -> None:
    feeds["excluded_items"] = np.zeros((5, 0), np.int64)
    found = answers(session, feeds)
    feeds["candidate_items"] = np.concatenate(
        [found["top_items"][:, :3], np.tile([0, 1], (5, 1))], 1
    )
    feeds["excluded_items"] = found["top_items"][:, :3]
    again = answers(session, feeds)
    np.testing.assert_allclose(again["candidate_scores"][:, :3], found["top_scores"][:, :3], 1e-5)
    np.testing.assert_array_equal(
        again["candidate_explained_by"][:, :3], found["top_explained_by"][:, :3]
    )
    assert (again["candidate_scores"][:, 3:] < LOWEST / 2).all()


def test_an_explanation_is_a_real_event(
    session: onnxruntime.InferenceSession, feeds: Arrays
) -> None:
    found = answers(session, feeds)
    has_history = feeds["item_indices"][:, -1] > 0
    assert has_history.tolist() == [False, True, True, True, True]
    for name in ("top_explained_by", "candidate_explained_by"):
        explained = np.take_along_axis(feeds["item_indices"], np.maximum(found[name], 0), 1)
        assert (explained[has_history] > 0).all()
        assert (found[name][~has_history] == -1).all()


def test_an_item_is_explained_by_an_equal_one_in_the_history(
    shape: Architecture, schema: FeatureSchema
) -> None:
    """Where items are alike to none but themselves, and nothing else is known of them."""
    model = every_part(replace(shape, alike=8, text=0, identity=False, related=0, neighbours=0))
    items = np.array([[10, 20, 30, 40, 50, 60, 70, 80]])
    model.described.zero_()
    model.described[items[0], range(8)] = 3.0
    torch.nn.init.ones_(model.alike_scales)
    feeds = sample_inputs(ITEMS, schema, 1, excluded=0)
    feeds |= {"item_indices": items, "candidate_items": items}
    found = torch_answers(ScoringGraph(model), schema, feeds)
    assert found["candidate_explained_by"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_only_the_newest_events_of_a_longer_history_are_read(
    session: onnxruntime.InferenceSession, feeds: Arrays
) -> None:
    expected = answers(session, feeds)
    for name in ("item_indices", "event_types", "event_times_ms"):
        feeds[name] = np.pad(feeds[name], ((0, 0), (3, 0)), constant_values=1)
    found = answers(session, feeds)
    some = expected["top_explained_by"] >= 0
    assert (found["top_explained_by"][some] == expected["top_explained_by"][some] + 3).all()
    np.testing.assert_allclose(found["top_scores"], expected["top_scores"], 1e-4)


def test_a_catalogue_smaller_than_the_list_is_filled_with_padding(
    schema: FeatureSchema, tmp_path: Path, model: TemporalModel
) -> None:
    shape = Architecture(**{**vars(model.architecture), "items": 12})
    torch.manual_seed(1)
    export(TemporalModel(shape).eval(), schema, tmp_path / "few.onnx")
    feeds = sample_inputs(12, schema, 2, excluded=0)
    found = answers(open_session(tmp_path / "few.onnx"), feeds)
    assert found["top_items"].shape == (2, TOP_ITEMS)
    assert [sorted(set(row)) for row in found["top_items"].tolist()] == [[0, *range(2, 12)]] * 2


def test_a_swap_of_equals_is_no_difference_but_another_item_is() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0, 0.5]], np.float32)
    answer: Arrays = {
        "top_items": np.array([[5, 6, 7, 8, 9]]),
        "top_scores": scores,
        "top_explained_by": np.zeros((1, 5), np.int64),
        "candidate_scores": np.zeros((1, 0), np.float32),
        "candidate_explained_by": np.zeros((1, 0), np.int64),
        "trend_weights": np.zeros((1, 3), np.float32),
    }
    assert not list(differences(answer, answer | {"top_items": np.array([[5, 7, 6, 8, 9]])}))
    for name, other in (
        ("top_items", np.array([[6, 5, 7, 8, 9]])),
        ("top_scores", scores + np.float32(1e-3)),
        ("top_scores", scores * np.float32(np.nan)),
        ("trend_weights", np.ones((1, 3), np.float32)),
        ("trend_weights", np.zeros((1, 3), np.float64)),
        ("top_explained_by", np.ones((1, 5), np.int64)),
        ("candidate_scores", np.zeros((1, 1), np.float32)),
    ):
        assert [name in line for line in differences(answer, answer | {name: other})] == [True]


def test_lists_of_companions_answer_as_rows_do(
    model: TemporalModel, schema: FeatureSchema, tmp_path: Path
) -> None:
    """Also where candidates repeat each other, and what is on top."""
    recommender = ScoringGraph(model, SparseCooccurrence).eval()
    write_graph(recommender, schema, tmp_path / "lists.onnx")
    check_graph(recommender, schema, tmp_path / "lists.onnx")
    feeds = sample_inputs(ITEMS, schema, 7)
    feeds["candidate_items"][:, :4] = feeds["candidate_items"][:, 4:5]
    feeds["candidate_items"][:, 5:7] = torch_answers(recommender, schema, feeds)["top_items"][:, :2]
    expected = torch_answers(ScoringGraph(model), schema, feeds)
    assert not list(differences(expected, torch_answers(recommender, schema, feeds)))
    assert not list(differences(expected, answers(open_session(tmp_path / "lists.onnx"), feeds)))
