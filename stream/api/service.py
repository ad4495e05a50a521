"""What each operation of the API does. The transport knows nothing of this, nor this of HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import numpy as np
from headwater_client import (
    EVENT_TYPES,
    EventError,
    HeadwaterError,
    Interaction,
    RecommendedItem,
    contract,
    decode,
    encode,
)
from headwater_client.contract import Scope
from headwater_client.events import PersonAttributes, Recommendation
from headwater_client.topics import PLACEMENTS
from msgspec.structs import replace

from features import decay
from features.columns import AttributeValue
from features.events import current_ms
from features.placements import PlacementTable, check_placement
from features.rows import UserRow
from features.rules.errors import RuleError
from features.schema import FeatureSchema
from features.topics import Hash, hash64, partition_of
from stream.api.answers import Answerer, Found, Question
from stream.api.cloud_events import is_cloud, read_cloud_event, split_cloud_events
from stream.api.filters import ListWish, describe_rule, read_filter, read_wish
from stream.api.intake import (
    GUEST,
    Delivered,
    EventIntake,
    EventPublisher,
    TopicMessage,
    attributes_message,
    event_message,
    item_message,
    served_message,
    split_events,
)
from stream.api.keys import ApiKey, check_scope
from stream.api.problems import RETRY_S, RequestError, describe_field, make_problem, refuse
from stream.filtering import FilterableItems
from stream.ranking import POPULAR, popular_items
from stream.recommender import POPULAR_ITEMS, Recommender
from stream.routing import Routes
from stream.row_updates import RowReader, RowView

_CHUNK = 200
_LOOK_S = 0.02
_ACKNOWLEDGE = "Kafka has not acknowledged it in time: send it again with the same event_id"


@dataclass(frozen=True)
class ApiCall:
    """A request that was admitted and read.

    Attributes:
        key: whose it is.
        raw: the bytes of its body.
        body, query: as the operation's structs; None where it has none.
        path: the parts of the path that have names.
        headers: by their names in lower case.
    """

    key: ApiKey
    raw: bytes
    body: Any
    query: Any
    path: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ApiParts:
    """What the operations use.

    Attributes:
        items: what filters are evaluated over.
        read_attributes: what an app knows of a person.
        placements: those that count.
        sources: what rows call each partition of the log, by topic and number.
        top_k: items of a list that says no limit.
        deadline_s: how long an answer waits for what it could do without.
    """

    answerer: Answerer
    recommender: Recommender
    items: FilterableItems
    placements: PlacementTable
    rows: RowReader
    routes: Routes
    schema: FeatureSchema
    intake: EventIntake
    publisher: EventPublisher
    read_attributes: Callable[[str], Awaitable[Mapping[str, AttributeValue]]]
    sources: Mapping[tuple[str, int], Hash]
    top_k: int
    deadline_s: float


class ApiService:
    """The operations, by their names in `contract.OPERATIONS`."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._release = version("headwater")
        self._partitions = 1 + max(partition for _, partition in parts.sources)
        # Records that nobody waits for any more; asyncio alone would forget them.
        self._recording: set[asyncio.Task[list[Delivered]]] = set()

    async def send_events(self, call: ApiCall) -> contract.EventsAnswer:
        """Send events to Kafka, each by itself.

        Raises:
            RequestError: none of them was taken.
            EventError: it is no JSON.
        """
        intake = self._parts.intake
        if is_cloud(call.headers):
            raws = split_cloud_events(call.headers, call.raw)
            read: Callable[[bytes], Interaction] = partial(read_cloud_event, intake)
        else:
            raws, read = split_events(call.raw), intake.read
        outcomes, events = list[contract.EventAnswer](), dict[int, Interaction]()
        for place, raw in enumerate(raws):
            where = f"events[{place}]" if len(raws) > 1 else ""
            try:
                event = events[place] = read(raw)
                outcomes.append(contract.EventAnswer(accepted=True, event_id=event.event_id))
            except EventError as error:
                problem = describe_field(error, where)
                outcomes.append(contract.EventAnswer(accepted=False, problem=problem))
        messages = [event_message(event) for event in events.values()]
        delivered = await self._parts.publisher.publish(messages)
        for place, message, one in zip(events, messages, delivered, strict=True):
            if one.problem:
                remedy = "send it again, with its event_id"
                problem = make_problem("unavailable", one.problem, remedy)
                outcomes[place] = replace(outcomes[place], accepted=False, problem=problem)
            else:
                stands = {f"{message.topic}/{one.partition}": one.offset}
                outcomes[place] = replace(outcomes[place], place=stands)
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        if len(problems) == len(outcomes):
            raise _refuse_all(problems)
        accepted = len(outcomes) - len(problems)
        return contract.EventsAnswer(accepted=accepted, refused=len(problems), events=outcomes)

    async def recommend(self, call: ApiCall) -> contract.RecommendationAnswer:
        """The best items for a person.

        Raises:
            EventError: an event breaks the contract.
            RequestError: the key may not send events.
        """
        query: contract.RecommendationQuery = call.body
        _check_guest(query)
        awaited, wish = self._read_offsets(query), self._read_wish(query)
        events, recording = self._take_events(call, query)
        if awaited:
            await self._wait_until_absorbed(query.person or "", awaited)
        view = _view(query.person, events, query.exclude)._replace(merged_id=query.guest or "")
        question = Question(view, wish.limit, wanted=wish.wanted)
        found, recorded = await _both(self._parts.answerer.answer(question), recording)
        return self._list_answer(found, wish, query.person, recorded)

    async def find_similar(self, call: ApiCall) -> contract.RecommendationAnswer:
        """What a guest would be recommended who has looked at these items a moment ago."""
        query: contract.SimilarQuery = call.body
        now_ms = current_ms()
        kind = next(iter(EVENT_TYPES.values())).struct
        events = [
            kind(event_id=uuid4().hex, user_id=GUEST, item_id=item_id, timestamp=now_ms)
            for item_id in query.items
        ]
        view = _view(None, events, [*query.exclude, *query.items])
        wish = self._read_wish(query)
        found = await self._parts.answerer.answer(Question(view, wish.limit, wanted=wish.wanted))
        return self._list_answer(found, wish, None, None)

    async def rank_items(self, call: ApiCall) -> contract.RankAnswer:
        """The caller's list in order; as `recommend`."""
        query: contract.RankQuery = call.body
        wanted = read_filter(self._parts.items, query.filter, query.context)
        allowed = wanted.choose(query.items) if wanted else set(query.items)
        events, recording = self._take_events(call, query)
        question = Question(_view(query.person, events, ()), candidates=query.items)
        found, recorded = await _both(self._parts.answerer.answer(question), recording)
        shown = [item for item in found.items if item.item_id in allowed]
        placed = [contract.RankedItem(item.item_id, item.score, item.reason) for item in shown]
        left = allowed - {item.item_id for item in placed}
        rest = [name for name in dict.fromkeys(query.items) if name in left]
        described = _describe(found, found.lists.fallback)
        if query.person is not None:
            self._report_served(query.person, found._replace(items=shown), described)
        return contract.RankAnswer(
            **described,
            items=[*placed, *map(contract.RankedItem, rest)],
            person=query.person,
            **_describe_record(recorded),
        )

    async def list_popular(self, call: ApiCall) -> contract.PopularAnswer:
        """What is popular now; of items that are not available none."""
        query: contract.PopularQuery = call.query
        wanted = read_filter(self._parts.items, query.filter, {})
        views, now_ms = self._parts.recommender.items, current_ms()
        limit = query.limit or self._parts.top_k
        category = None if query.category is None else hash64(query.category)
        found: list[RecommendedItem] = []
        for start in range(0, len(views.trending.items.item_ids), _CHUNK):
            chunk = popular_items(views.trending.items, now_ms, _CHUNK, start)
            names = [item.item_id for item in chunk]
            allowed = wanted.choose(names) if wanted else set(names)
            try:
                async with asyncio.timeout(self._parts.deadline_s):
                    entries = await views.catalogue.get(names)
            except (HeadwaterError, TimeoutError):
                entries = views.catalogue.recall(names)
            found += [
                item
                for item in chunk
                if item.item_id in allowed
                and views.may_recommend(entries[item.item_id])
                and (category is None or category in entries[item.item_id].category_hashes)
            ]
            if len(found) >= limit:
                break
        return contract.PopularAnswer(items=found[:limit], produced_time=now_ms)

    async def describe_person(self, call: ApiCall) -> contract.PersonAnswer:
        """What is known of a person.

        Raises:
            RequestError: nothing is.
            ServerError: the store does not answer.
        """
        person = call.path["person"]
        async with asyncio.timeout(self._parts.deadline_s):
            (row,) = await self._parts.rows.read([RowView(person)])
            attributes = dict(await self._parts.read_attributes(person))
        if not row.offsets and not attributes:
            raise refuse("not-found", "nothing is known of this person", "send an event of theirs")
        return contract.PersonAnswer(
            person=person,
            counters=_counters(row, self._parts.schema),
            events=self._past_events(row),
            seen=len(row.seen),
            categories=len(row.categories),
            offsets={
                f"{topic}/{number}": row.offsets[source]
                for (topic, number), source in self._parts.sources.items()
                if source in row.offsets
            },
            attributes=attributes,
        )

    async def put_attributes(self, call: ApiCall) -> contract.AttributesAnswer:
        """Send what is known of a person to Kafka.

        Raises:
            EventError: the id is none that a person can have.
            RequestError: Kafka does not take it.
        """
        query: contract.AttributesQuery = call.body
        raw = encode({"user_id": call.path["person"], "attributes": query.attributes})
        message = attributes_message(decode(PersonAttributes, raw))
        (delivered,) = await self._parts.publisher.publish([message])
        if delivered.problem:
            raise refuse(
                "unavailable", delivered.problem, "send it again", retry_after=str(RETRY_S)
            )
        return contract.AttributesAnswer(
            place={f"{message.topic}/{delivered.partition}": delivered.offset}
        )

    async def put_items(self, call: ApiCall) -> contract.ItemsAnswer:
        """Send items to Kafka.

        Raises:
            RequestError: Kafka does not take one.
        """
        query: contract.ItemsQuery = call.body
        delivered = await self._parts.publisher.publish([item_message(one) for one in query.items])
        if failed := [one.problem for one in delivered if one.problem]:
            raise refuse(
                "unavailable",
                f"{len(failed)} of {len(delivered)} items: {failed[0]}",
                "send them again",
                retry_after=str(RETRY_S),
            )
        return contract.ItemsAnswer(accepted=len(delivered))

    async def tell_version(self, _: ApiCall) -> contract.VersionAnswer:
        """Which release answers, with which versions of the model."""
        return contract.VersionAnswer(release=self._release, versions=self._parts.routes.loaded)

    async def list_placements(self, _: ApiCall) -> contract.PlacementsAnswer:
        """All placements, by name."""
        known = self._parts.placements.known
        return contract.PlacementsAnswer(placements=[known[name] for name in sorted(known)])

    async def put_placement(self, call: ApiCall) -> contract.PlacementAnswer:
        """Send a placement to Kafka; this service follows it at once.

        Raises:
            EventError, RequestError: it could not be used, or Kafka does not take it.
        """
        name, placement = call.path["name"], call.body
        try:
            check_placement(name, placement)
            if placement.filter is not None:
                self._parts.items.check_filter(placement.filter)
        except RuleError as error:
            raise describe_rule(error, "filter") from error
        message = TopicMessage(PLACEMENTS, name, encode(placement))
        (delivered,) = await self._parts.publisher.publish([message])
        if delivered.problem:
            wait = str(RETRY_S)
            raise refuse("unavailable", delivered.problem, "send it again", retry_after=wait)
        self._parts.placements.take(name, placement, delivered.offset)
        return contract.PlacementAnswer(name=name, revision=delivered.offset, placement=placement)

    def _read_wish(self, query: contract.RecommendationQuery | contract.SimilarQuery) -> ListWish:
        return read_wish(self._parts.items, self._parts.placements, query)

    def _own_sources(self, person: str) -> dict[str, Hash]:
        """The sources that a person's events come from, by topic and partition."""
        own = partition_of(person, self._partitions)
        topics = EVENT_TYPES.topics
        return {f"{topic}/{own}": self._parts.sources[topic, own] for topic in topics}

    def _read_offsets(self, query: contract.RecommendationQuery) -> dict[Hash, int]:
        """What is waited for, by source.

        Raises:
            EventError: a guest has no row; or a person's events are elsewhere.
        """
        if not query.min_offset:
            return {}
        if query.person is None:
            raise EventError("person", "<missing>", "is required with min_offset: of whose row?")
        own = self._own_sources(query.person)
        for name in query.min_offset:
            if name not in own:
                expected = f"expected one of {', '.join(own)}, where this person's events are"
                raise EventError("min_offset", name, expected)
        return {own[name]: offset for name, offset in query.min_offset.items()}

    async def _wait_until_absorbed(self, person: str, wanted: Mapping[Hash, int]) -> None:
        """Wait until the stored row has absorbed so much, or the deadline is over."""
        with suppress(TimeoutError, HeadwaterError):
            async with asyncio.timeout(self._parts.deadline_s):
                while True:
                    (row,) = await self._parts.rows.read([RowView(person)])
                    if all(row.offsets.get(source, -1) >= at for source, at in wanted.items()):
                        return
                    await asyncio.sleep(_LOOK_S)

    def _take_events(
        self, call: ApiCall, query: "contract.RecommendationQuery | contract.RankQuery"
    ) -> tuple[list[Interaction], Coroutine[Any, Any, str] | None]:
        """The events of a request, and what sends them where they are to be recorded."""
        person = query.person
        events = []
        for place, raw in enumerate(query.events):
            try:
                events.append(self._parts.intake.read(bytes(raw), person or GUEST))
            except EventError as error:
                raise RequestError(describe_field(error, f"events[{place}]")) from error
        # That a list was seen changes no row.
        for_row = [event for event in events if not EVENT_TYPES.spec_of(event).about_list]
        if not (query.record and events):
            return for_row, None
        check_scope(call.key, Scope.SEND)
        if person is None:
            raise EventError("person", "<missing>", "is required with record: events have a person")
        return for_row, self._record(events)

    async def _record(self, events: Sequence[Interaction]) -> str:
        """Send events; why Kafka has not got them by the deadline, "" where it has."""
        messages = [event_message(event) for event in events]
        sending = asyncio.create_task(self._parts.publisher.publish(messages))
        self._recording.add(sending)
        sending.add_done_callback(self._recording.discard)
        try:
            async with asyncio.timeout(self._parts.deadline_s):
                delivered = await asyncio.shield(sending)
        except TimeoutError:
            return _ACKNOWLEDGE
        return next((one.problem for one in delivered if one.problem), "")

    def _list_answer(
        self, found: Found, wish: ListWish, person: str | None, recorded: str | None
    ) -> contract.RecommendationAnswer:
        # Also where a version answered, and nothing that it knows may be shown to this person.
        fallback = found.lists.fallback or all(item.reason == POPULAR for item in found.items)
        if fallback and wish.is_empty_without_version:
            found = found._replace(items=[])
        missing = max(0, (wish.limit or self._parts.top_k) - len(found.items))
        described, placed = _describe(found, fallback), wish.placement
        if person is not None:
            self._report_served(person, found, described, missing)
        return contract.RecommendationAnswer(
            **described,
            items=found.items,
            placement=placed.name if placed else "",
            placement_revision=placed.revision if placed else None,
            person=person,
            offsets=self._find_offsets(person, found.row),
            missing=missing,
            **_describe_record(recorded),
        )

    def _report_served(
        self, person: str, found: Found, described: Mapping[str, Any], missing: int = 0
    ) -> None:
        """Tell Kafka what a person was given: a rollout earns by it."""
        told = {name: value for name, value in described.items() if name != "event_age_ms"}
        served = Recommendation(
            **told,
            user_id=person,
            event_id="",
            items=found.items,
            event_time=described["produced_time"],
            latency_ms=found.lists.latency_ms,
            missing=missing,
        )
        self._parts.publisher.send(served_message(served))

    def _find_offsets(self, person: str | None, row: UserRow) -> dict[str, int]:
        if person is None or not row.offsets:
            return {}
        own = self._own_sources(person).items()
        return {name: row.offsets[source] for name, source in own if source in row.offsets}

    def _past_events(self, row: UserRow) -> list[contract.PastEvent]:
        """A row's history, by the names that the stable version has for the items."""
        types = {spec.code: name for name, spec in EVENT_TYPES.items()}
        stable, history = self._parts.routes.stable, row.history
        names: list[str | None] = [None] * len(history)
        if stable is not None:
            known = stable.vocabulary
            indices = known.indices(np.array([item for *_, item in history], np.int64))
            names = [known.item_ids[index] or None for index in indices.tolist()]
        return [
            contract.PastEvent(type=types[code], timestamp=time_ms, item_id=name)
            for (time_ms, code, _), name in zip(history, names, strict=True)
        ]


