"""Real small models at the gate: what each check is for is stopped, and a fair one passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.schema import FIRST_ITEM, FeatureSchema, Vocabulary
from trainer.evaluation import HoldoutSet
from trainer.evaluation.evaluate import merge_vocabularies
from trainer.examples import Examples, ItemTrends
from trainer.export import ExportError, ScoringGraph, export
from trainer.export.onnx import write_graph
from trainer.gate import Verdict, verdict
from trainer.gate.measure import JudgedVersion, growth, measure
from trainer.network import PARTS, TemporalModel, TrainedModel, TrainingOutcome
from trainer.settings import GateSettings

# Whoever else works on the machine: a test fails by no time but the one that it is about.
SETTINGS = GateSettings(max_latency_ms=60_000, max_slowdown=1000)
OF_THE_LOG = slice(FIRST_ITEM, FIRST_ITEM + 40)

Change = Callable[[TemporalModel], None]


def trained(model: TemporalModel, vocabulary: Vocabulary) -> TrainedModel:
    return TrainedModel(model, vocabulary, TrainingOutcome(epoch=1, held_out=0.1, seconds=1.0))


@pytest.fixture(scope="module")
def live(
    model: TemporalModel,
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    tmp_path_factory: pytest.TempPathFactory,
) -> JudgedVersion:
    """A version that knows which items people take."""
    knowing = copy.deepcopy(model)
    with torch.no_grad():
        knowing.learned.fill_(True)
        knowing.item_bias[OF_THE_LOG] += 8
    graph = tmp_path_factory.mktemp("live") / "model.onnx"
    export(knowing, schema, graph)
    return JudgedVersion(7, trained(knowing, vocabulary), graph)


@pytest.fixture(scope="module")
def held(columns: Examples, trended: ItemTrends, vocabulary: Vocabulary) -> HoldoutSet:
    """The second half of the log."""
    later = columns.times_ms >= np.median(columns.times_ms)
    return HoldoutSet(columns, later, trended, vocabulary)


@pytest.fixture
def judge(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema, tmp_path: Path
) -> Callable[[Change], Verdict]:
    """The verdict on the live version, changed."""

    def judged(change: Change) -> Verdict:
        model = copy.deepcopy(live.trained.model)
        with torch.no_grad():
            change(model)
        candidate = export_version(model, live.trained.vocabulary, schema, tmp_path)
        return verdict(measure(candidate, live, held, schema), SETTINGS)

    return judged


def export_version(
    model: TemporalModel, vocabulary: Vocabulary, schema: FeatureSchema, folder: Path
) -> JudgedVersion:
    graph = folder / "model.onnx"
    try:
        export(model, schema, graph)
    except ExportError:
        return JudgedVersion(8, trained(model, vocabulary), None)
    return JudgedVersion(8, trained(model, vocabulary), graph)


def failed_checks(found: Verdict) -> set[str]:
    return {check.name for check in found.checks if not check.passed}


def a_step(model: TemporalModel) -> None:
    """As fine-tuning would change it."""
    torch.manual_seed(1)
    for weight in model.parameters():
        weight.add_(0.003 * torch.randn_like(weight))


def test_a_fair_candidate_passes(judge: Callable[[Change], Verdict]) -> None:
    found = judge(a_step)
    assert found.refusals == []
    assert found.passed
    assert (found.version, found.live) == (8, 7)
    assert found.events > SETTINGS.min_events
    assert found.people == 8
    assert found.candidate != found.reference


def test_the_live_version_itself_is_neither_better_nor_worse(
    judge: Callable[[Change], Verdict],
) -> None:
    found = judge(lambda model: None)
    assert found.passed
    assert found.candidate == found.reference
    assert found.checks[0].value == 0


def forget_popularity(model: TemporalModel) -> None:
    """A part of the score that says the same of each item."""
    model.item_bias.zero_()
    if model.text_bias is not None:
        model.text_bias.weight.zero_()
        model.text_bias.bias.zero_()


def test_a_part_that_says_nothing_is_not_missed(judge: Callable[[Change], Verdict]) -> None:
    found, without = judge(forget_popularity), judge(lambda _: None)
    assert found.without["prior"] == pytest.approx(found.candidate.ndcg_at_10)
    # The live version knows what people take by nothing else.
    assert without.without["prior"] < 0.75 * without.candidate.ndcg_at_10
    assert {"taste", "prior"} <= set(without.without) <= set(PARTS)


def shuffle_items(model: TemporalModel) -> None:
    """As garbage labels would teach it."""
    torch.manual_seed(2)
    order = torch.cat([torch.arange(FIRST_ITEM), FIRST_ITEM + torch.randperm(128)])
    model.items.weight.copy_(model.items.weight[order])
    model.item_bias.copy_(model.item_bias[order])


def test_shuffled_items_are_stopped_by_quality(judge: Callable[[Change], Verdict]) -> None:
    found = judge(shuffle_items)
    assert failed_checks(found) == {"quality"}
    assert found.candidate.ndcg_at_10 < 0.75 * found.reference.ndcg_at_10


def lose_a_weight(model: TemporalModel) -> None:
    model.state.weight[0, 0] = torch.nan


def test_a_weight_that_is_no_number_is_stopped(judge: Callable[[Change], Verdict]) -> None:
    found = judge(lose_a_weight)
    assert {"finite", "norms", "parity", "latency"} <= failed_checks(found)
    assert "1 weights and" in found.checks[1].reason
    assert "0 scores" not in found.checks[1].reason


def explode(model: TemporalModel) -> None:
    for weight in model.parameters():
        weight.mul_(1000)


def test_exploded_weights_are_stopped(judge: Callable[[Change], Verdict]) -> None:
    found = judge(explode)
    assert "norms" in failed_checks(found)
    assert found.checks[2].value is not None
    assert found.checks[2].value > 100


def collapse(model: TemporalModel) -> None:
    """All people are shown the same."""
    model.item_bias.copy_(torch.linspace(0, 1e4, len(model.item_bias)))


def test_collapsed_diversity_is_stopped(judge: Callable[[Change], Verdict]) -> None:
    found = judge(collapse)
    assert "coverage" in failed_checks(found)
    assert "norms" not in failed_checks(found)


def test_a_slow_graph_is_stopped(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema
) -> None:
    measured = measure(replace(live, version=8), live, held, schema)
    tiny = SETTINGS.model_copy(update={"max_latency_ms": 1e-6})
    assert failed_checks(verdict(measured, tiny)) == {"latency"}
    assert verdict(measured, SETTINGS).passed


@pytest.mark.parametrize("damage", ["cut", "of another model", "missing"])
def test_a_damaged_graph_is_stopped(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema, tmp_path: Path, damage: str
) -> None:
    assert live.graph
    graph = tmp_path / "model.onnx"
    if damage == "cut":
        graph.write_bytes(live.graph.read_bytes()[:-20_000])
    elif damage == "of another model":
        other = copy.deepcopy(live.trained.model)
        with torch.no_grad():
            a_step(other)
        write_graph(ScoringGraph(other), schema, graph)
    measured = measure(JudgedVersion(8, live.trained, graph), live, held, schema)
    found = verdict(measured, SETTINGS)
    assert failed_checks(found) == {"parity", "latency"}
    assert str(graph) in found.checks[5].reason
    assert "\n" not in found.checks[5].reason


def test_an_item_unknown_to_one_version_is_missed_by_that_one(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema, tmp_path: Path
) -> None:
    names = live.trained.vocabulary.item_ids[FIRST_ITEM:]
    few = Vocabulary(names[:30] + names[40:])
    model = copy.deepcopy(live.trained.model)
    kept = [0, 1, *(FIRST_ITEM + at for at in range(len(names)) if not 30 <= at < 40)]
    smaller = TemporalModel(replace(model.architecture, items=len(few), neighbours=0))
    state = {
        name: value[kept] if value.shape[:1] == (len(names) + FIRST_ITEM,) else value
        for name, value in model.state_dict().items()
    }
    state |= {name: smaller.state_dict()[name] for name in ("neighbours", "neighbour_weights")}
    smaller.load_state_dict(state)
    old = export_version(smaller.eval(), few, schema, tmp_path)
    both = merge_vocabularies([live.trained.vocabulary, few])
    measured = measure(replace(live, version=9), old, held.translate_to(both), schema)
    asked = held.columns.items[held.targets]
    unknown = (asked >= FIRST_ITEM + 30) & (asked < FIRST_ITEM + 40)
    assert unknown.any()
    assert np.isinf(measured.reference.ranks[unknown]).all()
    assert np.isfinite(measured.reference.ranks[~unknown]).all()
    assert np.isfinite(measured.candidate.ranks).all()


@pytest.mark.parametrize("events", [0, 1])
def test_a_window_of_one_event_has_a_verdict(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema, events: int
) -> None:
    chosen = np.zeros(len(held.columns), np.bool_)
    chosen[np.flatnonzero(held.targets)[:events]] = True
    measured = measure(replace(live, version=8), live, replace(held, chosen=chosen), schema)
    found = verdict(measured, SETTINGS)
    assert failed_checks(found) == {"quality"}
    assert f"{events} held-out events" in found.refusals[0]


def test_the_first_version_is_set_beside_popularity(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema
) -> None:
    measured = measure(live, None, held, schema)
    found = verdict(measured, SETTINGS)
    assert (found.live, measured.growth, measured.live_latency_ms) == (None, None, None)
    assert 0 < found.reference.ndcg_at_10 < 1
    assert found.passed


def test_the_live_version_is_asked_about_the_whole_window(
    live: JudgedVersion, held: HoldoutSet, schema: FeatureSchema
) -> None:
    found = measure(replace(live, version=8), live, held, schema, held).foresight
    assert found
    first = measure(live, None, held, schema, held)
    assert first.foresight is None
    np.testing.assert_array_equal(found.live, first.candidate.ranks)
    np.testing.assert_array_equal(found.popularity, first.reference.ranks)
    np.testing.assert_array_equal(found.people, first.people)


def test_new_rows_are_no_growth_but_larger_ones_are(model: TemporalModel) -> None:
    wider = TemporalModel(replace(model.architecture, items=260))
    before = TemporalModel(model.architecture)
    found = growth(wider, before)
    assert found
    assert found.factor < 1.5
    with torch.no_grad():
        wider.items.weight[200] *= 1000
    found = growth(wider, before)
    assert found
    assert found.matrix == "items.weight"
    assert found.factor > 3
