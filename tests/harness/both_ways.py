"""The same request over HTTP and over gRPC, whose answers and refusals have to be the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from headwater_client.operations import OPERATIONS

from stream.api.proto import rpc_name
from tests.harness.api_service import Service
from tests.harness.rpc_client import RpcCaller, same
from tests.harness.waiting import wait_until

_BY_NAME = {operation.name: operation for operation in OPERATIONS}
# What no two answers have in common, by operation. Each list has an id and a time of its own, and
# the newest event grows older until it is asked for again; each message that a request sends has an
# offset of its own, which is a placement's revision, too; each erasure has an id.
_LIST = frozenset({"recommendation_id", "produced_time", "event_age_ms"})
_OWN: dict[str, frozenset[str]] = {
    **dict.fromkeys(("recommend", "rank_items", "find_similar", "find_together"), _LIST),
    "list_popular": frozenset({"produced_time"}),
    **dict.fromkeys(
        ("send_events", "put_attributes", "merge_guest", "delete_item"), frozenset({"place"})
    ),
    **dict.fromkeys(
        ("put_placement", "delete_placement", "put_segment", "delete_segment"),
        frozenset({"revision"}),
    ),
    "erase_person": frozenset({"erasure_id", "offsets"}),
}
# The codes of gRPC by the statuses of HTTP, as its guide for services has them.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
}


@dataclass
class BothWays:
    """Asks both, and remembers which operations have answered.

    Requests are as the messages of gRPC have them, without the parts of the path: these are named.
    """

    service: Service
    caller: RpcCaller
    answered: set[str] = field(default_factory=set)

    def ask(
        self,
        name: str,
        asked: Mapping[str, Any] | None = None,
        again: Callable[[], object] = lambda: None,
        /,
        **parts: str,
    ) -> Any:
        """HTTP's answer, which gRPC's has to be, too.

        HTTP is asked before and after. Where its own two answers differ, something has moved
        meanwhile, and nothing can be said yet: what trends, how old an event is, what a worker has
        read. Nor can it where a server was late, and what trends stands in for its answer.

        Args:
            again: is called after each request: makes anew what it has removed.
        """
        method, path, body = _write_request(name, asked or {}, parts)
        answers: list[Any] = []

        def take() -> Any:
            answer = self.service.take(method, path, body)
            again()
            return _without_own(answer, _OWN.get(name, frozenset()))

        def hear() -> Any:
            answer = self.caller.call(rpc_name(_BY_NAME[name]), {**(asked or {}), **parts})
            again()
            return _without_own(answer, _OWN.get(name, frozenset()))

        def is_at_rest() -> bool:
            answers[:] = take(), hear(), take()
            failed = any(answer.get("failed") for answer in answers)
            return not failed and same(answers[0], answers[2])

        wait_until(is_at_rest, 20)
        told, heard, _ = answers
        assert same(told, heard), (name, told, heard)
        self.answered.add(name)
        return told

    def refuse(
        self, name: str, asked: Mapping[str, Any], secret: str | None = None, /, **parts: str
    ) -> Any:
        """HTTP's problem, which gRPC's status has to have in its details, with its fields named."""
        method, path, body = _write_request(name, asked, parts)
        status, problem = self.service.call(method, path, body, secret)
        caller = self.caller if secret is None else RpcCaller(self.caller.channel, secret)
        code, heard, fields = caller.refusal(rpc_name(_BY_NAME[name]), {**asked, **parts})
        assert (code, status) == (_CODES.get(status), problem["status"]), (name, problem, heard)
        assert same(problem, heard), (name, problem, heard)
        named = [each.get("field") for each in problem.get("errors") or [problem]]
        assert fields == [each for each in named if each], (name, problem, fields)
        return problem


def _write_request(
    name: str, asked: Mapping[str, Any], parts: Mapping[str, str]
) -> tuple[str, str, Any]:
    """HTTP's method, path and body of a request."""
    operation = _BY_NAME[name]
    path = operation.path.format_map({part: quote(value, "") for part, value in parts.items()})
    if operation.method == "GET":
        return "GET", f"{path}?{urlencode(asked)}" if asked else path, None
    if operation.method == "DELETE":
        return "DELETE", path, None
    return operation.method, path, asked["events"] if name == "send_events" else asked


def _without_own(answer: Any, own: frozenset[str]) -> Any:
    """An answer that says of what is its own only that it is there."""
    if isinstance(answer, list):
        return [_without_own(each, own) for each in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        name: "its own" if name in own and value not in ({}, None) else _without_own(value, own)
        for name, value in answer.items()
    }
