"""What the parity gate refuses, and what it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from headwater_client.events import Click

from deploy.optimize import OptimizeSettings
from deploy.optimize.variants import SourceVersion, build_variants, measure_parity
from features.inputs import model_inputs
from features.schema import FIRST_ITEM, FeatureSchema, Vocabulary
from tests.unit.deploy.optimize.conftest import HISTORY, ITEMS
from trainer.datasets import Log
from trainer.evaluation import EvalRequests, sample_requests
from trainer.export import Arrays, answers, open_session, sample_inputs
from trainer.network import TemporalModel


@pytest.fixture
def asked(schema: FeatureSchema) -> EvalRequests:
    targets = np.random.default_rng(1).integers(FIRST_ITEM, ITEMS, 100)
    return EvalRequests(sample_inputs(ITEMS, schema, 100), targets)


def test_a_graph_agrees_with_itself(graph: Path, asked: EvalRequests) -> None:
    session = open_session(graph)
    found = measure_parity(lambda f: answers(session, f), lambda f: answers(session, f), asked)
    assert (found.requests, found.overlap, found.furthest) == (100, 1.0, 0.0)
    assert found.ndcg_ratio == 1.0
    assert not list(found.refusals(OptimizeSettings()))


def test_what_answers_otherwise_is_refused(graph: Path, asked: EvalRequests) -> None:
    session = open_session(graph)

    def reversed_items(feeds: Arrays) -> Arrays:
        found = answers(session, feeds)
        return found | {"top_items": found["top_items"][:, ::-1]}

    def broken_answers(feeds: Arrays) -> Arrays:
        found = answers(session, feeds)
        return found | {"trend_weights": found["trend_weights"] * np.float32(np.nan)}

    found = measure_parity(lambda f: answers(session, f), reversed_items, asked)
    assert any(line.startswith("best 10") for line in found.refusals(OptimizeSettings()))
    found = measure_parity(lambda f: answers(session, f), broken_answers, asked)
    assert [line.split(":")[0] for line in found.refusals(OptimizeSettings())] == ["scores"]


def test_questions_know_nothing_of_their_own_instant(schema: FeatureSchema) -> None:
    def click(number: int, item: str, time_s: int) -> Click:
        return Click(
            event_id=f"e{number}",
            user_id="ann",
            item_id=item,
            timestamp=1_700_000_000_000 + 1000 * time_s,
        )

    vocabulary = Vocabulary(["a", "b", "c", "d"])
    earlier = Log([click(0, "a", 0), click(1, "b", 5)], [])
    later = Log([click(2, "c", 9), click(3, "d", 9), click(4, "a", 12), click(5, "x", 13)], [])
    found = sample_requests(earlier, later, vocabulary, schema, limit=10)
    # "a" was taken before, "x" is unknown.
    assert found.targets.tolist() == [4, 5]
    assert set(found.feeds) == {tensor.name for tensor in model_inputs(schema)}
    for row in range(2):
        assert found.feeds["item_indices"][row].tolist() == [0] * (HISTORY - 2) + [2, 3]
        assert sorted(found.feeds["excluded_items"][row].tolist()) == [2, 3]
    assert found.feeds["request_time_ms"][:, 0].tolist() == [1_700_000_009_000] * 2


def test_forms_are_kept_where_they_agree_and_told_where_not(
    model: TemporalModel, graph: Path, schema: FeatureSchema, asked: EvalRequests, tmp_path: Path
) -> None:
    version = SourceVersion(3, graph.parent, model, schema, asked)
    lax = OptimizeSettings(min_overlap=0.5, max_loss=1.0)
    outcomes = {one.variant: one for one in build_variants(version, tmp_path, lax)}
    kept = outcomes["int8"].folder
    assert kept == tmp_path / "int8" / "temporal_llm" / "3"
    assert sorted(path.name for path in kept.iterdir()) == ["agreement.json", "model.onnx"]
    assert 'backend: "onnxruntime"' in (kept.parent / "config.pbtxt").read_text()
    assert "no GPU" in str(outcomes["tensorrt_rtx"].refusal) or outcomes["tensorrt_rtx"].folder
    strict = OptimizeSettings(min_overlap=1.0, max_loss=0.0)
    (refused, *_) = build_variants(version, tmp_path / "strict", strict)
    assert refused.folder is None
    assert "shared with the graph" in str(refused.refusal)
    (again, *_) = build_variants(version, tmp_path, lax)
    assert "there already" in str(again.refusal)
