"""A model version of release 0.1.0 (revision 13a9bcc) is read, and served by a real Triton."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.inputs import model_inputs, model_outputs
from features.schema import FeatureSchema, Tensors
from features.settings import FeatureSettings
from features.together import read_together
from stream.inference import InferenceClient, InferenceRequest
from tests.harness.models import offline_registry
from trainer.export import Arrays, answers, open_session
from trainer.export.onnx import differences
from trainer.registry import GRAPH, checkpoint

GOLDEN = Path("tests/golden/13a9bcc").resolve()
VERSION = GOLDEN / "model_repo" / "temporal_llm" / "1"


@pytest.fixture(scope="module")
def recorded() -> tuple[Arrays, Arrays]:
    """The inputs, and what the graph answered then."""
    with np.load(GOLDEN / "model_answers.npz") as file:
        feeds = {name[3:]: file[name] for name in file.files if name.startswith("in_")}
        outputs = {name[4:]: file[name] for name in file.files if name.startswith("out_")}
    return feeds, outputs


def test_the_graph_answers_as_it_did(recorded: tuple[Arrays, Arrays]) -> None:
    feeds, expected = recorded
    assert not list(differences(expected, answers(open_session(VERSION / GRAPH), feeds)))


def test_its_manifest_and_weights_are_read(tmp_path: Path) -> None:
    manifest = checkpoint.verify(VERSION)
    trained = checkpoint.load(VERSION)
    assert len(trained.vocabulary) == manifest.architecture.items
    # The next version is written from it, by the schema that it was trained on.
    schema = checkpoint.trained_schema(VERSION, FeatureSettings(history_length=9))
    assert schema.settings.history_length == manifest.settings["features"]["history_length"]
    version = offline_registry(tmp_path, schema).write_version(trained)
    assert checkpoint.verify(version.folder).architecture == manifest.architecture


@pytest.mark.integration
def test_it_is_served(own: Settings, recorded: tuple[Arrays, Arrays]) -> None:
    feeds, expected = recorded
    shutil.copytree(GOLDEN / "model_repo", own.model_repository)
    settings = local.up(own, only=["triton"])
    with closing(model_registry(settings)) as registry:
        version = registry.repository.existing_version(1)
        registry.load_and_verify(version)
        with registry.servers[0].connect() as triton:
            found = triton.ask(version.number, feeds, registry.schema)
    assert not list(differences(expected, found))
    # It has no parts of its scores: who asks for them gets all else, and no failure.
    explained = asyncio.run(ask_why(settings, feeds))
    assert not list(differences(expected, explained))
    assert "candidate_parts" not in explained
    # Nor has it a table of what is taken together.
    assert read_together(version.address) is None


async def ask_why(settings: Settings, feeds: Arrays) -> Tensors:
    schema = FeatureSchema(settings.features)
    client = InferenceClient(settings.triton, model_inputs(schema), model_outputs(schema))
    try:
        return (await client.infer(InferenceRequest(1, feeds, explained=True))).outputs
    finally:
        await client.close()
