"""HTTP at the console: as at the API, and by a session besides.

A browser that has logged in sends its session's cookie. A page of another site cannot: the cookie
is for this site alone, and what changes something has to name the session's token besides.
"""

from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

from headwater_client.operations import Operation
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from deploy.console.live import LiveFeed
from deploy.console.service import ConsoleService
from deploy.console.session import COOKIE, Gate, Session
from stream.api.http import HttpApi, check_host
from stream.api.keys import ApiKey
from stream.api.problems import refuse
from stream.api.readiness import Readiness

CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = ("GET", "HEAD")
# A browser runs, shows and asks nothing that is not this console's own.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class ConsoleApi(HttpApi):
    """Answers the operations, to keys and to sessions.

    Args:
        gate: who comes in.
        feed: what browsers follow.
    """

    def __init__(
        self, service: ConsoleService, gate: Gate, readiness: Readiness, feed: LiveFeed
    ) -> None:
        super().__init__(service, gate.keys, readiness, service.settings.api.max_body_bytes)
        self.gate = gate
        self._live = next(each for each in service.operations if each.name == "stream_live")
        self._feed = feed

    def _admit(self, operation: Operation, request: Request) -> ApiKey:
        named = {"authorization", "x-api-key"} & set(request.headers)
        session = None if named else self.find_session(request)
        key = self.gate.find_key(session)
        if session is None or key is None:
            return super()._admit(operation, request)
        if request.method not in SAFE_METHODS:
            check_token(session, request.headers.get(CSRF_HEADER, ""))
        self.gate.keys.use(key, operation.scope)
        return key

    def find_session(self, request: Request) -> Session | None:
        """The session of a browser, where it has one.

        Raises:
            RequestError: no keys are asked for, and it asks this machine under another name.
        """
        if self.gate.keys.is_open:
            check_host(request)
        return self.gate.sessions.read(request.cookies.get(COOKIE, ""))

    async def _stream_live(self, request: Request) -> Response:
        self._admit(self._live, request)
        return StreamingResponse(
            self._feed.follow(), media_type="text/event-stream", headers=_STREAM_HEADERS
        )


def check_token(session: Session, token: str) -> None:
    """Refuse what a page of another site may have sent.

    Raises:
        RequestError: the token is not the session's.
    """
    if not compare_digest(session.csrf.encode(), token.encode(errors="replace")):
        raise refuse(
            "scope",
            "the request does not come from a page of this session",
            "load the page again, and send it from there",
        )


class SecureAnswers:
    """Says with every answer what a browser may do with it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        # What a page is made of is asked for again, and not sent again as long as it is the same.
        self._headers, self._static = (
            [
                (name.lower().encode(), value.encode())
                for name, value in {**SECURITY_HEADERS, "Cache-Control": kept}.items()
            ]
            for kept in ("no-store", "no-cache")
        )

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answer a request of ASGI."""
        headers = self._static if scope["path"].startswith("/static/") else self._headers

        async def send_on(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                more = [each for each in headers if each[0] not in known]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, send_on)
