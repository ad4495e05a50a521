"""What a caller is told of a message that Kafka does not have."""

from typing import Any

from headwater_client import EventError, encode
from headwater_client.contract import Problem
from headwater_client.documents import read_json
from msgspec.structs import replace

from stream.api.intake import Delivered, TopicMessage
from stream.api.problems import RETRY_S, RequestError, describe_field, make_problem

AGAIN = "send it again"


def describe_undelivered(
    delivered: Delivered, message: TopicMessage, place: str = "", remedy: str = AGAIN
) -> Problem:
    """The problem of a message that Kafka does not have.

    One that is larger than its topic takes never gets there: it is the caller's to shorten, and the
    field that takes most of it is named.

    Args:
        place: where in the request it is, such as `events[2]`.
        remedy: where a server is away.
    """
    if not delivered.is_too_large:
        return make_problem("unavailable", delivered.problem, remedy)
    value = message.value or b""
    field, held = _find_largest(read_json(value, dict[str, Any]))
    size = len(encode(held))
    expected = (
        f"{size} of the message's {len(value)} bytes, more than the topic {message.topic} takes "
        "(max.message.bytes): shorten it"
    )
    problem = describe_field(EventError(field, held, expected), place)
    kind = make_problem("too-large")
    return replace(problem, type=kind.type, title=kind.title, status=kind.status)


def refuse_undelivered(
    delivered: Delivered, message: TopicMessage, place: str = ""
) -> RequestError:
    """The error of a request whose message Kafka does not have; as `describe_undelivered`."""
    problem = describe_undelivered(delivered, message, place)
    is_away = problem.status >= 500
    return RequestError(problem, {"Retry-After": str(RETRY_S)} if is_away else {})


def _find_largest(document: Any) -> tuple[str, Any]:
    """The path and value of the field that takes most of a document."""
    path, value = list[str](), document
    while isinstance(value, dict) and value:
        inner: dict[str, Any] = value
        name = max(inner, key=lambda each: len(encode(inner[each])))
        path.append(name)
        value = inner[name]
    return ".".join(path), value
