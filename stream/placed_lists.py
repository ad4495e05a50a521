"""The lists of a worker follow the rules of a placement, where `worker.placement` names one.

What an expression asks of a request is the `context` of the event that led to the list.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import structlog
from headwater_client.contract import Fallback, PlacementAnswer
from headwater_client.errors import SettingsError

from features.columns import AttributeValue
from features.metrics import LogThrottle
from features.rules import compiler, filters, plans, segments
from features.rules.conditions import Scope
from features.rules.errors import RuleError
from features.schema import FeatureSchema
from features.store import RowStore
from features.topics import Hash
from stream.conversions import ConversionFollower
from stream.filtering import ItemFilter
from stream.item_follower import ItemFollower
from stream.list_rules import RequestRules
from stream.people import read_people
from stream.placement_follower import PlacementFollower
from stream.recommendations import ListPlacement, RecommendationRequest, recommendation_id
from stream.routing import Routes
from stream.settings import WorkerConfig
from stream.trending import TrendingSource

ReadPeople = Callable[[Sequence[str]], Awaitable[Sequence[Mapping[str, AttributeValue]]]]
"""What an app knows of each of some people."""
log = structlog.get_logger()


class WorkerPlacement:
    """Gives requests of the stream the rules of a placement, as they are now.

    Rules that cannot be used for an event, because its context lacks what they ask for, leave its
    list empty: what they would have left out must not be shown. A placement that is removed while
    the worker runs stays as it was last, until another one of its name comes.

    Args:
        name: of the placement.
    """

    def __init__(
        self,
        name: str,
        placements: PlacementFollower,
        items: ItemFollower,
        conversions: ConversionFollower,
        read_people: ReadPeople,
    ) -> None:
        self._name = name
        self._placements = placements
        self._items = items
        self._conversions = conversions
        self._read_people = read_people
        self._placed: PlacementAnswer | None = None
        self._told = LogThrottle()

    @property
    def tasks(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What keeps the rules and the catalogue up to date, for ever."""
        return self._placements.run, self._items.run, self._conversions.run

    async def start(self, sources: Mapping[tuple[str, int], Hash]) -> None:
        """Read the placements and the catalogue; once it is known which versions answer.

        Args:
            sources: what rows call each partition.

        Raises:
            SettingsError: there is no such placement.
            ServerError: Kafka or the store does not answer.
        """
        await self._placements.start()
        check_known(self._name, self._placements.table.known)
        await self._items.start(sources)

    async def place(
        self, requests: Sequence[RecommendationRequest]
    ) -> Sequence[RecommendationRequest]:
        """The requests with the rules of the placement.

        Raises:
            ServerError: the store does not answer what is known of people.
        """
        self._placed = self._placements.table.known.get(self._name, self._placed)
        if self._placed is None or not requests:
            return requests
        texts = [text for _, text in plans.find_conditions(self._placed.placement)]
        people: Sequence[Mapping[str, AttributeValue]] = [{}] * len(requests)
        if any(filters.compile_filter(text).asks_for_person for text in texts):
            people = await self._read_people([request.user_id for request in requests])
        pairs = zip(requests, people, strict=True)
        return [self._bind(request, self._placed, person) for request, person in pairs]

    def _bind(
        self,
        request: RecommendationRequest,
        placed: PlacementAnswer,
        person: Mapping[str, AttributeValue],
    ) -> RecommendationRequest:
        rules, event = placed.placement, request.event
        assert event is not None
        scope: Scope = {"context": event.context or {}, compiler.PERSON: person}
        known = self._placements.table.segments.items()
        conditions = {name: each.segment.filter for name, each in known}
        scope = {**scope, compiler.SEGMENT: segments.SegmentValues(conditions, scope)}
        hides_popular = rules.fallback is Fallback.NOTHING
        told = ListPlacement(placed.name, placed.revision, event.context or {}, hides_popular)
        request = request._replace(limit=rules.limit, placed=told)
        items = self._items.items
        try:
            plans.check_scope(rules, scope)
            wanted = items.apply_filter(rules.filter, scope) if rules.filter else None
        except RuleError as error:
            if lists := self._told.count():
                said = {"placement": placed.name, "reason": str(error), "lists": lists}
                log.warning("placement_unusable", **said)
            nothing = ItemFilter(items, filters.EVERYTHING, scope, frozenset())
            return request._replace(wanted=nothing)
        bound = None
        if plans.has_rules(rules):
            bound = RequestRules(items, rules, scope, wanted, recommendation_id(event))
        return request._replace(wanted=wanted, rules=bound)


def check_known(name: str, known: Mapping[str, PlacementAnswer]) -> None:
    """Refuse a placement that does not exist.

    Raises:
        SettingsError: so it is; it names those that there are.
    """
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise SettingsError(
            f"worker.placement: {name}: there is no such placement: there are {there}: make it: "
            f"headwater placements put {name}"
        )


def make_placement(
    config: WorkerConfig, store: RowStore, routes: Routes, trending: TrendingSource
) -> WorkerPlacement | None:
    """The placement of a worker's lists; None where the settings name none."""
    if config.worker.placement is None:
        return None
    refresh_s = config.worker.catalogue_refresh_s
    items = ItemFollower(config.kafka, store, routes, trending, refresh_s)
    schema = FeatureSchema(config.features)
    conversions = ConversionFollower(config.kafka, store, schema, items.items, refresh_s)
    following = PlacementFollower(config.kafka), items, conversions
    return WorkerPlacement(config.worker.placement, *following, partial(read_people, store))
