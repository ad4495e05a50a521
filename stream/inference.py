"""Asks Triton: one call for a batch of people, or none while a version does not answer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog
from headwater_client.errors import HeadwaterError
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from features.inputs import Tensor
from stream.breaker import LONGEST_REST_S, REST_S, CircuitBreaker
from stream.settings import TritonSettings

Arrays = dict[str, npt.NDArray[Any]]
log = structlog.get_logger()
_AWAY = "StatusCode.UNAVAILABLE"
_LATE = "StatusCode.DEADLINE_EXCEEDED"
_MAX_REASON_CHARS = 200


class InferenceError(HeadwaterError):
    """A version did not answer in time, or its answer cannot be used."""


class CircuitOpenError(InferenceError):
    """A version failed a moment ago, and was not asked again yet."""


class InferenceResponse(NamedTuple):
    """A version's outputs, and how long the call took that brought them."""

    outputs: Arrays
    seconds: float


@dataclass
class _Calls:
    """The calls of one version; of a version on trial one at a time, in `turn`."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class InferenceClient:
    """A client of the model, by names and types of `features.inputs`.

    Each version fails and rests by itself.

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
        self._numbers = [tensor.name for tensor in outputs if tensor.dtype is np.float32]
        self._client: InferenceServerClient | None = None
        # By version and whether it is on trial: one that is promoted begins anew.
        self._calls: defaultdict[tuple[int, bool], _Calls] = defaultdict(_Calls)

    async def score(
        self, version: int, tensors: Mapping[str, npt.NDArray[Any]], *, on_trial: bool = False
    ) -> InferenceResponse:
        """The outputs of one version for a batch, by name.

        Args:
            on_trial: another version answers where this one does not: it has less time, is asked
                one call at a time, and rests longer while it keeps failing.

        Raises:
            NotAskedError: it failed a moment ago.
            ScoringError: no answer in time, an error, or scores that are not numbers.
        """
        calls = self._calls[version, on_trial]
        try:
            scored = await (self._in_turn if on_trial else self._asked)(version, calls, tensors)
        except CircuitOpenError:
            raise
        except (InferenceServerException, TimeoutError, OSError, InferenceError) as error:
            # Triton away is nobody's fault: once it is back, all versions answer at once.
            own_fault = on_trial and _status(error) != _AWAY
            calls.breaker.trip(LONGEST_REST_S if own_fault else REST_S)
            reason = _reason(error)
            log.warning(
                "triton_failed",
                url=self._settings.url,
                version=version,
                reason=reason,
                error=str(error),
            )
            raise InferenceError(f"version {version}: {reason}") from error
        calls.breaker.reset()
        return scored

    async def _in_turn(
        self, version: int, calls: _Calls, tensors: Mapping[str, npt.NDArray[Any]]
    ) -> InferenceResponse:
        """Ask once it is this call's turn; waiting for that counts against its time."""
        limit_ms = min(self._settings.canary_timeout_ms, self._settings.timeout_ms)
        async with asyncio.timeout(limit_ms / 1000), calls.turn:
            return await self._asked(version, calls, tensors)

    async def _asked(
        self, version: int, calls: _Calls, tensors: Mapping[str, npt.NDArray[Any]]
    ) -> InferenceResponse:
        start = perf_counter()
        if calls.breaker.open:
            raise CircuitOpenError(f"version {version}: not asked, it failed a moment ago")
        result = await self._connected().infer(
            self._settings.model,
            [self._input(name, array) for name, array in tensors.items()],
            model_version=str(version),
            outputs=self._outputs,
            client_timeout=self._settings.timeout_ms / 1000,
        )
        outputs = {output.name(): result.as_numpy(output.name()) for output in self._outputs}
        if not all(np.isfinite(outputs[name]).all() for name in self._numbers):
            raise InferenceError("scores that are not numbers")
        return InferenceResponse(outputs, perf_counter() - start)

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


def _status(error: Exception) -> str | None:
    return error.status() if isinstance(error, InferenceServerException) else None


def _reason(error: Exception) -> str:
    """Why a call failed, in one line, without addresses: apps read it."""
    if isinstance(error, TimeoutError) or _status(error) == _LATE:
        return "no answer in time"
    if isinstance(error, OSError) or _status(error) == _AWAY:
        return "Triton is away, or does not have it"
    said = error.message() if isinstance(error, InferenceServerException) else str(error)
    return " ".join(said.split())[:_MAX_REASON_CHARS]
