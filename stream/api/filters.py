"""What a request says of its list: a placement, a filter, a limit; and what is wrong with it."""

from contextlib import suppress
from typing import NamedTuple
from uuid import uuid4

from headwater_client import EventError, contract
from headwater_client.contract import PlacementAnswer, PlacementRules
from headwater_client.rules import ListRules
from msgspec.structs import replace

from features.placements import PlacementTable
from features.rules.compiler import PERSON, SEGMENT
from features.rules.conditions import Scope
from features.rules.errors import RuleError
from features.rules.filters import EVERYTHING, compile_filter
from features.rules.plans import check_rules, check_scope, find_conditions, has_rules, merge_rules
from stream.api.answers import Question
from stream.api.problems import RequestError, describe_field, make_problem
from stream.filtering import FilterableItems, ItemFilter
from stream.list_rules import RequestRules
from stream.row_updates import RowView
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
        bound: the same rules for this request; None where its list is the best by their scores.
        list_id: the recommendation_id of the list; what is left to chance falls by it.
    """

    limit: int | None = None
    wanted: ItemFilter | None = None
    placement: PlacementAnswer | None = None
    rules: PlacementRules | None = None
    tried: "TriedRules | None" = None
    bound: RequestRules | None = None
    list_id: str = ""

    def ask(self, view: RowView, *, explained: bool = False) -> Question:
        """The question of such a list for a person."""
        return Question(view, self.limit, wanted=self.wanted, explained=explained, rules=self.bound)

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


class _Asked(NamedTuple):
    """A request, its own filter and rules, what expressions get of it, and the id of its list."""

    query: ListQuery
    own: ItemFilter | None
    rules: ListRules | None
    scope: Scope
    list_id: str


def asks_for_person(
    placements: PlacementTable, trials: PlacementTrials, query: ListQuery | contract.RankQuery
) -> bool:
    """Whether an expression of a request, or of its placement, asks what is known of the person."""
    texts = [] if query.filter is None else [query.filter]
    if (own := getattr(query, "rules", None)) is not None:
        texts += [text for _, text in find_conditions(own)]
    placed = placements.known.get(getattr(query, "placement", None) or "")
    if placed is not None:
        part = _find_part(trials, placed, query)
        rules = [placed.placement, part and (part.tried or part.shadow)]
        texts += [text for each in rules if each for _, text in find_conditions(each)]
    return any(map(_asks_for_person, texts))


def hides_by_person(placements: PlacementTable, query: ListQuery | contract.RankQuery) -> bool:
    """Whether what is known of the person decides which items may be shown at all."""
    placed = placements.known.get(getattr(query, "placement", None) or "")
    texts = [query.filter, placed.placement.filter if placed else None]
    return any(_asks_for_person(text) for text in texts if text is not None)


def _asks_for_person(text: str) -> bool:
    # Most name no person: then nothing has to be compiled. What has a fault is refused at its use.
    with suppress(RuleError):
        return (PERSON in text or SEGMENT in text) and compile_filter(text).asks_for_person
    return False


def _find_part(
    trials: PlacementTrials, placed: PlacementAnswer, query: ListQuery | contract.RankQuery
) -> PlacementPart | None:
    # A guest is somebody new each time, of whom no trial can learn.
    person = query.person if isinstance(query, contract.RecommendationQuery) else None
    return None if person is None else trials.assign(placed, person)


def read_wish(
    items: FilterableItems,
    placements: PlacementTable,
    trials: PlacementTrials,
    query: ListQuery,
    scope: Scope,
) -> ListWish:
    """What a request says of its list.

    Args:
        scope: what expressions get of the request.

    Raises:
        EventError: there is no such placement.
        RequestError: a filter cannot be used.
    """
    asked = _Asked(
        query,
        _read_wanted(items, query, scope),
        _check_rules(items, placements, getattr(query, "rules", None), scope),
        scope,
        uuid4().hex,
    )
    if query.placement is None:
        return _bind(items, PlacementRules(), asked)._replace(rules=None)
    placed = placements.known.get(query.placement)
    if placed is None:
        there = ", ".join(sorted(placements.known)) or "none"
        remedy = f"there are {there}: headwater placements put {query.placement}"
        raise EventError("placement", query.placement, remedy)
    try:
        wish = _bind(items, placed.placement, asked)._replace(placement=placed)
    except RuleError as error:
        raise describe_rule(error, "placement") from error
    part = _find_part(trials, placed, query)
    return wish if part is None else _try_out(items, part, wish, asked)


def _check_rules(
    items: FilterableItems,
    placements: PlacementTable,
    rules: ListRules | None,
    scope: Scope,
) -> ListRules | None:
    """The rules of a request itself.

    Raises:
        RequestError: they cannot be used, or ask for what no item, or not this request, has.
    """
    if rules is None:
        return None
    try:
        check_rules(rules, items.table.attributes, placements.segments)
        check_scope(rules, scope)
    except RuleError as error:
        raise describe_rule(error, f"rules.{error.field}") from error
    except EventError as error:
        raise RequestError(describe_field(error, "rules")) from error
    return rules


def _bind(items: FilterableItems, rules: PlacementRules, asked: _Asked) -> ListWish:
    """Rules for one request.

    Raises:
        RuleError: the request lacks what they ask for.
    """
    query, wanted, own, scope, list_id = asked
    if rules.filter is not None:
        bound_filter = items.apply_filter(rules.filter, scope)
        wanted = bound_filter.join(wanted) if wanted else bound_filter
    check_scope(rules, scope)
    whole = rules if own is None else merge_rules(rules, own)
    bound = RequestRules(items, whole, scope, wanted, list_id) if has_rules(whole) else None
    limit = query.limit or rules.limit
    return ListWish(limit, wanted, rules=rules, bound=bound, list_id=list_id)


def _try_out(
    items: FilterableItems, part: PlacementPart, wish: ListWish, asked: _Asked
) -> ListWish:
    """The list as this person's part in the trial of its placement has it.

    Rules that cannot be used for a request are a failure of theirs: the placement's own answer.

    Args:
        wish: by the placement's own rules.
    """
    rules = part.tried or part.shadow
    if rules is None:
        return wish._replace(tried=TriedRules(part))
    try:
        bound = _bind(items, rules, asked)._replace(placement=wish.placement)
    except RuleError as error:
        return wish._replace(tried=TriedRules(part, f"the rules that are tried out: {error}"))
    if part.tried is not None:
        return bound._replace(tried=TriedRules(part))
    return wish._replace(tried=TriedRules(part, shadow=bound))


def _read_wanted(items: FilterableItems, query: ListQuery, scope: Scope) -> ItemFilter | None:
    """What a request itself lets into its list: by its filter, of its candidates; None: all.

    Raises:
        RequestError: the filter cannot be used.
    """
    wanted = read_filter(items, query.filter, scope)
    if not isinstance(query, contract.RecommendationQuery) or query.candidates is None:
        return wanted
    chosen = ItemFilter(items, EVERYTHING, scope, frozenset(query.candidates))
    return wanted.join(chosen) if wanted else chosen


def read_filter(items: FilterableItems, text: str | None, scope: Scope) -> ItemFilter | None:
    """The filter of a request; None where it has none.

    Raises:
        RequestError: it cannot be used, or asks for what no item, or not this request, has.
    """
    if text is None:
        return None
    try:
        return items.make_filter(text, scope)
    except RuleError as error:
        raise describe_rule(error, "filter") from error


def describe_rule(error: RuleError, field: str) -> RequestError:
    """The refusal of an expression."""
    problem = make_problem("invalid-field", f"{field}: {error}", error.problem)
    at = {"field": field, "value": error.near, "line": error.line, "column": error.column}
    return RequestError(replace(problem, **at))
