"""What a request says of its list: a placement, a filter, a limit; and what is wrong with it."""

from collections.abc import Mapping
from typing import NamedTuple

from headwater_client import EventError, contract
from headwater_client.contract import PlacementAnswer
from msgspec.structs import replace

from features.placements import PlacementTable
from features.rules.errors import RuleError
from stream.api.problems import RequestError, make_problem
from stream.filtering import FilterableItems, ItemFilter

ListQuery = contract.RecommendationQuery | contract.SimilarQuery | contract.TogetherQuery


class ListWish(NamedTuple):
    """What a list is to be.

    Attributes:
        limit: items, at most; None: `worker.top_k`.
        wanted: which items; None: all.
        placement: which it is for.
    """

    limit: int | None = None
    wanted: ItemFilter | None = None
    placement: PlacementAnswer | None = None

    @property
    def is_empty_without_version(self) -> bool:
        """Whether nothing is shown where no version answers."""
        kind = self.placement.placement.fallback if self.placement else None
        return kind is contract.Fallback.NOTHING


def read_wish(
    items: FilterableItems,
    placements: PlacementTable,
    query: ListQuery,
) -> ListWish:
    """What a request says of its list.

    Raises:
        EventError: there is no such placement.
        RequestError: a filter cannot be used.
    """
    own = read_filter(items, query.filter, query.context)
    if query.placement is None:
        return ListWish(query.limit, own)
    placed = placements.known.get(query.placement)
    if placed is None:
        there = ", ".join(sorted(placements.known)) or "none"
        remedy = f"there are {there}: headwater placements put {query.placement}"
        raise EventError("placement", query.placement, remedy)
    wanted = own
    if (text := placed.placement.filter) is not None:
        try:
            bound = items.apply_filter(text, {"context": query.context})
        except RuleError as error:
            raise describe_rule(error, "placement") from error
        wanted = bound.join(own) if own else bound
    return ListWish(query.limit or placed.placement.limit, wanted, placed)


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
        raise describe_rule(error, "filter") from error


def describe_rule(error: RuleError, field: str) -> RequestError:
    """The refusal of an expression."""
    problem = make_problem("invalid-field", f"{field}: {error}", error.problem)
    at = {"field": field, "value": error.near, "line": error.line, "column": error.column}
    return RequestError(replace(problem, **at))
