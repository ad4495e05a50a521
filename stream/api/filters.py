"""What a request says of its list: a placement, a filter, a limit; and what is wrong with it."""

from collections.abc import Mapping
from typing import NamedTuple

from headwater_client import EventError, contract
from headwater_client.contract import PlacementAnswer, PlacementRules
from msgspec.structs import replace

from features.placements import PlacementTable
from features.rules.errors import RuleError
from stream.api.problems import RequestError, make_problem
from stream.filtering import FilterableItems, ItemFilter
from stream.trials import PlacementPart, PlacementTrials

ListQuery = contract.RecommendationQuery | contract.SimilarQuery | contract.TogetherQuery


class ListWish(NamedTuple):
    """What a list is to be.

    Attributes:
        limit: items, at most; None: `worker.top_k`.
        wanted: which items; None: all.
        placement: which it is for.
        rules: of the placement, or those that are tried out there.
        tried: where other rules of the placement are tried out.
    """

    limit: int | None = None
    wanted: ItemFilter | None = None
    placement: PlacementAnswer | None = None
    rules: PlacementRules | None = None
    tried: "TriedRules | None" = None

    @property
    def is_empty_without_version(self) -> bool:
        """Whether nothing is shown where no version answers."""
        return self.rules is not None and self.rules.fallback is contract.Fallback.NOTHING

    @property
    def revision(self) -> int | None:
        """Of the placement's rules; None for rules that are tried out, which have none yet."""
        if self.placement is None or self.rules is not self.placement.placement:
            return None
        return self.placement.revision


class TriedRules(NamedTuple):
    """What is tried out of a placement, for one request.

    Attributes:
        failed: why the rules that are tried out cannot be used for it; "" where they can, or are
            not to be used.
        shadow: a list that is made by them besides, and that nobody sees.
    """

    part: PlacementPart
    failed: str = ""
    shadow: ListWish | None = None


def read_wish(
    items: FilterableItems,
    placements: PlacementTable,
    trials: PlacementTrials,
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
    try:
        wish = _bind(items, placed.placement, query, own)._replace(placement=placed)
    except RuleError as error:
        raise describe_rule(error, "placement") from error
    # A guest is somebody new each time, of whom no trial can learn.
    person = query.person if isinstance(query, contract.RecommendationQuery) else None
    part = trials.assign(placed, person) if person is not None else None
    return wish if part is None else _try_out(items, part, wish, (query, own))


def _bind(
    items: FilterableItems,
    rules: PlacementRules,
    query: ListQuery,
    own: ItemFilter | None,
) -> ListWish:
    """Rules for one request.

    Raises:
        RuleError: the request lacks what they ask for.
    """
    wanted = own
    if rules.filter is not None:
        bound = items.apply_filter(rules.filter, {"context": query.context})
        wanted = bound.join(own) if own else bound
    return ListWish(query.limit or rules.limit, wanted, rules=rules)


def _try_out(
    items: FilterableItems,
    part: PlacementPart,
    wish: ListWish,
    asked: tuple[ListQuery, ItemFilter | None],
) -> ListWish:
    """The list as this person's part in the trial of its placement has it.

    Rules that cannot be used for a request are a failure of theirs: the placement's own answer.

    Args:
        wish: by the placement's own rules.
        asked: the request, and its own filter.
    """
    rules = part.tried or part.shadow
    if rules is None:
        return wish._replace(tried=TriedRules(part))
    try:
        bound = _bind(items, rules, *asked)._replace(placement=wish.placement)
    except RuleError as error:
        return wish._replace(tried=TriedRules(part, f"the rules that are tried out: {error}"))
    if part.tried is not None:
        return bound._replace(tried=TriedRules(part))
    return wish._replace(tried=TriedRules(part, shadow=bound))


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
