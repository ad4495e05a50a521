"""The optimised forms of a version: kept if they answer alike, and served by a real Triton."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from deploy import local
from deploy.optimize import OptimizeSettings
from deploy.optimize.variants import SourceVersion, VariantOutcome, build_variants
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.schema import FIRST_ITEM, FeatureSchema
from stream.inference import model_servers
from tests.harness.models import ITEMS, untrained
from trainer.evaluation import EvalRequests
from trainer.export import answers, export, open_session, sample_inputs
from trainer.export.onnx import differences
from trainer.registry import CONFIG, GRAPH

pytestmark = pytest.mark.integration

# Weights that have learned nothing: what INT8 loses of them says nothing.
LENIENT = OptimizeSettings(min_overlap=0.5, max_loss=0.9)


def int8_of(
    folder: Path, schema: FeatureSchema, into: Path, settings: OptimizeSettings
) -> VariantOutcome:
    """The first form, of a version with random weights that is asked random requests."""
    folder.mkdir()
    model = untrained(schema, 1).model
    export(model, schema, folder / GRAPH)
    feeds = sample_inputs(ITEMS + 2, schema, 40)
    best = answers(open_session(folder / GRAPH), feeds)["top_items"][:, 0]
    version = SourceVersion(1, folder, model, schema, EvalRequests(feeds, best))
    return next(build_variants(version, into, settings))


def test_int8_is_served_as_it_answers_here(own: Settings, tmp_path: Path) -> None:
    schema = FeatureSchema(own.features)
    outcome = int8_of(tmp_path / "1", schema, tmp_path / "optimised", LENIENT)
    assert outcome.folder is not None, outcome.refusal
    own.model_repository.mkdir(parents=True)
    shutil.copytree(outcome.folder.parent, own.model_repository / MODEL_NAME)
    served = own.model_repository / MODEL_NAME
    [server] = model_servers(local.up(own, only=["triton"]).triton)
    feeds = sample_inputs(ITEMS + 2, schema, 7)
    with server.connect() as triton:
        triton.load((served / CONFIG).read_text(), [1])
        found = triton.ask(1, feeds, schema)
        whole = triton.infer(MODEL_NAME, feeds, "1")
    expected = answers(open_session(served / "1" / GRAPH), feeds)
    assert not list(differences(expected, found))
    parts, scores = (whole.as_numpy(f"candidate_{name}") for name in ("parts", "scores"))
    shown = feeds["candidate_items"] >= FIRST_ITEM
    # The parts are of the scores that were served, whatever INT8 has lost of them.
    assert np.abs(parts.sum(2) - scores)[shown].max() < 1e-4


def test_a_form_that_answers_otherwise_is_not_kept(tmp_path: Path) -> None:
    schema = FeatureSchema(Settings().features)
    strict = OptimizeSettings(min_overlap=1.0, max_loss=0.0)
    outcome = int8_of(tmp_path / "1", schema, tmp_path / "optimised", strict)
    assert outcome.folder is None
    assert outcome.refusal is not None
    assert outcome.refusal.startswith("best 10: ")
    assert not list((tmp_path / "optimised").rglob(GRAPH))
    (kept,) = msgspec.json.decode((tmp_path / "optimised" / "1.json").read_bytes())
    assert (kept["form"], kept["folder"], kept["refusal"]) == ("int8", None, outcome.refusal)
