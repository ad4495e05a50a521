"""A model server that is away costs one time-out, not one a batch."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from tritonclient.grpc import InferResult
from tritonclient.grpc.service_pb2 import ModelInferResponse

from features.inputs import Tensor
from stream.inference import (
    CircuitOpenError,
    InferenceClient,
    InferenceError,
    InferenceRequest,
    _check_output,
    _read_output,
)
from stream.settings import TritonSettings

TIMEOUT_S = 0.8
CANARY_TIMEOUT_S = 0.2


async def ask(client: InferenceClient, version: int, *, on_trial: bool) -> None:
    tensors = {"item_indices": np.zeros((1, 1), np.int64)}
    await client.infer(InferenceRequest(version, tensors, on_trial))


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[InferenceClient]:
    settings = TritonSettings(
        url=url, timeout_ms=int(1000 * TIMEOUT_S), canary_timeout_ms=int(1000 * CANARY_TIMEOUT_S)
    )
    client = InferenceClient(settings, (Tensor("item_indices", np.int64, (-1,)),), ())
    try:
        yield client
    finally:
        await client.close()


async def ask_nobody() -> None:
    async with client_of("127.0.0.1:9") as client:
        with pytest.raises(InferenceError, match="version 1: Triton is away") as failed:
            await ask(client, 1, on_trial=False)
        assert "127.0.0.1" not in str(failed.value)
        with pytest.raises(CircuitOpenError, match="version 1: not asked"):
            await ask(client, 1, on_trial=False)
        with pytest.raises(InferenceError, match="version 2: Triton is away"):
            await ask(client, 2, on_trial=True)


def test_nobody_there_is_a_scoring_error_and_then_that_version_is_not_asked() -> None:
    asyncio.run(ask_nobody())


async def ask_two_who_are_not_there() -> None:
    async with client_of("127.0.0.1:9,127.0.0.1:1") as client:
        with pytest.raises(InferenceError, match="version 1: Triton is away"):
            await ask(client, 1, on_trial=False)
        # Both were tried, and rest.
        for _ in range(2):
            with pytest.raises(CircuitOpenError, match="version 1: not asked"):
                await ask(client, 1, on_trial=False)


def test_of_several_model_servers_each_is_tried_before_it_is_an_error() -> None:
    asyncio.run(ask_two_who_are_not_there())


TOP = Tensor("top_items", np.int64, (3,))
SCORES = Tensor("candidate_scores", np.float32, (-1,))


@pytest.mark.parametrize(
    ("tensor", "array", "why"),
    [
        (TOP, None, "top_items: is missing in the answer"),
        (TOP, np.zeros((2, 4), np.int64), r"top_items: int64\[2, 4\] instead of int64\[2, 3\]"),
        (TOP, np.zeros((1, 3), np.int64), r"top_items: int64\[1, 3\] instead of int64\[2, 3\]"),
        (TOP, np.zeros((2, 3), np.int32), r"top_items: int32\[2, 3\] instead of int64\[2, 3\]"),
        (
            SCORES,
            np.zeros((2, 1, 1), np.float32),
            r"float32\[2, 1, 1\] instead of float32",
        ),
        (SCORES, np.full((2, 1), np.nan, np.float32), "scores that are not numbers"),
    ],
)
def test_an_answer_of_another_contract_is_the_version_s_failure(
    tensor: Tensor, array: np.ndarray | None, why: str
) -> None:
    with pytest.raises(InferenceError, match=why):
        _check_output(array, tensor, 2)
    _check_output(np.zeros((2, 0), np.float32), SCORES, 2)


async def ask_one_who_never_answers(port: int) -> list[tuple[str, float]]:
    """Why each call failed and after how many seconds: two of a version on trial, one of another.

    The second of the two begins later, and would be late later.
    """
    async with client_of(f"127.0.0.1:{port}") as client:

        async def failed(version: int, after_s: float, *, on_trial: bool) -> tuple[str, float]:
            await asyncio.sleep(after_s)
            start = time.monotonic()
            with pytest.raises(InferenceError) as caught:
                await ask(client, version, on_trial=on_trial)
            return str(caught.value), time.monotonic() - start

        return await asyncio.gather(
            failed(2, 0, on_trial=True),
            failed(2, CANARY_TIMEOUT_S / 2, on_trial=True),
            failed(1, 0, on_trial=False),
        )


def test_a_version_on_trial_has_less_time_and_is_asked_once_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        first, second, stable = asyncio.run(ask_one_who_never_answers(silent.getsockname()[1]))
    assert first[0] == "version 2: no answer in time"
    assert second[0] == "version 2: not asked, it failed a moment ago"
    assert stable[0] == "version 1: no answer in time"
    assert 0.9 * CANARY_TIMEOUT_S < first[1] < TIMEOUT_S
    assert stable[1] > 0.9 * TIMEOUT_S


@pytest.mark.parametrize(
    ("datatype", "raw"), [("FP32", b"123"), ("INT64", b"1234567"), ("BYTES", b"\xff\xff\xff\x7f")]
)
def test_bytes_that_are_no_array_are_the_versions_failure(datatype: str, raw: bytes) -> None:
    answer = ModelInferResponse(raw_output_contents=[raw])
    answer.outputs.add(name="scores", datatype=datatype, shape=[1, 2])
    with pytest.raises(InferenceError, match="scores: cannot be read: "):
        _read_output(InferResult(answer), "scores")
    assert _read_output(InferResult(answer), "another") is None
