"""What a changed placement would have done on the log of the last days: `headwater rules replay`.

The lists are those of `served`. A person's row is made anew from the log, as it was when a list was
made; items are scored from it by the version that answers now, and the catalogue is as it is now.
How well that gives the logged lists again is part of the answer.
"""

import copy
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from headwater_client import EVENT_TYPES, EventError, ServerError, SettingsError, decode
from headwater_client.contract import PlacementRules
from headwater_client.topics import PLACEMENTS

from deploy.jobs.served_log import LoggedEvent, ServedList, credit_events, read_served_log
from deploy.settings import Settings
from features.columns import AttributeValue, CatalogueEntry
from features.events import current_ms
from features.kafka import ensure_sources, read_to_end, topic_consumer
from features.placement_topic import read_placements
from features.rows import UserRow, apply_event, empty_user, observation
from features.rules import arranging, compiler, filters, plans, segments
from features.rules.conditions import Scope
from features.rules.errors import RuleError
from features.schema import FIRST_ITEM, BoolArray, FeatureSchema, Int64Array
from features.settings import DAY_MS, BrokerSettings
from features.store import RowStore
from features.store.redis import RedisRowStore
from features.topics import hash64
from stream.conversions import ConversionFollower
from stream.filtering import FilterableItems, ItemFilter
from stream.item_follower import ItemFollower
from stream.people import read_attributes
from stream.recommendations import RecommendationRequest, count_places
from stream.recommender import Recommender, make_recommender
from stream.rollout_follower import make_follower
from trainer.policies.rules_replay import LoggedList, PlannedList, RulesComparison, compare_rules

# Items that are scored for each list: its places are among the best of them.
POOL = 100
_BATCH = 64
_TIMEOUT_MS = 30_000
_OF_TRIAL = "made by rules on trial"
_NO_RULES = "made by rules that the topic has no more"
_NO_REQUEST = (
    "what was asked for is not logged: of later pages, of candidates, or without what was shown "
    "before"
)
_EVERYTHING = "item.available"
_CANNOT_USE = "the changed rules cannot be used: "


@dataclass(frozen=True)
class RulesReplay:
    """What came of a replay.

    Attributes:
        logged: lists of the placement in the log.
        left_out: by reason, lists of the sample that say nothing.
        of_seen: whether only what was really seen is counted.
    """

    placement: str
    days: float
    logged: int
    left_out: Mapping[str, int]
    of_seen: bool
    comparison: RulesComparison


class Change(NamedTuple):
    """The rules of a placement that are asked about."""

    placement: str
    rules: PlacementRules


@dataclass(frozen=True)
class _Replayed:
    """A list, the rules that made it, its person's row of then, and what expressions get."""

    served: ServedList
    rules: PlacementRules
    row: UserRow
    scope: Scope


async def replay_rules(
    settings: Settings, change: Change, days: float, most_lists: int
) -> RulesReplay:
    """Compare changed rules with those that made the lists of the last days.

    Args:
        most_lists: that are compared; of fewer people, where there are more.

    Raises:
        SettingsError: there is no such placement, or no version answers.
        ServerError: a server does not answer.
    """
    revisions = read_revisions(settings.kafka, change.placement)
    since_ms = current_ms() - int(days * DAY_MS)
    log = read_served_log(settings.kafka, settings.events, change.placement, since_ms, most_lists)
    credit_events(log, settings.rollout)
    of_seen = log.keep_seen()
    left_out = Counter[str]()
    async with AsyncExitStack() as stack:
        core = await _Core.start(settings, stack)
        asked = []
        for served, row in _rows_of_then(log.lists, log.events, core):
            reason, rules = _find_rules(served, revisions)
            if rules is None:
                left_out[reason] += 1
            else:
                excluded = served.told.asked.exclude if served.told.asked else ()
                row.seen = array("q", sorted({*row.seen, *map(hash64, excluded)}))
                asked.append(_Replayed(served, rules, row, await core.read_scope(served)))
        lists = await core.plan(asked, change.rules, left_out)
    comparison = compare_rules(lists)
    return RulesReplay(change.placement, days, log.total, dict(left_out), of_seen, comparison)


