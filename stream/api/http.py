"""The transport: a request is admitted, read, answered by an operation, and written as JSON.

Whatever a caller sends, the answer is the operation's or a problem (RFC 9457), never a trace.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Protocol

import msgspec
import structlog
from headwater_client import EventError, HeadwaterError, decode, encode
from headwater_client.errors import mask_logins
from headwater_client.events import explain_refusal
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from stream.api import problems
from stream.api.contract import OPERATIONS, HealthAnswer, Operation, Problem
from stream.api.keys import KeyRing
from stream.api.openapi import make_openapi, render_page
from stream.api.problems import RequestError, refuse
from stream.api.service import ApiCall, ApiService

JSON = "application/json"
LOOK_S = 0.7
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
REQUESTS = Counter(
    "headwater_api_requests_total", "Requests by operation and status", ["operation", "status"]
)
SECONDS = Histogram(
    "headwater_api_request_seconds",
    "Wall time of a request, from its first byte read to its answer",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
# Neither script nor another host, whatever a page holds.
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
log = structlog.get_logger()


class HealthChecks(Protocol):
    """What is known of the service's loops and of what it needs."""

    def stale_loops(self) -> dict[str, str]:
        """The loops that have not turned for too long, and for how long."""

    def missing_parts(self) -> dict[str, str]:
        """What is missing, by name; it may take seconds."""


class HttpApi:
    """Answers HTTP requests.

    Args:
        service: what the operations do.
        keys: who may do what.
        health: for the probes.
        max_body_bytes: of a request.

    Attributes:
        starting: what has to be there before the first answer, and is not yet, by name.
    """

    def __init__(
        self, service: ApiService, keys: KeyRing, health: HealthChecks, max_body_bytes: int
    ) -> None:
        self.starting = {"routing": "it is being read which version answers whom, and what trends"}
        self._service = service
        self._keys = keys
        self._health = health
        self._max_body_bytes = max_body_bytes
        self._was_ready = False
        self._missing = {"servers": "are being looked at"}
        self._looking: asyncio.Task[dict[str, str]] | None = None
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
            begin = perf_counter()
            response = await self._guard(operation, request, act)
            REQUESTS.labels(operation.name, response.status_code).inc()
            SECONDS.labels(operation.name).observe(perf_counter() - begin)
            return response

        return answer

    def _make_action(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """Reads a request, has the service answer it, and writes the answer."""
        work = getattr(self._service, operation.name)

        async def act(request: Request) -> Response:
            self._check_started()
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

    async def _guard(
        self, operation: Operation, request: Request, act: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """The answer, or the problem that has come in its way."""
        try:
            return await act(request)
        except RequestError as error:
            return _answer_problem(error.problem, error.headers)
        except EventError as error:
            return _answer_problem(problems.describe_field(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except (HeadwaterError, TimeoutError) as error:
            log.warning("api_server_away", operation=operation.name, error=str(error))
            what = str(error) or "a server does not answer in time"
            problem = problems.make_problem("unavailable", what, "send it again in a moment")
            return _answer_problem(problem, {"Retry-After": str(problems.RETRY_S)})
        except Exception as error:
            reference = os.urandom(4).hex()
            text = mask_logins(f"{type(error).__name__}: {error}")
            log.exception("unexpected_error", reference=reference, what=text)
            detail = f"its trace is {reference} in the service's log"
            return _answer_problem(problems.make_problem("unexpected", detail))

    def _admit(self, operation: Operation, request: Request) -> Any:
        if self._keys.is_open:
            _check_host(request)
        return self._keys.admit(request.headers.get("authorization", ""), operation.scope)

    def _check_started(self) -> None:
        if self.starting:
            what = "; ".join(f"{name}: {why}" for name, why in self.starting.items())
            raise refuse(
                "unavailable",
                f"the service is starting: {what}",
                "send it again in a moment",
                retry_after=str(problems.RETRY_S),
            )

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
            async for chunk in request.stream():
                size += len(chunk)
                chunks.append(chunk)
                if size > most:
                    break
            else:
                return b"".join(chunks)
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
                return _answer_problem(problem, error.headers)
            raise refuse("not-found", shown, "/docs lists what there is")

        response = await self._guard(_ELSEWHERE, request, tell)
        REQUESTS.labels(_ELSEWHERE.name, response.status_code).inc()
        return response

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
        stale = self._health.stale_loops()
        return _answer_health(not stale, stale)

    async def _tell_started(self, _: Request) -> Response:
        return _answer_health(not self.starting, self.starting)

    async def _tell_ready(self, _: Request) -> Response:
        """Ready once all was there, and from then on: it answers though a server is away.

        A service that is new and finds no model does not take over from those that have one.
        """
        missing = self.starting or await self._find_missing()
        self._was_ready |= not missing
        return _answer_health(self._was_ready and not self.starting, missing)

    async def _find_missing(self) -> Mapping[str, str]:
        """What is missing; what was a moment ago, where a server that hangs holds the look up.

        A prober gives up after a second, and would take the service for one that hangs itself.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(asyncio.to_thread(self._health.missing_parts))
            self._looking.add_done_callback(self._note_missing)
        await asyncio.wait([self._looking], timeout=LOOK_S)
        return self._missing

    def _note_missing(self, looking: asyncio.Task[dict[str, str]]) -> None:
        self._looking = None
        if not looking.cancelled():
            self._missing = looking.result()


_OF = {operation.name: operation for operation in OPERATIONS}
_ELSEWHERE = Operation("elsewhere", "GET", "", "")


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
