"""What a dialect is, and what dialects share."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from headwater_client import EventError
from headwater_client.contract import Problem
from headwater_client.decoders import convert
from headwater_client.events import explain_refusal
from headwater_client.operations import Operation
from msgspec import Struct

from stream.api.parts import ApiCall
from stream.api.problems import refuse

PREFIX = "/compat"
Work = Callable[[ApiCall], Awaitable[Any]]
QueryT = TypeVar("QueryT", bound=Struct)


class Dialect(Protocol):
    """Another system's REST interface.

    Attributes:
        name: its paths begin with /compat/NAME.
        operations: its own, by the paths that follow; each is done by the method of its name.
        without_counterpart: those of them that are refused, with their summary.
    """

    name: str
    operations: Sequence[Operation]
    without_counterpart: Sequence[Operation]

    def write_problem(self, problem: Problem) -> tuple[bytes, str]:
        """A problem as the other system's clients show it, and its media type."""


def make_query(kind: type[QueryT], **fields: Any) -> QueryT:
    """A query of this API, checked; None is no field of it.

    Raises:
        EventError: a field breaks the contract.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return convert(given, kind)
    except msgspec.ValidationError as error:
        raise explain_refusal(str(error), lambda name: given[name]) from error


def make_call(call: ApiCall, **parts: Any) -> ApiCall:
    """The same caller's call of one of the API's own operations."""
    given = {"raw": b"", "body": None, "query": None, "path": {}} | parts
    return ApiCall(key=call.key, **given)


def find_work(dialect: Dialect, operation: Operation) -> Work:
    """What an operation does: the answer is written as JSON."""
    if operation in dialect.without_counterpart:
        return make_refusal(operation.summary)
    work: Work = getattr(dialect, operation.name)
    return work


def make_refusal(line: str) -> Work:
    """What answers a request that has no counterpart, and why."""

    async def answer(_: ApiCall) -> Any:
        raise refuse("no-counterpart", line)

    return answer


def describe_in_words(problem: Problem, names: Mapping[str, str]) -> str:
    """A problem in one line, its field named as the other system names it.

    Args:
        names: of fields there, by the names here.

    >>> describe_in_words(EXAMPLE, {"user_id": "UserId"})
    "feedback[2].UserId: '': Expected `str` of length >= 1"
    """
    if not problem.field:
        return ": ".join(filter(None, (problem.detail or problem.title, problem.remedy)))
    place, _, field = problem.field.rpartition(".")
    where = ".".join(filter(None, (place, names.get(field, field))))
    return f"{where}: {problem.value}: {problem.remedy}"


def check_page(offset: int, number: int, most: int) -> int:
    """How long a list has to be for its page.

    Raises:
        EventError: there are no such pages.
    """
    if offset < 0:
        raise EventError("offset", offset, "expected 0 or more")
    if number < 1:
        raise EventError("n", number, "expected 1 or more")
    if offset + number > most:
        raise EventError("n", number, f"expected at most {most} together with offset")
    return offset + number


EXAMPLE = Problem(
    type="",
    title="",
    status=400,
    field="feedback[2].user_id",
    value="''",
    remedy="Expected `str` of length >= 1",
)
