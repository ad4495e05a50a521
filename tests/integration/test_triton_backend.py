"""Our backend "onnxruntime": batches are laid together and cut apart without mixing requests."""

from __future__ import annotations

import functools
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from deploy.settings import Settings
from features.model_server import CONTROL_HEADER
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

MODEL = "backend_test"
PRICES = np.array([0, 10, 20, 30, 40], np.float32)

CONFIG = """
backend: "onnxruntime"
max_batch_size: 64
input [
  { name: "history", data_type: TYPE_INT64, dims: [2] },
  {
    name: "candidates", data_type: TYPE_INT64, dims: [-1]
    optional: true, allow_ragged_batch: true
  }
]
output [
  { name: "total", data_type: TYPE_FP32, dims: [1] },
  { name: "prices", data_type: TYPE_FP32, dims: [-1] }
]
instance_group [{ count: 1, kind: KIND_CPU }]
dynamic_batching { max_queue_delay_microseconds: 200000, preferred_batch_size: [64] }
"""


def graph() -> onnx.ModelProto:
    """total: the prices of a history, added up; prices: those of the candidates. Refuses 5."""
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gather", ["table", "history"], ["paid"]),
                helper.make_node("ReduceSum", ["paid", "axes"], ["total"], keepdims=1),
                helper.make_node("Gather", ["table", "candidates"], ["prices"]),
            ],
            MODEL,
            [
                value("history", TensorProto.INT64, ["batch", 2]),
                value("candidates", TensorProto.INT64, ["batch", "candidates"]),
            ],
            [
                value("total", TensorProto.FLOAT, ["batch", 1]),
                value("prices", TensorProto.FLOAT, ["batch", "candidates"]),
            ],
            [
                numpy_helper.from_array(PRICES, "table"),
                numpy_helper.from_array(np.array([1]), "axes"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def write_version(repository: Path, version: int, config: str = CONFIG) -> None:
    folder = repository / MODEL / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph().SerializeToString())
    (repository / MODEL / "config.pbtxt").write_text(config)


@pytest.fixture
def client(servers: Settings) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(servers.triton.url)
    key = servers.triton.control_key
    header = {f"triton-grpc-protocol-{CONTROL_HEADER}": key.get_secret_value() if key else ""}
    # What Triton asks for before it loads a model, or tells statistics.
    client.register_plugin(lambda request: request.headers.update(header))
    write_version(servers.model_repository, 1)
    client.load_model(MODEL)
    yield client
    client.unload_model(MODEL)
    client.close()


def inputs(history: list[list[int]], candidates: list[list[int]] | None) -> list[InferInput]:
    given = {"history": history, "candidates": candidates}
    arrays = {name: np.array(rows, np.int64) for name, rows in given.items() if rows is not None}
    return [
        InferInput(name, list(array.shape), "INT64").set_data_from_numpy(array)
        for name, array in arrays.items()
    ]


def ask_together(
    client: InferenceServerClient, requests: list[list[InferInput]], **options: Any
) -> list[Any]:
    """Send all requests at once, so that they share a batch; results or errors, in order."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()

    def keep(result: Any, error: Any, place: int) -> None:
        answers.put((place, error or result))

    for place, request in enumerate(requests):
        callback = functools.partial(keep, place=place)
        client.async_infer(MODEL, request, callback, **options)
    found = dict(answers.get(timeout=20) for _ in requests)
    return [found[place] for place in range(len(requests))]


def batches(client: InferenceServerClient) -> int:
    """How many times the model ran."""
    return int(client.get_inference_statistics(MODEL).model_stats[0].execution_count)


def batches_after(client: InferenceServerClient, before: int) -> int:
    """The same once it ran again: Triton counts a run a moment after it has answered."""
    wait_until(lambda: batches(client) > before)
    return batches(client)


def test_requests_of_a_batch_keep_their_own_rows(client: InferenceServerClient) -> None:
    before = batches(client)
    first, second = ask_together(
        client,
        [inputs([[1, 1], [2, 2]], [[1], [2]]), inputs([[3, 4]], [[4]])],
    )
    assert batches_after(client, before) == before + 1
    assert first.as_numpy("total").tolist() == [[20], [40]]
    assert second.as_numpy("total").tolist() == [[70]]
    assert second.as_numpy("prices").tolist() == [[40]]


def test_lists_of_different_lengths_share_a_batch(client: InferenceServerClient) -> None:
    before = batches(client)
    longest, shortest = ask_together(
        client,
        [inputs([[1, 1]], [[1, 2, 3]]), inputs([[2, 2]], [[4]])],
    )
    assert batches_after(client, before) == before + 1
    assert longest.as_numpy("prices").tolist() == [[10, 20, 30]]
    assert shortest.as_numpy("prices").tolist() == [[40]]


def test_an_optional_input_may_be_left_out(client: InferenceServerClient) -> None:
    requests = [inputs([[1, 1]], None), inputs([[2, 2]], None), inputs([[3, 3]], [[1]])]
    *without, given = ask_together(client, requests)
    assert [answer.as_numpy("total").tolist() for answer in without] == [[[20]], [[40]]]
    assert [answer.as_numpy("prices").shape for answer in without] == [(1, 0), (1, 0)]
    assert given.as_numpy("prices").tolist() == [[10]]


def test_a_broken_request_fails_alone(client: InferenceServerClient) -> None:
    good, broken, other = ask_together(
        client,
        [
            inputs([[1, 1]], [[1]]),
            inputs([[5, 5]], [[1]]),
            inputs([[2, 2]], [[2]]),
        ],
    )
    assert good.as_numpy("total").tolist() == [[20]]
    assert other.as_numpy("total").tolist() == [[40]]
    assert isinstance(broken, InferenceServerException)
    assert "out of data bounds" in str(broken)


def test_only_requested_outputs_are_returned(client: InferenceServerClient) -> None:
    wanted = [InferRequestedOutput("total")]
    for answer in ask_together(client, [inputs([[1, 2]], [[1]])] * 2, outputs=wanted):
        assert answer.as_numpy("total").tolist() == [[30]]
        assert answer.as_numpy("prices") is None


def test_versions_are_chosen_by_a_policy_given_at_load(
    client: InferenceServerClient, servers: Settings
) -> None:
    write_version(servers.model_repository, 2)
    config = client.get_model_config(MODEL, as_json=True)["config"]
    policy = {"version_policy": {"specific": {"versions": [1, 2]}}}
    client.load_model(MODEL, config=json.dumps({**config, **policy}))
    assert client.is_model_ready(MODEL, "1")
    assert client.is_model_ready(MODEL, "2")


def test_a_config_that_the_graph_does_not_match_is_refused(
    client: InferenceServerClient, servers: Settings
) -> None:
    write_version(servers.model_repository, 1, CONFIG.replace('"prices"', '"costs"'))
    with pytest.raises(InferenceServerException, match=r"disagree on outputs: \['costs'"):
        client.load_model(MODEL)
