"""The gRPC transport: the operations of the HTTP API, with the same keys and the same problems.

A call is read into the document that HTTP would have brought, so that both are read, refused and
answered by the same code.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from headwater_client import SettingsError, decode, encode
from headwater_client.decoders import convert
from headwater_client.events import explain_refusal
from headwater_client.operations import Operation
from msgspec import Struct

from stream.api.guard import observe
from stream.api.keys import ApiKey, KeyRing
from stream.api.messages import message_class, read_message, write_message
from stream.api.parts import ApiCall
from stream.api.problems import RequestError
from stream.api.proto import (
    SERVICE,
    find_unsent,
    path_parts,
    request_name,
    rpc_name,
    rpc_operations,
)
from stream.api.readiness import Readiness
from stream.api.service import ApiService

_KEY = "authorization"
HEALTH_EVERY_S = 1.0
# What a client of gRPC does by itself depends on these: it sends UNAVAILABLE again.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_Behavior = Callable[[bytes, Any], Awaitable[Message]]


@dataclass(frozen=True)
class RpcListener:
    """Where calls are taken, and how.

    Attributes:
        max_bytes: of a call.
        drain_s: how long calls that are under way at the end may take.
    """

    address: str
    port: int
    max_bytes: int
    drain_s: float


class RpcApi:
    """Answers gRPC calls.

    Args:
        service: what the operations do.
        keys: who may do what.
        readiness: for the health service, as `/readyz` tells it.
        listener: where calls are taken.
    """

    def __init__(
        self, service: ApiService, keys: KeyRing, readiness: Readiness, listener: RpcListener
    ) -> None:
        self._service = service
        self._keys = keys
        self._readiness = readiness
        self._listener = listener
        self._health = health.aio.HealthServicer()

    async def serve(self) -> None:
        """Answer until cancelled.

        Raises:
            SettingsError: the port is taken.
        """
        server = self._make_server()
        await server.start()
        try:
            await self._tell_health()
        finally:
            await self._health.enter_graceful_shutdown()
            await server.stop(self._listener.drain_s)

    def _make_server(self) -> Any:
        server = grpc.aio.server(
            interceptors=[_KeyFirst(self._keys)],
            options=[
                ("grpc.max_receive_message_length", self._listener.max_bytes),
                # Else two services on one port would share the calls, and nobody be told.
                ("grpc.so_reuseport", 0),
            ],
        )
        handlers = {rpc_name(each): self._make_handler(each) for each in rpc_operations()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        address, port = self._listener.address, self._listener.port
        host = f"[{address}]" if ":" in address else address
        try:
            server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise SettingsError(
                f"api.grpc_port: {address} port {port}: is taken: choose another"
            ) from error
        return server

    async def _tell_health(self) -> None:
        """Keep what the health service says up to date, for ever."""
        while True:
            is_ready, _ = await self._readiness.ask()
            kinds = health_pb2.HealthCheckResponse
            for name in ("", SERVICE):
                await self._health.set(name, kinds.SERVING if is_ready else kinds.NOT_SERVING)
            await asyncio.sleep(HEALTH_EVERY_S)

    def _make_handler(self, operation: Operation) -> Any:
        """Reads a call, has the service answer it, and writes the answer."""
        work = getattr(self._service, operation.name)
        assert operation.answer is not None
        takes = message_class(request_name(operation))
        answers = message_class(operation.answer.__name__)
        unsent = find_unsent(operation.body) if operation.body else {}

        async def act(raw: bytes, headers: Mapping[str, str]) -> Message:
            self._readiness.check_started()
            key = self._keys.admit(headers.get(_KEY, ""), operation.scope)
            call = _make_call(operation, {**unsent, **read_message(takes, raw)}, key)
            return write_message(answers, await work(call))

        async def behave(raw: bytes, context: Any) -> Message:
            try:
                headers = _read_headers(context.invocation_metadata())
                return await observe(operation.name, act(raw, headers), headers)
            except RequestError as error:
                return await _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(
            behave, response_serializer=answers.SerializeToString
        )


class _KeyFirst(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Tells nothing but health to who has no key: neither what there is, nor what there is not."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], call: Any
    ) -> Any:
        """Go on, or answer with a problem. The operations ask for a key themselves."""
        if call.method.startswith((f"/{SERVICE}/", f"/{health.SERVICE_NAME}/")):
            return await continuation(call)
        try:
            self._keys.admit(_read_headers(call.invocation_metadata).get(_KEY, ""), None)
        except RequestError as error:
            refusal = error

            async def refuse(_: Any, context: Any) -> None:
                await _abort(context, refusal)

            return grpc.stream_stream_rpc_method_handler(refuse)
        return await continuation(call)


def _read_headers(metadata: Any) -> dict[str, str]:
    """Metadata as HTTP would have brought it; the first of each name."""
    return {name: str(value) for name, value in reversed(list(metadata or ()))}


def _make_call(operation: Operation, document: dict[str, Any], key: ApiKey) -> ApiCall:
    """What HTTP would have brought.

    Raises:
        EventError: a field breaks the contract.
    """
    path = {name: str(document.pop(name, "")) for name in path_parts(operation)}
    whole = document.get("events", []) if operation.name == "send_events" else document
    raw = b"" if operation.method == "GET" else encode(whole)
    body = decode(operation.body, raw) if operation.body else None
    query = _read_query(operation.query, document) if operation.query else None
    return ApiCall(key, raw, body, query, path)


def _read_query(kind: type[Struct], document: dict[str, Any]) -> Struct:
    try:
        return convert(document, kind)
    except msgspec.ValidationError as error:
        raise explain_refusal(str(error), lambda name: document[name]) from error


async def _abort(context: Any, error: RequestError) -> Any:
    """End a call with a google.rpc.Status, which has the problem in its details."""
    problem = error.problem
    code = CODES.get(problem.status, grpc.StatusCode.UNKNOWN)
    details: list[Message] = [write_message(message_class("Problem"), problem)]
    named = [each for each in problem.errors or [problem] if each.field]
    if named:
        violation = error_details_pb2.BadRequest.FieldViolation
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    violation(field=each.field, description=each.remedy) for each in named
                ]
            )
        )
    if wait := error.headers.get("Retry-After"):
        details.append(error_details_pb2.RetryInfo(retry_delay={"seconds": int(wait)}))
    packed = [AnyMessage() for _ in details]
    for each, detail in zip(packed, details, strict=True):
        each.Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=str(error), details=packed)
    told = rpc_status.to_status(status)
    await context.abort(told.code, told.details, told.trailing_metadata)
