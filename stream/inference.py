"""Calls Triton: tensors of a batch to scores, with a deadline and a circuit breaker per version.

Errors:
    HeadwaterError
    └── InferenceError: a version did not answer in time, or its answer cannot be used
        └── CircuitOpenError: it was not even called, because it failed a moment ago
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog
from headwater_client import HeadwaterError
from opentelemetry.trace import SpanKind
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from features.inputs import Tensor, part_outputs
from features.model_server import CHANNEL, ModelServer
from features.schema import Tensors
from stream.settings import TritonSettings
from stream.tracing import trace_part

log = structlog.get_logger()
# A version is left out for so long after a failure, then for twice as long, up to the longest.
REST_S = 1.0
LONGEST_REST_S = 30.0
_UNAVAILABLE = "StatusCode.UNAVAILABLE"
_DEADLINE_EXCEEDED = "StatusCode.DEADLINE_EXCEEDED"
_MAX_REASON_CHARS = 200


class InferenceError(HeadwaterError):
    """A version did not answer in time, or its answer cannot be used."""


class CircuitOpenError(InferenceError):
    """A version was not called, because it failed a moment ago."""


@dataclass
class CircuitBreaker:
    """Leaves calls out for a while after a failure: each would cost its whole deadline.

    Each pause is twice as long as the one before, until a call succeeds (Nygard, "Release It!").
    """

    clock: Callable[[], float] = monotonic
    _rest_s: float = REST_S
    _until: float = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether calls are left out now."""
        return self.clock() < self._until

    def trip(self, longest_s: float = LONGEST_REST_S) -> None:
        """Record a failed call: leave calls out, for `longest_s` at most."""
        rest_s = min(self._rest_s, longest_s)
        self._until = self.clock() + rest_s
        self._rest_s = 2 * rest_s

    def reset(self) -> None:
        """Record a call that succeeded."""
        self._rest_s = REST_S


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One call of one version for a batch of users.

    Attributes:
        on_trial: another version answers where this one does not: it has less time, is called one
            request at a time, and is left out longer while it keeps failing.
        explained: the parts of scores are asked for, where the version tells them.
    """

    version: int
    tensors: Tensors
    on_trial: bool = False
    explained: bool = False


class InferenceResponse(NamedTuple):
    """A version's outputs by tensor name, and how long the call took that brought them."""

    outputs: Tensors
    seconds: float


