"""The pages: which there are, what each asks, and what is sent from their forms.

A page is rendered whole by the server from the answers of its operations: it works without a
script. What an operation refuses is shown in its place, and the rest of the page stays.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import msgspec
from headwater_client import EventError, encode
from headwater_client.contract import Problem, Scope
from headwater_client.decoders import convert
from headwater_client.documents import DocumentError, read_json
from headwater_client.events import explain_refusal
from headwater_client.operations import Operation
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from deploy.console import rendering, single_sign_on
from deploy.console.service import ConsoleService
from deploy.console.session import COOKIE, Session, role_of
from deploy.console.transport import ConsoleApi, check_token
from stream.api.guard import explain, observe
from stream.api.http import Endpoint
from stream.api.keys import ANYONE, ApiKey, check_scope, has_scope
from stream.api.parts import ApiCall
from stream.api.problems import RequestError, refuse

FORM = "application/x-www-form-urlencoded"
STATIC = Path(__file__).parent / "static"
# A page does not wait longer for a server that may be away.
WITHIN_S = 5.0
# What makes a row again reads a person's whole log.
_LONGER = {"ask_what_if": 30.0, "reproduce_list": 30.0}
_FORM_FIELDS = 200
_TIMES = ("at",)


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: where it is; the parts that have names are those of its operations' paths.
        area: the template `AREA.html`, and the module `static/AREA.js` where there is one.
        title: as the navigation has it.
        operations: those whose answers it shows. The first is what the page is about: where that is
            not found, neither is the page. A query takes what it knows of the page's own.
        is_listed: whether the navigation leads to it.
        finds: the room of the thing that `?id=` names: one is led there.
    """

    path: str
    area: str
    title: str
    operations: tuple[str, ...] = ()
    is_listed: bool = True
    finds: str = ""


PAGES = (
    Page("/", "now", "Now", ("tell_now",)),
    Page("/people", "people", "People", ("list_people",), finds="people"),
    Page(
        "/people/{person}",
        "person",
        "A person",
        ("show_person", "ask_what_if", "list_sent"),
        is_listed=False,
    ),
    Page(
        "/recommendations/{recommendation_id}",
        "recommendation",
        "Why a list",
        ("reproduce_list",),
        is_listed=False,
    ),
    Page("/items", "items", "Items", ("find_items",), finds="items"),
    Page(
        "/items/{item}",
        "item",
        "An item",
        ("show_item", "list_showings", "forecast_item"),
        is_listed=False,
    ),
    Page("/models", "models", "Models", ("list_models",)),
    Page("/models/{version}", "model", "A version", ("describe_model",), is_listed=False),
    Page("/rollouts", "rollouts", "Rollouts", ("list_rollouts",)),
    Page("/rollouts/{rollout}", "rollout", "A rollout", ("describe_rollout",), is_listed=False),
    Page(
        "/placements", "placements", "Placements", ("list_placement_figures",), finds="placements"
    ),
    Page(
        "/placements/{name}", "placement", "A placement", ("describe_placement",), is_listed=False
    ),
    Page("/demand", "demand", "Demand", ("list_forecasts",)),
    Page(
        "/quality",
        "quality",
        "Quality of data",
        ("list_dead_letters", "check_events", "list_anomalies", "tell_drift"),
    ),
    Page(
        "/quality/letters/{letter}",
        "letter",
        "A dead letter",
        ("show_dead_letter",),
        is_listed=False,
    ),
    Page(
        "/quality/faults",
        "faults",
        "Letters of one fault",
        ("preview_corrections", "list_dead_letters"),
        is_listed=False,
    ),
    Page("/fairness", "fairness", "Fairness", ("measure_fairness",)),
    Page("/fairness/report", "fairness_report", "Report", ("report_fairness",), is_listed=False),
    Page("/audit", "audit", "Audit", ("list_audit",)),
)


