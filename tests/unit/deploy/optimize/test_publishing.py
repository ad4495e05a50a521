"""What a version is served in: another form if that agrees, else the graph, and it says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from headwater_client.events import Click

from deploy.optimize import OptimizeSettings, ServedPrecision, variants
from deploy.optimize.variants import SERVED_FILE, SourceVersion, serve_int8
from features.schema import FIRST_ITEM, FeatureSchema, Vocabulary
from tests.unit.deploy.optimize.conftest import ITEMS
from trainer.evaluation import EvalRequests, newest_requests
from trainer.examples import build_examples, observe_log, replay_log
from trainer.export import answers, open_session, sample_inputs
from trainer.network import TemporalModel
from trainer.registry import EXACT, GRAPH, exact_graph

# Of random weights, as these are, INT8 loses more.
LENIENT = OptimizeSettings(min_overlap=0.5, max_loss=1.0)
STRICT = OptimizeSettings(min_overlap=1.0, max_loss=0.0)


@pytest.fixture
def draft(
    model: TemporalModel, graph: Path, schema: FeatureSchema, tmp_path: Path
) -> SourceVersion:
    folder = tmp_path / "draft-3"
    folder.mkdir()
    shutil.copy(graph, folder / GRAPH)
    targets = np.random.default_rng(1).integers(FIRST_ITEM, ITEMS, 60)
    asked = EvalRequests(sample_inputs(ITEMS, schema, 60), targets)
    return SourceVersion(3, folder, model, schema, asked)


def read_record(draft: SourceVersion) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((draft.folder / SERVED_FILE).read_bytes())
    return found


def names(draft: SourceVersion) -> set[str]:
    return {path.name for path in draft.folder.iterdir()}


def test_a_form_that_agrees_is_served_and_the_graph_kept_beside_it(
    draft: SourceVersion, graph: Path, schema: FeatureSchema, tmp_path: Path
) -> None:
    assert serve_int8(draft, tmp_path, LENIENT).served is ServedPrecision.INT8
    assert names(draft) == {GRAPH, EXACT, SERVED_FILE}
    assert draft.graph.read_bytes() == graph.read_bytes()
    assert (draft.folder / GRAPH).read_bytes() != graph.read_bytes()
    feeds = sample_inputs(ITEMS, schema, 7)
    assert answers(open_session(draft.folder / GRAPH), feeds)["top_items"].shape[0] == 7
    assert (read_record(draft)["served"], read_record(draft)["refusal"]) == ("int8", None)


def test_a_form_that_does_not_agree_leaves_the_graph_and_says_why(
    draft: SourceVersion, graph: Path, tmp_path: Path
) -> None:
    assert serve_int8(draft, tmp_path, STRICT).served is ServedPrecision.FLOAT32
    assert names(draft) == {GRAPH, SERVED_FILE}
    assert exact_graph(draft.folder).read_bytes() == graph.read_bytes()
    assert read_record(draft)["served"] == "float32"
    assert read_record(draft)["refusal"].startswith("best 10: ")


def test_a_version_without_events_to_ask_about_keeps_its_graph(
    draft: SourceVersion, schema: FeatureSchema, tmp_path: Path
) -> None:
    nothing = EvalRequests(sample_inputs(ITEMS, schema, 0), np.zeros(0, np.int64))
    unasked = SourceVersion(3, draft.folder, draft.model, schema, nothing)
    assert "no event" in str(serve_int8(unasked, tmp_path, LENIENT).refusal)
    assert names(draft) == {GRAPH, SERVED_FILE}


@pytest.mark.parametrize("step", ["build_variant", "encode_json"])
def test_a_full_disk_in_between_is_made_good_by_another_try(
    draft: SourceVersion, graph: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(variants, step, _full(getattr(variants, step)))
        with pytest.raises(OSError, match="No space left"):
            serve_int8(draft, tmp_path, LENIENT)
    assert names(draft) == {GRAPH}
    for _ in range(2):
        serve_int8(draft, tmp_path, LENIENT)
        assert names(draft) == {GRAPH, EXACT, SERVED_FILE}
        assert draft.graph.read_bytes() == graph.read_bytes()


def _full(do: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*values: Any) -> Any:
        do(*values)
        raise OSError(28, "No space left on device")

    return fail


def test_the_newest_events_are_asked_about(schema: FeatureSchema) -> None:
    events = [
        Click(
            event_id=f"e{at}",
            user_id="ann" if at % 2 else "bob",
            item_id=item,
            timestamp=1_700_000_000_000 + 1000 * at,
        )
        # "a" comes back to bob, who has taken it then; "x" is unknown.
        for at, item in enumerate(["a", "b", "c", "a", "a", "x", "d", "d"])
    ]
    vocabulary = Vocabulary(["a", "b", "c", "d"])
    columns = build_examples(replay_log(observe_log(events, []), schema), vocabulary, schema)
    found = newest_requests(columns, schema, 3)
    assert [vocabulary.item_ids[item] for item in found.targets] == ["a", "d", "d"]
    assert found.feeds["request_time_ms"][:, 0].tolist() == [
        1_700_000_003_000,
        1_700_000_006_000,
        1_700_000_007_000,
    ]
