"""The transport: a request is admitted, read, answered by an operation, and written as JSON.

Whatever a caller sends, the answer is the operation's or a problem (RFC 9457), never a trace.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from headwater_client import EventError, decode, encode
from headwater_client.contract import OPERATIONS, HealthAnswer, Operation, Problem
from headwater_client.events import explain_refusal
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from stream.api import problems
from stream.api.guard import observe
from stream.api.keys import KeyRing
from stream.api.openapi import make_openapi, render_page
from stream.api.problems import RequestError, refuse
from stream.api.readiness import Readiness
from stream.api.service import ApiCall, ApiService

JSON = "application/json"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
# Neither script nor another host, whatever a page holds.
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


class HttpApi:
    """Answers HTTP requests.

    Args:
        service: what the operations do.
        keys: who may do what.
        readiness: for the probes.
        max_body_bytes: of a request.
    """

    def __init__(
        self, service: ApiService, keys: KeyRing, readiness: Readiness, max_body_bytes: int
    ) -> None:
        self._service = service
        self._keys = keys
        self._readiness = readiness
        self._max_body_bytes = max_body_bytes
        document = make_openapi()
        self._document, self._page = encode(document), render_page(document).encode()

    def make_app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route(
                operation.path.replace("{person}", "{person:path}"),
                self._make_endpoint(operation),
                methods=[operation.method],
            )
            for operation in OPERATIONS
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._refuse_path})

    def _make_endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        own = getattr(self, f"_{operation.name}", None)
        act = own or self._make_action(operation)

        async def answer(request: Request) -> Response:
            return await _answer(operation.name, act(request))

        return answer

    def _make_action(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """Reads a request, has the service answer it, and writes the answer."""
        work = getattr(self._service, operation.name)

        async def act(request: Request) -> Response:
            self._readiness.check_started()
            key = self._admit(operation, request)
            raw = await self._read_body(request) if operation.method != "GET" else b""
            call = ApiCall(
                key,
                raw,
                decode(operation.body, raw) if operation.body else None,
                _read_query(operation.query, request.query_params) if operation.query else None,
                request.path_params,
            )
            return Response(encode(await work(call)), media_type=JSON)

        return act

    def _admit(self, operation: Operation, request: Request) -> Any:
        if self._keys.is_open:
            _check_host(request)
        return self._keys.admit(request.headers.get("authorization", ""), operation.scope)

    async def _read_body(self, request: Request) -> bytes:
        """The body of a request of JSON.

        Raises:
            RequestError: it is too large, or of another media type.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON or request.headers.get("content-encoding", "identity") != "identity":
            raise refuse(
                "media-type",
                f"content-type {kind or 'is missing'}",
                f"send it as it is, with Content-Type: {JSON}",
            )
        most = self._max_body_bytes
        length = request.headers.get("content-length", "0")
        size, chunks = 0, []
        if length.isdecimal() and int(length[:20]) <= most:
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    chunks.append(chunk)
                    if size > most:
                        break
                else:
                    return b"".join(chunks)
            except ClientDisconnect as error:
                gone = "expected all of it: the caller has gone"
                raise EventError("<message>", b"".join(chunks), gone) from error
        raise refuse(
            "too-large",
            f"the body has more than {most} bytes",
            f"send at most {most} bytes at once",
            connection="close",
        )

    async def _refuse_path(self, request: Request, error: Exception) -> Response:
        """A path or a method that there is not; without a key not even that is told."""
        assert isinstance(error, HTTPException)

        async def tell(request: Request) -> Response:
            self._keys.admit(request.headers.get("authorization", ""), None)
            shown = request.url.path[:200]
            if error.status_code == 405:
                problem = problems.make_problem("method", f"{request.method} {shown}")
                raise RequestError(problem, error.headers)
            raise refuse("not-found", shown, "/docs lists what there is")

        return await _answer(_ELSEWHERE, tell(request))

    async def _tell_metrics(self, request: Request) -> Response:
        self._admit(_OF["tell_metrics"], request)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def _tell_contract(self, request: Request) -> Response:
        self._admit(_OF["tell_contract"], request)
        return Response(self._document, media_type=JSON)

    async def _show_contract(self, request: Request) -> Response:
        self._admit(_OF["show_contract"], request)
        return Response(self._page, media_type="text/html", headers=_PAGE_HEADERS)

    async def _tell_live(self, _: Request) -> Response:
        stale = self._readiness.stale_loops()
        return _answer_health(not stale, stale)

    async def _tell_started(self, _: Request) -> Response:
        starting = self._readiness.starting
        return _answer_health(not starting, starting)

    async def _tell_ready(self, _: Request) -> Response:
        return _answer_health(*await self._readiness.ask())


_OF = {operation.name: operation for operation in OPERATIONS}
_ELSEWHERE = "elsewhere"


async def _answer(operation: str, work: Awaitable[Response]) -> Response:
    """The answer to a request, or the problem that came in its way."""
    try:
        return await observe(operation, work, lambda response: response.status_code)
    except RequestError as error:
        return _answer_problem(error.problem, error.headers)


def _read_query(kind: type[Struct], given: Mapping[str, str]) -> Struct:
    """What a query string holds.

    Raises:
        EventError: a field breaks the contract.
    """
    fields = dict(given)
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise explain_refusal(str(error), lambda name: fields[name]) from error


def _check_host(request: Request) -> None:
    """Without keys only programs of this machine are answered, and no page of another host.

    Raises:
        RequestError: the request was sent to another name than this machine's own.
    """
    host = request.headers.get("host", "")
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    if name not in LOCAL_HOSTS:
        raise refuse(
            "no-key",
            f"host {name[:80]!r}: without keys only this machine is answered",
            "ask by 127.0.0.1, or set api.keys_file",
        )


def _answer_problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(problem), problem.status, headers, problems.MEDIA_TYPE)


def _answer_health(ok: bool, missing: Mapping[str, str]) -> Response:
    answer = HealthAnswer(ok=ok, missing=dict(missing))
    return Response(encode(answer), 200 if ok else 503, media_type=JSON)
