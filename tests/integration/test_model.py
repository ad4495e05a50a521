"""A trained model on a real Triton: published, announced, swapped, with lists of any length."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.topics import ROLLOUTS

from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features import inputs
from features.kafka import client_config, ensure_topics
from features.model_server import ModelServer
from features.rollout_messages import Rollout
from features.rows import UserRow
from features.schema import FeatureSchema, Vocabulary
from stream.inference import model_servers
from tests.harness.models import ITEMS, SETTINGS, offline_registry, untrained
from trainer.export import Arrays, answers, open_session, sample_inputs
from trainer.export.onnx import differences
from trainer.registry import ModelVersion

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def schema(servers: Settings) -> FeatureSchema:
    return FeatureSchema(servers.features)


@pytest.fixture(scope="module")
def server(servers: Settings) -> ModelServer:
    return model_servers(servers.triton)[0]


@pytest.fixture(scope="module")
def published(servers: Settings, schema: FeatureSchema) -> list[ModelVersion]:
    ensure_topics(servers.kafka)
    with closing(model_registry(servers, SETTINGS)) as registry:
        return [registry.publish(untrained(schema, seed)) for seed in (1, 2, 3)]


def ask(server: ModelServer, version: int, feeds: Arrays, schema: FeatureSchema) -> Arrays:
    with server.connect() as triton:
        return triton.ask(version, feeds, schema)


def test_the_newest_two_versions_are_up(published: list[ModelVersion], server: ModelServer) -> None:
    numbers = [version.number for version in published]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    with server.connect() as triton:
        assert [triton.is_ready(number) for number in numbers] == [False, True, True]


def test_each_version_answers_for_itself(
    published: list[ModelVersion], server: ModelServer, schema: FeatureSchema
) -> None:
    feeds = sample_inputs(ITEMS + 2, schema, 128)
    for version in published[1:]:
        expected = answers(open_session(version.folder / "model.onnx"), feeds)
        assert not list(differences(expected, ask(server, version.number, feeds, schema)))


def test_rows_of_the_store_are_answered_with_empty_lists(
    published: list[ModelVersion], server: ModelServer, schema: FeatureSchema
) -> None:
    """A person without events, nothing taken, no candidates: every list has length 0."""
    rows = [UserRow([0.0] * schema.user_counters)] * 3
    feeds = inputs.model_tensors(rows, [1_700_000_000_000] * 3, Vocabulary([]), schema)
    assert feeds["candidate_items"].shape == feeds["excluded_items"].shape == (3, 0)
    found = ask(server, published[-1].number, feeds, schema)
    assert found["candidate_scores"].shape == (3, 0)
    assert np.isfinite(found["top_scores"]).all()
    assert (found["top_items"] > 1).all()


def test_the_announcement_names_the_newest_version(
    published: list[ModelVersion], servers: Settings
) -> None:
    partition = TopicPartition(ROLLOUTS, 0, OFFSET_BEGINNING)
    consumer = Consumer({**client_config(servers.kafka), "group.id": "test_model"})
    consumer.assign([partition])
    _, end = consumer.get_watermark_offsets(partition, timeout=15)
    messages = consumer.consume(end, timeout=15)
    consumer.close()
    assert messages[-1].key() == inputs.MODEL_NAME.encode()
    (routed,) = msgspec.json.decode(messages[-1].value(), type=Rollout).versions
    assert (routed.version, routed.share) == (published[-1].number, 1.0)
    assert routed.address == published[-1].folder.as_uri()


def test_a_server_that_is_not_there_is_one_clear_line(
    schema: FeatureSchema, servers: Settings, tmp_path: Path
) -> None:
    version = offline_registry(tmp_path, schema).write_version(untrained(schema, 4))
    nowhere = ModelServer("127.0.0.1:1")
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:1"), nowhere.connect() as triton:
        triton.load((version.folder.parent / "config.pbtxt").read_text(), [version.number])