def read_revisions(kafka: BrokerSettings, placement: str) -> dict[int, PlacementRules]:
    """The rules that a placement has had, by revision, as far as the topic has them still.

    Raises:
        SettingsError: there is no such placement.
        ServerError: the topic cannot be read.
    """
    found: dict[int, PlacementRules] = {}
    names = set()
    with closing(topic_consumer(kafka, PLACEMENTS)) as consumer:
        for message in read_to_end(consumer, PLACEMENTS):
            names.add((message.key() or b"").decode(errors="replace"))
            if message.key() == placement.encode() and message.value() is not None:
                try:
                    found[message.offset() or 0] = decode(PlacementRules, message.value())
                except EventError:
                    # It counted for nobody.
                    continue
    if not found:
        raise SettingsError(
            f"no placement is named {placement}: there are {', '.join(sorted(names)) or 'none'}"
        )
    return found


def _find_rules(
    served: ServedList, revisions: Mapping[int, PlacementRules]
) -> tuple[str, PlacementRules | None]:
    """The rules that made a list; else why it says nothing."""
    told = served.told
    if told.placement_revision is None:
        return _OF_TRIAL, None
    if told.asked is None:
        return _NO_REQUEST, None
    return _NO_RULES, revisions.get(told.placement_revision)


def _rows_of_then(
    lists: Sequence[ServedList], events: Mapping[str, Sequence[LoggedEvent]], core: "_Core"
) -> Iterator[tuple[ServedList, UserRow]]:
    """Each list with its person's row as the events up to then have made it."""
    by_person: dict[str, list[ServedList]] = {}
    for served in lists:
        by_person.setdefault(served.told.user_id, []).append(served)
    for person, own in by_person.items():
        row, waiting = empty_user(core.schema), list(reversed(events.get(person, ())))
        for served in own:
            while waiting and waiting[-1].time_ms <= served.time_ms:
                core.apply(row, waiting.pop())
            yield served, copy.deepcopy(row)