@dataclass
class _VersionState:
    """What is known of one version: its failures, and whose turn it is while it is on trial."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class InferenceClient:
    """A client of the model, by names and types of `features.inputs`.

    Each version of each Triton fails and recovers by itself. Several are asked in turn.

    Args:
        settings: `url` must be set.
        inputs: the model's inputs.
        outputs: the model's outputs to ask for.
    """

    def __init__(
        self, settings: TritonSettings, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        self._settings = settings
        self._types = {tensor.name: tensor.triton_type for tensor in inputs}
        self._outputs = tuple(outputs)
        # Triton and version, once it has said that it tells the parts of its scores.
        self._with_parts: set[tuple[str, int]] = set()
        self._clients: dict[str, InferenceServerClient] = {}
        # The next one is asked first.
        self._urls = deque(settings.urls)
        # By Triton, version and whether it is on trial: a version that is promoted begins anew.
        self._states: defaultdict[tuple[str, int, bool], _VersionState] = defaultdict(_VersionState)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Call one version for a batch: on another Triton where one cannot answer.

        Raises:
            CircuitOpenError: it failed a moment ago.
            InferenceError: no answer in time, an error, or scores that are not finite.
        """
        self._urls.rotate(-1)
        failed: InferenceError | None = None
        for url in tuple(self._urls):
            try:
                return await self._infer_at(url, request)
            except CircuitOpenError as error:
                failed = failed or error
            except InferenceError as error:
                failed = error
                if _timed_out(error.__cause__):
                    # Its time is over: nobody waits for a second one.
                    break
        raise failed or InferenceError(f"version {request.version}: no Triton is set")

    async def _infer_at(self, url: str, request: InferenceRequest) -> InferenceResponse:
        state = self._states[url, request.version, request.on_trial]
        try:
            response = await (self._infer_in_turn if request.on_trial else self._infer_now)(
                url, request, state
            )
        except CircuitOpenError:
            raise
        except (InferenceServerException, TimeoutError, OSError, InferenceError) as error:
            # Triton away is no version's fault: once it is back, all versions answer at once.
            own_fault = request.on_trial and _status(error) != _UNAVAILABLE
            state.breaker.trip(LONGEST_REST_S if own_fault else REST_S)
            reason = _reason(error)
            log.warning(
                "triton_failed",
                url=url,
                version=request.version,
                reason=reason,
                error=str(error),
            )
            raise InferenceError(f"version {request.version}: {reason}") from error
        state.breaker.reset()
        return response

    async def _infer_in_turn(
        self, url: str, request: InferenceRequest, state: _VersionState
    ) -> InferenceResponse:
        """Call once it is this request's turn; waiting for that counts against its deadline."""
        limit_ms = min(self._settings.canary_timeout_ms, self._settings.timeout_ms)
        async with asyncio.timeout(limit_ms / 1000), state.turn:
            return await self._infer_now(url, request, state)

    async def _infer_now(
        self, url: str, request: InferenceRequest, state: _VersionState
    ) -> InferenceResponse:
        start = perf_counter()
        if state.breaker.is_open:
            raise CircuitOpenError(f"version {request.version}: not asked, it failed a moment ago")
        wanted = self._outputs
        if request.explained and await self._tells_parts(url, request.version):
            wanted = (*wanted, *part_outputs())
        with trace_part(
            "ModelInfer",
            SpanKind.CLIENT,
            **{
                "rpc.system": "grpc",
                "server.address": url,
                "headwater.model_version": str(request.version),
            },
        ):
            result = await self._connect(url).infer(
                self._settings.model,
                [self._input(name, array) for name, array in request.tensors.items()],
                model_version=str(request.version),
                outputs=[InferRequestedOutput(tensor.name) for tensor in wanted],
                client_timeout=self._settings.timeout_ms / 1000,
            )
        rows = len(next(iter(request.tensors.values())))
        outputs = {
            tensor.name: _check_output(_read_output(result, tensor.name), tensor, rows)
            for tensor in wanted
        }
        return InferenceResponse(outputs, perf_counter() - start)

    async def _tells_parts(self, url: str, version: int) -> bool:
        """Whether a version can be asked for the parts of its scores."""
        if (url, version) not in self._with_parts:
            told = await self._connect(url).get_model_metadata(
                self._settings.model,
                str(version),
                client_timeout=self._settings.timeout_ms / 1000,
            )
            names = {output.name for output in told.outputs}
            if any(tensor.name not in names for tensor in part_outputs()):
                return False
            self._with_parts.add((url, version))
        return True

    def _input(self, name: str, array: npt.NDArray[Any]) -> InferInput:
        tensor = InferInput(name, array.shape, self._types[name])
        tensor.set_data_from_numpy(array)
        return tensor

    def _connect(self, url: str) -> InferenceServerClient:
        if url not in self._clients:
            settings = self._settings
            self._clients[url] = InferenceServerClient(
                url, ssl=settings.tls, root_certificates=settings.tls_ca_file, channel_args=CHANNEL
            )
        return self._clients[url]

    async def close(self) -> None:
        """Close the connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.close()


def _read_output(result: InferResult, name: str) -> npt.NDArray[Any] | None:
    """An output; None where the answer has none.

    Raises:
        InferenceError: its bytes are not those of the array that they are said to be.
    """
    try:
        array: npt.NDArray[Any] | None = result.as_numpy(name)
    except Exception as error:
        raise InferenceError(f"{name}: cannot be read: {type(error).__name__}: {error}") from error
    return array


def _check_output(array: npt.NDArray[Any] | None, tensor: Tensor, rows: int) -> npt.NDArray[Any]:
    """A graph that answers otherwise than the contract says must not end the process.

    Raises:
        InferenceError: it is another array than it has to be, or holds what is no number.
    """
    if array is None:
        raise InferenceError(f"{tensor.name}: is missing in the answer")
    expected = (rows, *tensor.shape)
    fits = len(array.shape) == len(expected) and all(
        wanted in (-1, found) for wanted, found in zip(expected, array.shape, strict=True)
    )
    if array.dtype != tensor.dtype or not fits:
        raise InferenceError(
            f"{tensor.name}: {array.dtype}{list(array.shape)} instead of "
            f"{np.dtype(tensor.dtype)}{list(expected)}"
        )
    if tensor.dtype is np.float32 and not np.isfinite(array).all():
        raise InferenceError("scores that are not numbers")
    return array


def model_servers(settings: TritonSettings) -> list[ModelServer]:
    """The Tritons, as those see them who load versions."""
    key = settings.control_key.get_secret_value() if settings.control_key else ""
    return [ModelServer(url, settings.tls, settings.tls_ca_file, key) for url in settings.urls]


def _status(error: BaseException | None) -> str | None:
    return error.status() if isinstance(error, InferenceServerException) else None


def _timed_out(error: BaseException | None) -> bool:
    return isinstance(error, TimeoutError) or _status(error) == _DEADLINE_EXCEEDED


def _reason(error: Exception) -> str:
    """Why a call failed, in one line, without addresses: apps read it."""
    if _timed_out(error):
        return "no answer in time"
    if isinstance(error, OSError) or _status(error) == _UNAVAILABLE:
        return "Triton is away, or does not have it"
    message = error.message() if isinstance(error, InferenceServerException) else str(error)
    return " ".join(message.split())[:_MAX_REASON_CHARS]
