"""The transport: a request is admitted, read, answered by an operation, and written as JSON.

Whatever a caller sends, the answer is the operation's or a problem (RFC 9457), never a trace.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from headwater_client import EventError, decode, encode
from headwater_client.contract import HealthAnswer, Problem
from headwater_client.decoders import convert
from headwater_client.events import explain_refusal
from headwater_client.operations import JSON, OPERATIONS, Operation
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream.api import problems
from stream.api.compat.dialect import PREFIX, Dialect, Work, find_work, make_refusal
from stream.api.guard import observe
from stream.api.keys import ApiKey, KeyRing
from stream.api.openapi import make_openapi, render_page
from stream.api.parts import ApiCall
from stream.api.problems import RequestError, refuse
from stream.api.readiness import Readiness
from stream.api.service import ApiService

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
Endpoint = Callable[[Request], Awaitable[Response]]
WriteProblem = Callable[[Problem, Mapping[str, str]], Response]
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
        self._operations = service.operations
        document = make_openapi(self._operations)
        self._document, self._page = encode(document), render_page(document).encode()

    def make_app(
        self, dialects: Sequence[Dialect] = (), pages: Sequence[BaseRoute] = ()
    ) -> Starlette:
        """The ASGI application.

        Args:
            dialects: the interfaces of other systems that it has besides its own.
            pages: what it shows besides.
        """
        # The longest first: a person's id may have slashes, and so be all of a longer path.
        paths = sorted({operation.path for operation in self._operations}, key=len, reverse=True)
        routes = [*(self._make_route(path) for path in paths), *pages]
        for dialect in dialects:
            routes += self._make_dialect(dialect)
        return Starlette(routes=routes, exception_handlers={HTTPException: self._refuse_path})

    def _make_route(self, path: str) -> Route:
        """All methods of a path; those that it has not are refused, not looked for elsewhere."""
        endpoints = {
            operation.method: self._make_endpoint(operation)
            for operation in self._operations
            if operation.path == path
        }
        if "GET" in endpoints:
            endpoints["HEAD"] = endpoints["GET"]

        async def answer(request: Request) -> Response:
            if request.method not in endpoints:
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(endpoints))})
            return await endpoints[request.method](request)

        template = re.sub(r"{(person|guest|item)}", r"{\1:path}", path)
        return Route(template, answer, methods=[*METHODS, "HEAD", "OPTIONS", "TRACE"])

    def _make_endpoint(self, operation: Operation) -> Endpoint:
        own = getattr(self, f"_{operation.name}", None)
        act = own or self._make_action(operation, self._service.find_work(operation))

        async def answer(request: Request) -> Response:
            return await _answer(operation.name, request, act, _answer_problem)

        return answer

    def _make_dialect(self, dialect: Dialect) -> Iterator[Route]:
        """Its routes: clients end a path with a slash or without, and mean the same."""
        prefix = f"{PREFIX}/{dialect.name}"

        def make_route(operation: Operation, path: str, work: Work) -> Route:
            act = self._make_action(operation, work)

            async def answer(request: Request) -> Response:
                return await _answer(f"{dialect.name}_{operation.name}", request, act, write)

            methods = [operation.method] if operation.method else METHODS
            return Route(prefix + path, answer, methods=methods)

        def write(problem: Problem, headers: Mapping[str, str]) -> Response:
            body, media_type = dialect.write_problem(problem)
            return Response(body, problem.status, headers, media_type)

        for operation in dialect.operations:
            for path in (operation.path, f"{operation.path}/"):
                yield make_route(operation, path, find_work(dialect, operation))
        other = Operation(_ELSEWHERE, "", "", "")
        yield make_route(other, "{rest:path}", make_refusal(f"there is no such path in {prefix}"))

    def _make_action(self, operation: Operation, work: Work) -> Endpoint:
        """Reads a request, has it answered, and writes the answer."""

        async def act(request: Request) -> Response:
            if not operation.is_admin:
                self._readiness.check_started()
            key = self._admit(operation, request)
            raw = b""
            if _may_have_body(operation, request):
                raw = await self.read_body(request, operation.media_types)
            call = ApiCall(
                key,
                raw,
                decode(operation.body, raw) if operation.body else None,
                read_query(operation.query, request.query_params) if operation.query else None,
                request.path_params,
                request.headers,
            )
            return Response(encode(await work(call)), media_type=JSON)

        return act

    def _admit(self, operation: Operation, request: Request) -> ApiKey:
        if self._keys.is_open:
            check_host(request)
        return self._keys.admit(_read_authorization(request), operation.scope)

    async def read_body(self, request: Request, kinds: Sequence[str]) -> bytes:
        """The body of a request.

        Raises:
            RequestError: it is too large, or of none of these media types.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_plain = request.headers.get("content-encoding", "identity") == "identity"
        if not (is_plain and (kind in kinds or _may_be_unnamed(request))):
            raise refuse(
                "media-type",
                f"content-type {kind or 'is missing'}",
                f"send it as it is, with Content-Type: {' or '.join(kinds)}",
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
            self._keys.admit(_read_authorization(request), None)
            shown = request.url.path[:200]
            if error.status_code == 405:
                problem = problems.make_problem("method", f"{request.method} {shown}")
                raise RequestError(problem, error.headers)
            raise refuse("not-found", shown, "/docs lists what there is")

        return await _answer(_ELSEWHERE, request, tell, _answer_problem)

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


async def _answer(operation: str, request: Request, act: Endpoint, write: WriteProblem) -> Response:
    """The answer to a request, or the problem that came in its way."""
    try:
        return await observe(
            operation, act(request), request.headers, lambda response: response.status_code
        )
    except RequestError as error:
        return write(error.problem, error.headers)


def _may_have_body(operation: Operation, request: Request) -> bool:
    """Whether a body is expected, or there is one: those of other systems may leave it out."""
    if operation.path.startswith("/v1/"):
        return operation.method not in ("GET", "DELETE")
    headers = request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _may_be_unnamed(request: Request) -> bool:
    """Whether a body is taken for JSON whatever its media type is said to be.

    As other systems do. But a page of a browser has to say it: then the browser asks first.
    """
    is_dialect = request.url.path.startswith(f"{PREFIX}/")
    return is_dialect and not {"origin", "sec-fetch-site"} & set(request.headers)


def _read_authorization(request: Request) -> str:
    """The key as the header `Authorization` has it; other systems' clients send X-API-Key."""
    headers = request.headers
    return headers.get("authorization") or f"Bearer {headers.get('x-api-key', '')}"


def read_query(kind: type[Struct], given: QueryParams) -> Struct:
    """What a query string holds; a name that stands there twice is a list.

    Raises:
        EventError: a field breaks the contract.
    """
    lists = {name: given.getlist(name) for name in given}
    fields = {name: each if len(each) > 1 else each[0] for name, each in lists.items()}
    try:
        query = convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise explain_refusal(str(error), lambda name: _read_value(fields[name])) from error
    for name, value in fields.items():
        # A text is made to fit, and `null` would be taken for a field that is not there.
        if getattr(query, name, value) is None:
            raise EventError(name, value, "expected a value, or no such field")
    return query


def _read_value(told: str | list[str]) -> Any:
    """A value for a problem to show: a whole number as JSON and gRPC bring it, not as a text."""
    if isinstance(told, str) and re.fullmatch("-?[0-9]{1,18}", told):
        return int(told)
    return told


def check_host(request: Request) -> None:
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


def _answer_problem(problem: Problem, headers: Mapping[str, str]) -> Response:
    return Response(encode(problem), problem.status, headers, problems.MEDIA_TYPE)


def _answer_health(ok: bool, missing: Mapping[str, str]) -> Response:
    answer = HealthAnswer(ok=ok, missing=dict(missing))
    return Response(encode(answer), 200 if ok else 503, media_type=JSON)
