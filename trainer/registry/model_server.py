"""Triton as the trainer needs it: load versions, and see that one answers rightly."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import ServerError
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from features.inputs import MODEL_NAME, model_inputs, model_outputs
from features.schema import FeatureSchema
from trainer.export import Arrays, answers, open_session, sample_inputs
from trainer.export.onnx import differences
from trainer.export.triton_config import with_versions

LOAD_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 20.0
POLL_S = 0.05
CHECKED_BATCH = 7
AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


class ServerUnavailableError(ServerError):
    """Triton does not answer: it may in a moment."""


@dataclass(frozen=True)
class ModelServer:
    """Where Triton is; `url` is host:port of its gRPC side."""

    url: str
    tls: bool = False
    tls_ca_file: str | None = None

    @contextmanager
    def connect(self) -> Iterator[ModelServerClient]:
        """A connection, closed at the end.

        Raises:
            ServerUnavailableError: in the block, when Triton does not answer.
            ServerError: in the block, when Triton refuses what it is asked.
        """
        client = InferenceServerClient(self.url, ssl=self.tls, root_certificates=self.tls_ca_file)
        try:
            yield ModelServerClient(client)
        except InferenceServerException as error:
            # What a Python backend adds, where in it, helps nobody.
            reason = " ".join(str(error).split()).partition(" At: /")[0]
            kind = ServerUnavailableError if error.status() in AWAY else ServerError
            raise kind(f"Triton at {self.url}: {reason}") from error
        finally:
            client.close()


class ModelServerClient:
    """A connected Triton."""

    def __init__(self, client: InferenceServerClient) -> None:
        self._client = client

    def is_ready(self, version: int) -> bool:
        """Whether a version can be asked."""
        ready: bool = self._client.is_model_ready(
            MODEL_NAME, str(version), client_timeout=ASK_TIMEOUT_S
        )
        return ready

    def list_ready(self, versions: Iterable[int]) -> list[int]:
        """Those of these versions that can be asked."""
        return [version for version in versions if self.is_ready(version)]

    def load(self, config: str, versions: Sequence[int]) -> None:
        """Serve exactly these versions, and wait until they are ready.

        Args:
            config: the text of `config.pbtxt`.

        Raises:
            ServerUnavailableError: one is not ready in time.
        """
        if not versions:
            self._client.unload_model(MODEL_NAME, client_timeout=LOAD_TIMEOUT_S)
            return
        self._client.load_model(
            MODEL_NAME, config=with_versions(config, versions), client_timeout=LOAD_TIMEOUT_S
        )
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while missing := [version for version in versions if not self.is_ready(version)]:
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"Triton: versions {missing} of {MODEL_NAME} are not ready"
                )
            time.sleep(POLL_S)

    def check_answer(self, version: int, graph: Path, items: int, schema: FeatureSchema) -> None:
        """Ask once, which also warms the version, and compare with ONNX Runtime here.

        Args:
            items: how many items the model has.

        Raises:
            ServerError: the answers differ.
        """
        feeds = sample_inputs(items, schema, CHECKED_BATCH)
        expected = answers(open_session(graph), feeds)
        found = self.ask(version, feeds, schema)
        for difference in differences(expected, found):
            raise ServerError(
                f"Triton: version {version} of {MODEL_NAME} answers wrongly: {difference}"
            )

    def ask(self, version: int, feeds: Arrays, schema: FeatureSchema) -> Arrays:
        """What a version answers, by name."""
        inputs = []
        for tensor in model_inputs(schema):
            array = feeds[tensor.name]
            sent = InferInput(tensor.name, list(array.shape), tensor.triton_type)
            inputs.append(sent.set_data_from_numpy(array))
        result = self._client.infer(
            MODEL_NAME, inputs, model_version=str(version), client_timeout=ASK_TIMEOUT_S
        )
        return {tensor.name: result.as_numpy(tensor.name) for tensor in model_outputs(schema)}
