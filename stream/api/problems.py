"""What is wrong with a request, as RFC 9457 has it: kinds of problems, and how errors become one.

Errors:
    HeadwaterError
    └── RequestError: a request is refused; it has the problem that is answered
"""

from collections.abc import Mapping
from typing import NamedTuple

from headwater_client import EventError, HeadwaterError
from headwater_client.contract import Problem
from msgspec.structs import replace

MEDIA_TYPE = "application/problem+json"
RETRY_S = 1


class ProblemKind(NamedTuple):
    """A kind of problem: its status, its title, and what its line in `/docs` says."""

    status: int
    title: str
    text: str


KINDS = {
    "invalid-field": ProblemKind(
        400,
        "A field is not as it must be",
        "`field` names it, `value` is what it holds, `remedy` what is expected.",
    ),
    "no-key": ProblemKind(
        401, "No key that is known", "Send `Authorization: Bearer KEY`, of a key that is in use."
    ),
    "scope": ProblemKind(
        403, "The key is not for this", "`remedy` names the scope that is asked for."
    ),
    "not-found": ProblemKind(
        404, "Nothing is there", "`detail` says what; this page lists all paths that there are."
    ),
    "method": ProblemKind(
        405, "Not by this method", "The header `Allow` names those that there are."
    ),
    "conflict": ProblemKind(
        409, "It is otherwise already", "`detail` says how it is; what was said first stays."
    ),
    "too-large": ProblemKind(
        413,
        "The request is too large",
        "Send less at once; `remedy` says how much. Where a message is larger than its topic "
        "takes, `field` names what to shorten.",
    ),
    "media-type": ProblemKind(
        415, "Not of this media type", "Send JSON, with `Content-Type: application/json`."
    ),
    "rate": ProblemKind(
        429, "Too many requests", "The key's rate is used up: wait as `Retry-After` says."
    ),
    "unexpected": ProblemKind(
        500,
        "An error of the service",
        "`detail` has a reference to its trace in the service's log.",
    ),
    "no-counterpart": ProblemKind(
        501,
        "Headwater has no counterpart of this",
        "Of another system's interface: `detail` says why, and what there is instead.",
    ),
    "unavailable": ProblemKind(
        503,
        "A server is away",
        "Send the same again, with the same `event_id`: what had arrived counts once.",
    ),
}


class RequestError(HeadwaterError):
    """A request is refused: it has the problem to answer with, and headers of its own."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail or problem.title)
        self.problem = problem
        self.headers = dict(headers or {})


def make_problem(kind: str, detail: str = "", remedy: str = "") -> Problem:
    """A problem of a kind.

    >>> make_problem("scope", "the key `shop` may not", "ask").status
    403
    """
    known = KINDS[kind]
    return Problem(
        type=f"/docs#{kind}", title=known.title, status=known.status, detail=detail, remedy=remedy
    )


def describe_field(error: EventError, place: str = "") -> Problem:
    """The problem of a field that breaks the contract.

    Args:
        place: where in the request the object is that has the field, such as `events[2]`.

    >>> describe_field(EventError("limit", 0, "expected 1"), "lists[2]").field
    'lists[2].limit'
    """
    inner = "" if error.field.startswith("<") else error.field
    where = ".".join(filter(None, (place, inner))) or error.field
    problem = make_problem("invalid-field", f"{where}: {error.value}: {error.expected}")
    return replace(problem, field=where, value=error.value, remedy=error.expected)


def refuse(kind: str, detail: str = "", remedy: str = "", **headers: str) -> RequestError:
    """The error of a refused request; `retry_after="1"` becomes the header `Retry-After`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return RequestError(make_problem(kind, detail, remedy), named)