class ConsolePages:
    """Answers browsers.

    Args:
        api: who may come in.
        service: what the operations do.
    """

    def __init__(self, api: ConsoleApi, service: ConsoleService) -> None:
        self._api = api
        self._service = service
        self._operations = {each.name: each for each in service.operations}
        self._templates = rendering.make_templates(PAGES)

    def make_routes(self) -> list[BaseRoute]:
        """The routes of all pages, of their forms, and of what they are made of."""
        return [
            *(self._make_route(page) for page in PAGES),
            Route("/login", self._guard("login", self._log_in), methods=["GET", "POST"]),
            Route("/login/oidc", self._guard("login", self._go_to_provider), methods=["GET"]),
            Route(
                "/login/oidc/done",
                self._guard("login", self._come_from_provider),
                methods=["GET"],
            ),
            Route("/logout", self._guard("logout", self._log_out), methods=["POST"]),
            Route("/actions/{operation}", self._guard("action", self._act), methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/{rest:path}", self._miss),
        ]

    def _make_route(self, page: Page) -> Route:
        async def show(request: Request) -> Response:
            return await self._show(page, request)

        template = re.sub(r"{(\w+)}", r"{\1:path}", page.path)
        return Route(template, self._guard(f"page_{page.area}", show), methods=["GET"])

    def _guard(self, name: str, work: Endpoint) -> Endpoint:
        """Whatever is in the way of a page is told on one."""

        async def answer(request: Request) -> Response:
            try:
                return await observe(
                    name, work(request), request.headers, lambda made: made.status_code
                )
            except RequestError as error:
                return self._tell_problem(request, error)

        return answer

    async def _show(self, page: Page, request: Request) -> Response:
        entered = self._enter(request)
        if entered is None:
            return RedirectResponse(f"/login?{urlencode({'next': _own_path(request)})}", 303)
        session, key = entered
        self._api.gate.keys.use(key, Scope.VIEW)
        wanted = request.query_params.get("id", "")
        if page.finds and (found := rendering.link(page.finds, wanted)).startswith(
            f"/{page.finds}/"
        ):
            return RedirectResponse(found, 303)
        answers = await self._ask_all(page, key, request)
        problems = {name: said for name, said in answers.items() if isinstance(said, Problem)}
        main = problems.get(page.operations[0]) if page.operations else None
        return self._render(
            page.area,
            request,
            (session, key),
            main.status if main and main.status < 500 else 200,
            page=page,
            path=request.path_params,
            query=request.query_params,
            problems=problems,
            answers={name: None if name in problems else said for name, said in answers.items()},
        )

    async def _ask_all(self, page: Page, key: ApiKey, request: Request) -> dict[str, Any]:
        """What each operation of a page answers, or its problem.

        Where what the page is about is not there, nothing else is asked.
        """
        operations = [self._operations[name] for name in page.operations]
        if not operations:
            return {}
        main = await self._ask(operations[0], key, request)
        if isinstance(main, Problem) and main.status < 500:
            return dict.fromkeys(page.operations, main)
        rest = await asyncio.gather(*(self._ask(each, key, request) for each in operations[1:]))
        return dict(zip(page.operations, [main, *rest], strict=True))

    async def _ask(self, operation: Operation, key: ApiKey, request: Request) -> Any:
        """What an operation answers to the holder of a key; or the problem."""
        try:
            check_scope(key, operation.scope)
            kind = operation.query or operation.body
            asked = _convert(_pick(request, kind), kind) if kind else None
            body, query = (None, asked) if operation.query else (asked, None)
            call = ApiCall(key, b"", body, query, request.path_params, request.headers)
            async with asyncio.timeout(_LONGER.get(operation.name, WITHIN_S)):
                work = self._service.find_work(operation)
                return await observe(operation.name, work(call), call.headers)
        except (RequestError, EventError, TimeoutError) as error:
            return explain(error, operation.name).problem

    def _enter(self, request: Request) -> tuple[Session, ApiKey] | None:
        """Who looks; None where they have to log in."""
        session = self._api.find_session(request)
        key = self._api.gate.find_key(session)
        if session and key:
            return session, key
        if self._api.gate.keys.is_open:
            return self._api.gate.sessions.begin(ANYONE), ANYONE
        return None

    async def _miss(self, request: Request) -> Response:
        """There is no such page; programs are told as the API tells them."""
        if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(404)

        async def tell(request: Request) -> Response:
            if self._enter(request) is None:
                return RedirectResponse("/login", 303)
            raise refuse("not-found", request.url.path[:200], "the navigation leads to all pages")

        return await self._guard("elsewhere", tell)(request)

    async def _log_in(self, request: Request) -> Response:
        sessions, keys = self._api.gate.sessions, self._api.gate.keys
        leads_to = _safe_path(request.query_params.get("next", "/"))
        if request.method == "GET":
            if keys.is_open:
                return RedirectResponse(leads_to, 303)
            return self._render("login", request, None, next=leads_to, problem=None)
        _check_origin(request)
        self._api.gate.guard.check(request.client.host if request.client else "")
        fields = await self._read_form(request)
        try:
            key = keys.admit(f"Bearer {fields.get('key', '')}", Scope.VIEW)
            if keys.find(key.sha256) is None:
                raise refuse("no-key", "this is an access token", "log in at its provider")
        except RequestError as error:
            status = error.problem.status
            rendering.log.warning("console_login_refused", reason=str(error))
            return self._render(
                "login", request, None, status, next=leads_to, problem=error.problem
            )
        rendering.log.info("console_login", key=key.name, role=role_of(key))
        return self._set_session(
            RedirectResponse(leads_to, 303), sessions.write(sessions.begin(key))
        )

    async def _go_to_provider(self, request: Request) -> Response:
        leads_to = _safe_path(request.query_params.get("next", "/"))
        begun = await self._find_sign_on().begin(leads_to)
        response = RedirectResponse(begun.url, 303)
        # Lax, for the provider's page is another site's, and leads back with it.
        response.set_cookie(
            single_sign_on.COOKIE,
            begun.cookie,
            max_age=single_sign_on.LIFETIME_S,
            path="/login",
            secure=self._api.gate.is_secure,
            httponly=True,
            samesite="lax",
        )
        return response

    async def _come_from_provider(self, request: Request) -> Response:
        sessions = self._api.gate.sessions
        key, leads_to = await self._find_sign_on().finish(
            request.query_params, request.cookies.get(single_sign_on.COOKIE, "")
        )
        rendering.log.info("console_login", key=key.name, role=role_of(key), sha256=key.sha256)
        # A page of its own: a browser that another site leads on would not send the session.
        response = self._render("entered", request, None, next=_safe_path(leads_to))
        response.delete_cookie(single_sign_on.COOKIE, path="/login", httponly=True, samesite="lax")
        return self._set_session(response, sessions.write(sessions.begin_without_key(key)))

    def _find_sign_on(self) -> single_sign_on.SingleSignOn:
        sign_on = self._api.gate.sign_on
        if sign_on is None:
            raise refuse("not-found", "oidc.issuer is not set", "log in with a key")
        return sign_on

    async def _log_out(self, request: Request) -> Response:
        session = self._api.find_session(request)
        fields = await self._read_form(request)
        if session:
            check_token(session, fields.get("csrf", ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def _act(self, request: Request) -> Response:
        """Do what a form asks for, and lead back to where it was sent from."""
        entered = self._enter(request)
        if entered is None:
            raise refuse("no-key", "nobody has logged in", "log in")
        session, key = entered
        operation = self._operations.get(request.path_params["operation"])
        if operation is None or not operation.is_action or not operation.is_admin:
            raise refuse("not-found", request.url.path, "send a form of this console's pages")
        fields = await self._read_form(request)
        check_token(session, fields.pop("csrf", ""))
        self._api.gate.keys.use(key, operation.scope)
        leads_to = _safe_path(fields.pop("next", "/"))
        names = re.findall(r"{(\w+)}", operation.path)
        path = {name: fields.pop(name, "") for name in names}
        body = _read_body(operation, fields) if operation.body else None
        raw = encode(body) if body else b""
        call = ApiCall(key, raw, body, None, path, request.headers)
        await observe(operation.name, self._service.find_work(operation)(call), call.headers)
        mark = "&" if "?" in leads_to else "?"
        return RedirectResponse(f"{leads_to}{mark}{urlencode({'done': operation.name})}", 303)

    async def _read_form(self, request: Request) -> dict[str, str]:
        raw = await self._api.read_body(request, (FORM,))
        try:
            found = parse_qs(
                raw.decode(),
                keep_blank_values=True,
                strict_parsing=bool(raw),
                errors="strict",
                max_num_fields=_FORM_FIELDS,
            )
        except ValueError as error:
            raise refuse(
                "invalid-field", "the form cannot be read", "send it from a page"
            ) from error
        return {name: values[-1] for name, values in found.items()}

    def _tell_problem(self, request: Request, error: RequestError) -> Response:
        entered = None
        if not self._api.gate.keys.is_open or error.problem.type != "/docs#no-key":
            entered = self._enter(request)
        response = self._render(
            "problem", request, entered, error.problem.status, problem=error.problem
        )
        response.headers.update(error.headers)
        return response

    def _render(
        self,
        area: str,
        request: Request,
        who: tuple[Session, ApiKey] | None,
        status: int = 200,
        **context: Any,
    ) -> Response:
        session, key = who or (None, None)
        done = self._operations.get(request.query_params.get("done", ""))
        body = self._templates.get_template(f"{area}.html").render(
            area=area,
            key=key,
            role=role_of(key) if key else "",
            csrf=session.csrf if session else "",
            is_open=self._api.gate.keys.is_open,
            has_sign_on=self._api.gate.sign_on is not None,
            done=done.summary if done else "",
            may={scope.value: bool(key and has_scope(key, scope)) for scope in Scope},
            here=_own_path(request),
            **context,
        )
        response = Response(body, status, media_type="text/html")
        if session and self._api.gate.keys.is_open:
            self._set_session(response, self._api.gate.sessions.write(session))
        return response

    def _set_session(self, response: Response, cookie: str) -> Response:
        gate = self._api.gate
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=gate.sessions.lifetime_s,
            path="/",
            secure=gate.is_secure,
            httponly=True,
            samesite="strict",
        )
        return response


def _own_path(request: Request) -> str:
    """Where a request was sent to, to come back to it."""
    query = f"?{request.url.query}" if request.url.query else ""
    return quote(request.url.path, safe="/%:@") + query


def _safe_path(given: str) -> str:
    """A path of this console; whatever else was given leads to the first page.

    >>> [_safe_path(each) for each in ("/items?x=1", "//evil.example", "https://evil.example")]
    ['/items?x=1', '/', '/']
    """
    return given if re.fullmatch(r"/(?![/\\])[^\\\x00-\x20]*", given) else "/"


def _check_origin(request: Request) -> None:
    """Refuse a form that a page of another site sends.

    Raises:
        RequestError: it is one.
    """
    origin = request.headers.get("origin", "")
    host = origin.partition("://")[2]
    if origin and host != request.headers.get("host", ""):
        raise refuse("scope", f"the form is of {origin[:80]!r}", "send it from this console's page")


def _pick(request: Request, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """What a page's path and query say of an operation's fields, if not left empty.

    What stands in the query several times is a list, and so is the one of a field of lists. A time
    may be written out, as a browser's field for times sends it: UTC.
    """
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        given = [value for value in request.query_params.getlist(name) if value]
        if name in request.path_params:
            found[name] = request.path_params[name]
        elif given:
            is_list = isinstance(msgspec.inspect.type_info(field.type), msgspec.inspect.ListType)
            one = rendering.read_clock(given[-1]) if name in _TIMES else given[-1]
            found[name] = given if is_list else one
    return found


def _convert(fields: Mapping[str, Any], kind: type[msgspec.Struct]) -> Any:
    """What a form or a query holds as a struct.

    Raises:
        EventError: a field breaks the contract.
    """
    try:
        return convert(dict(fields), kind, strict=False)
    except msgspec.ValidationError as error:
        raise explain_refusal(str(error), lambda name: fields.get(name, "")) from error


def _read_body(operation: Operation, fields: dict[str, str]) -> Any:
    """The body of an operation from a form: its fields, or all of it as JSON in the field `json`.

    What is left empty is left out.

    Raises:
        EventError: a field breaks the contract.
    """
    assert operation.body is not None
    text = fields.pop("json", "")
    given = {name: value for name, value in fields.items() if value.strip()}
    if not text:
        return _convert(given, operation.body)
    try:
        told = read_json(text, dict[str, Any])
    except DocumentError as error:
        raise EventError("json", text, f"expected a JSON object: {error}") from error
    return _convert({**told, **given}, operation.body)
