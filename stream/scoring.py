"""Asks Triton: one call for a batch of people, or none while it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from features.errors import HeadwaterError
from features.inputs import Tensor
from stream.settings import TritonSettings

Arrays = dict[str, npt.NDArray[Any]]
log = structlog.get_logger()


class ScoringError(HeadwaterError):
    """Triton did not answer in time, or its answer cannot be used."""


@dataclass
class Breaker:
    """After a failure, calls are left out for a while: each would cost its whole time-out."""

    rest_s: float = 1.0
    clock: Callable[[], float] = monotonic
    _until: float = float("-inf")

    @property
    def open(self) -> bool:
        """Whether calls are left out now."""
        return self.clock() < self._until

    def trip(self) -> None:
        """A call has failed."""
        self._until = self.clock() + self.rest_s


class Scorer:
    """A client of the model, by names and types of `features.inputs`.

    Args:
        settings: `url` must be set.
        inputs: the model's inputs.
        outputs: the model's outputs that are wanted.
    """

    def __init__(
        self, settings: TritonSettings, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> None:
        self._settings = settings
        self._types = {tensor.name: tensor.triton_type for tensor in inputs}
        self._outputs = [InferRequestedOutput(tensor.name) for tensor in outputs]
        self._client: InferenceServerClient | None = None
        self._breaker = Breaker()

    async def score(self, version: int, tensors: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """The outputs of one version for a batch, by name.

        Raises:
            ScoringError: no answer in time, an error, or scores that are not numbers.
        """
        if self._breaker.open:
            raise ScoringError("Triton failed a moment ago: not asked")
        try:
            return await self._infer(version, tensors)
        except (InferenceServerException, TimeoutError, OSError) as error:
            self._breaker.trip()
            log.warning("triton_failed", url=self._settings.url, version=version, error=str(error))
            raise ScoringError(f"Triton at {self._settings.url}: {error}") from error

    async def _infer(self, version: int, tensors: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        result = await self._connected().infer(
            self._settings.model,
            [self._input(name, array) for name, array in tensors.items()],
            model_version=str(version),
            outputs=self._outputs,
            client_timeout=self._settings.timeout_ms / 1000,
        )
        outputs = {output.name(): result.as_numpy(output.name()) for output in self._outputs}
        if not np.isfinite(outputs["top_scores"]).all():
            raise ScoringError(f"version {version} answers with scores that are not numbers")
        return outputs

    def _input(self, name: str, array: npt.NDArray[Any]) -> InferInput:
        tensor = InferInput(name, array.shape, self._types[name])
        tensor.set_data_from_numpy(array)
        return tensor

    def _connected(self) -> InferenceServerClient:
        if self._client is None:
            self._client = InferenceServerClient(
                self._settings.url,
                ssl=self._settings.tls,
                root_certificates=self._settings.tls_ca_file,
            )
        return self._client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()
            self._client = None
