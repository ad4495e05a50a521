"""What a strict Triton would refuse is told, and what is published is not refused."""

from __future__ import annotations

import pytest

from features.schema import FeatureSchema
from trainer.export import export
from trainer.export.triton_config import (
    Backend,
    ModelFile,
    config_refusals,
    graph_file,
    render_config,
)
from trainer.network import TemporalModel


@pytest.fixture(scope="module")
def published(
    model: TemporalModel, schema: FeatureSchema, tmp_path_factory: pytest.TempPathFactory
) -> ModelFile:
    folder = tmp_path_factory.mktemp("repository") / "temporal_llm" / "7"
    folder.mkdir(parents=True)
    export(model, schema, folder / "model.onnx")
    return graph_file(folder / "model.onnx")


def test_what_is_published_is_served(published: ModelFile, schema: FeatureSchema) -> None:
    assert list(config_refusals(render_config(schema), published)) == []


@pytest.mark.parametrize(
    ("before", "after", "refusal"),
    [
        ('name: "temporal_llm"', 'name: "other"', "name: 'other', but its folder is"),
        ("model.onnx", "model.plan", "default_model_filename: 'model.plan', there is"),
        ("onnxruntime", "pytorch", "backend: 'pytorch', not one of"),
        ("max_batch_size: 256", "max_batch_size: 0", "max_batch_size: 0"),
        ("TYPE_FP32, dims: [100]", "TYPE_INT64, dims: [100]", "output top_scores: TYPE_INT64, in"),
        ("dims: [100]", "dims: [10]", "output top_items: dims [-1, 10] with the batch, in the"),
        ('"candidate_items"', '"candidates"', "input candidate_items: in the model only"),
        ("version_policy { latest { num_versions: 1 } }", "", "version_policy: none"),
        ("max_batch_size", "max_batch", "config.pbtxt: "),
    ],
)
def test_each_mismatch_is_a_line(
    published: ModelFile, schema: FeatureSchema, before: str, after: str, refusal: str
) -> None:
    config = render_config(schema)
    assert before in config
    found = config_refusals(config.replace(before, after), published)
    assert any(line.startswith(refusal) for line in found)


def test_an_engine_runs_on_a_gpu_only(published: ModelFile, schema: FeatureSchema) -> None:
    config = render_config(schema, Backend.TENSORRT).replace("KIND_GPU", "KIND_CPU")
    assert any("KIND_GPU" in line for line in config_refusals(config, published))
