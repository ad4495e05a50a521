"""Filters of requests: what is wrong with one is said at its column."""

from collections.abc import Mapping

from headwater_client import contract
from msgspec.structs import replace

from features.rules.errors import RuleError
from stream.api.problems import RequestError, make_problem
from stream.filtering import FilterableItems, ItemFilter


def read_filter(
    items: FilterableItems, text: str | None, context: Mapping[str, contract.ContextValue]
) -> ItemFilter | None:
    """The filter of a request; None where it has none.

    Raises:
        RequestError: it cannot be used, or asks for what no item, or not this request, has.
    """
    if text is None:
        return None
    try:
        return items.make_filter(text, {"context": context})
    except RuleError as error:
        problem = make_problem("invalid-field", f"filter: {error}", error.problem)
        at = {"field": "filter", "value": error.near, "line": error.line, "column": error.column}
        raise RequestError(replace(problem, **at)) from error