def _view(person: str | None, events: Sequence[Interaction], left_out: Sequence[str]) -> RowView:
    """Whose row is wanted; a guest is somebody new to a rollout each time."""
    if person is None:
        return RowView(uuid4().hex, events, left_out, is_guest=True)
    return RowView(person, events, left_out)


def _check_guest(query: contract.RecommendationQuery) -> None:
    """Refuse a guest who has become nobody, or who is the person: all would count twice.

    Raises:
        EventError: so it is.
    """
    if query.guest is None:
        return
    if query.person is None:
        raise EventError("person", "<missing>", "is required with guest: who is the guest now?")
    if query.guest == query.person:
        raise EventError("guest", query.guest, "expected another id than the person's")


async def _both(
    answer: Coroutine[Any, Any, Found], recording: Coroutine[Any, Any, str] | None
) -> tuple[Found, str | None]:
    """The answer, and what came of recording; both at once."""
    if recording is None:
        return await answer, None
    found, recorded = await asyncio.gather(answer, recording)
    return found, recorded


def _describe(found: Found, fallback: bool) -> dict[str, Any]:
    """What answers say of themselves."""
    lists = found.lists
    return {
        "recommendation_id": uuid4().hex,
        "model_version": POPULAR_ITEMS if fallback else lists.model_version,
        "variant": lists.variant,
        "fallback": fallback,
        "produced_time": current_ms(),
        "event_age_ms": found.event_age_ms,
        "rollout_id": lists.rollout_id,
        "failed": lists.failed,
    }


def _describe_record(recorded: str | None) -> dict[str, Any]:
    return {"recorded": recorded == "", "not_recorded": recorded or ""}


def _counters(row: UserRow, schema: FeatureSchema) -> dict[str, dict[str, float]]:
    """A row's counters as of now, by type of event and half-life."""
    lives = schema.user_half_lives
    values = decay.read(row.counters, row.reference_ms, current_ms(), lives)
    names = [*map(str, schema.settings.user_half_lives_ms), "all"]
    return {
        kind: dict(zip(names, values[at * len(lives) : (at + 1) * len(lives)], strict=True))
        for at, kind in enumerate(schema.event_types)
    }


def _refuse_all(problems: Sequence[contract.Problem]) -> RequestError:
    """The error of a request of which nothing was taken."""
    first = problems[0]
    headers = {"Retry-After": str(RETRY_S)} if first.status >= 500 else {}
    if len(problems) == 1:
        return RequestError(first, headers)
    kind = first.type.rpartition("#")[2]
    whole = make_problem(kind, f"none of {len(problems)} events was taken")
    return RequestError(replace(whole, errors=list(problems)), headers)