class _Core:
    """The serving core on the servers, as the API has it."""

    def __init__(
        self,
        settings: Settings,
        store: RowStore,
        recommender: Recommender,
        items: FilterableItems,
    ) -> None:
        self.schema = FeatureSchema(settings.features)
        self._top_k = settings.worker.top_k
        self._recommender = recommender
        self._items = items
        self._sources = ensure_sources(settings.kafka)
        self._read_attributes = partial(read_attributes, store)
        self._people: dict[str, Mapping[str, AttributeValue]] = {}
        known = read_placements(settings.kafka).segments
        self._segments = {name: each.segment.filter for name, each in known.items()}
        self._categories: Mapping[str, CatalogueEntry] = {}
        # By row: which items the version has not learned; and their hashes.
        self._new: BoolArray = np.zeros(0, np.bool_)
        self._hashes: Int64Array = np.zeros(0, np.int64)

    @classmethod
    async def start(cls, settings: Settings, stack: AsyncExitStack) -> "_Core":
        """Read routes, trends and the catalogue.

        Raises:
            SettingsError: no version answers.
            ServerError: a server does not answer.
        """
        # Nobody waits for these lists.
        patient = {"timeout_ms": _TIMEOUT_MS, "canary_timeout_ms": _TIMEOUT_MS}
        triton = settings.triton.model_copy(update=patient)
        config = settings.model_copy(update={"triton": triton}).worker_config
        store, follower = RedisRowStore(settings.store, any_server=True), make_follower(config)
        stack.push_async_callback(store.close)
        recommender = make_recommender(config, store, follower.routes)
        stack.push_async_callback(recommender.close)
        trending = recommender.items.trending
        items = ItemFollower(settings.kafka, store, follower.routes, trending, DAY_MS)
        stack.push_async_callback(items.close)
        await follower.start()
        stable = follower.routes.stable
        if stable is None:
            raise SettingsError("no version is live: train a first one: headwater train")
        await recommender.start()
        core = cls(settings, store, recommender, items.items)
        await items.start(core._sources)
        await ConversionFollower(settings.kafka, store, core.schema, items.items, DAY_MS).read_all()
        names = items.items.table.item_ids
        core._new = stable.vocabulary.indices_of(names) < FIRST_ITEM
        core._hashes = np.array([hash64(name) for name in names], np.int64)
        core._categories = await recommender.items.catalogue.get(names)
        return core

    def apply(self, row: UserRow, logged: LoggedEvent) -> None:
        """Let an event change a row, as a worker lets it."""
        if EVENT_TYPES.spec_of(logged.event).about_list:
            return
        entry = self._categories.get(logged.event.item_id)
        source = self._sources.get((logged.topic, logged.partition))
        if source is None:
            return
        categories = entry.category_hashes if entry else ()
        observed = observation(logged.event, source, logged.offset, categories)
        apply_event(row, observed, self.schema)

    async def read_scope(self, served: ServedList) -> Scope:
        """What the request brought, and what is known of its person now."""
        told, person = served.told.asked, served.told.user_id
        if person not in self._people:
            self._people[person] = dict(await self._read_attributes(person))
        brought = told.context if told else {}
        scope: Scope = {"context": brought, compiler.PERSON: self._people[person]}
        return {**scope, compiler.SEGMENT: segments.SegmentValues(self._segments, scope)}

    async def plan(
        self, asked: Sequence[_Replayed], rules: PlacementRules, left_out: Counter[str]
    ) -> list[LoggedList]:
        """How the rules of then, and the changed ones, make each list.

        Args:
            left_out: counts the lists that the changed rules cannot be used for.
        """
        found = []
        for start in range(0, len(asked), _BATCH):
            batch = []
            for each in asked[start : start + _BATCH]:
                try:
                    batch.append((each, self._filter(each, each.rules), self._filter(each, rules)))
                except RuleError as error:
                    left_out[f"{_CANNOT_USE}{error}"] += 1
            before = await self._score([(each, wanted) for each, wanted, _ in batch])
            after = await self._score([(each, wanted) for each, _, wanted in batch])
            for (each, old, new), was, would in zip(batch, before, after, strict=True):
                made = self._plan(each, each.rules, old, was)
                found.append(_make(each, made, self._plan(each, rules, new, would)))
        return found

    def _filter(self, asked: _Replayed, rules: PlacementRules) -> ItemFilter:
        """What may be in a list by some rules, and by what was asked for.

        Raises:
            RuleError: what was asked for lacks what they ask for.
        """
        told, scope = asked.served.told.asked, asked.scope
        found = self._items.apply_filter(rules.filter or _EVERYTHING, scope)
        own = told.filter if told else ""
        return found.join(self._items.apply_filter(own, scope)) if own else found

    async def _score(
        self, pairs: Sequence[tuple[_Replayed, ItemFilter]]
    ) -> list[arranging.ScoredItems]:
        """The best of what may be in each list, with their scores."""
        requests = [
            RecommendationRequest(
                asked.served.told.user_id,
                max(asked.served.time_ms, asked.row.reference_ms),
                asked.row,
                limit=POOL,
                wanted=wanted,
            )
            for asked, wanted in pairs
        ]
        found: dict[int, arranging.ScoredItems] = {}
        for call in self._recommender.prepare(requests):
            lists = await self._recommender.execute(call)
            if lists.fallback or lists.failed:
                raise ServerError(f"no version answers: {lists.failed or 'none is routed'}")
            for request, items in zip(call.requests, lists.items, strict=True):
                scores = np.array([item.score for item in items], np.float64)
                found[id(request)] = arranging.ScoredItems([item.item_id for item in items], scores)
        return [found[id(request)] for request in requests]

    def _plan(
        self,
        asked: _Replayed,
        rules: PlacementRules,
        wanted: ItemFilter,
        scored: arranging.ScoredItems,
    ) -> PlannedList:
        table, scope = self._items.table, asked.scope

        def evaluate(text: str) -> BoolArray:
            return self._items.find_mask(filters.compile_filter(text), scope).allowed

        fresh = ~np.isin(self._hashes, np.array(asked.row.seen, np.int64))
        allowed = wanted.find_rows() & fresh
        plan = replace(
            plans.plan_list(rules, table, evaluate, allowed, self._new),
            shifts=self._items.find_shifts(rules.objective),
        )
        told = asked.served.told.asked
        limit = told.limit if told and told.limit is not None else rules.limit
        return PlannedList(plan, [scored], count_places(limit, self._top_k))


def _make(asked: _Replayed, before: PlannedList, after: PlannedList) -> LoggedList:
    served = asked.served
    # Of a list that was seen, so much as was seen.
    items = served.told.items[: served.seen_to + 1 if served.seen_to >= 0 else None]
    chances = [1.0 if item.probability is None else item.probability for item in items]
    return LoggedList(
        name=served.told.recommendation_id,
        person=hash64(served.told.user_id),
        item_ids=[item.item_id for item in items],
        probabilities=np.array(chances, np.float64),
        rewards=served.rewards[: len(items)],
        before=before,
        after=after,
    )
