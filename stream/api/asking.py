"""Lists: for a person, like some items, of the caller's own in order."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any
from uuid import uuid4

from headwater_client import EVENT_TYPES, EventError, HeadwaterError, Interaction, contract
from headwater_client.events import ListRequest, PlacementTrial, Recommendation, Shadow
from msgspec.structs import replace

from features.columns import AttributeValue
from features.events import current_ms
from features.rules.compiler import PERSON, SEGMENT
from features.rules.conditions import Scope
from features.rules.segments import SegmentValues
from features.topics import Hash
from stream.api.answers import Found, Question
from stream.api.cursor import read_cursor
from stream.api.filters import (
    ListQuery,
    ListWish,
    asks_for_person,
    hides_by_person,
    read_filter,
    read_wish,
)
from stream.api.intake import GUEST, served_message
from stream.api.own_writes import OwnWrites
from stream.api.parts import ApiCall, ApiParts, Operations
from stream.api.problems import refuse
from stream.recommendations import POPULAR_ITEMS, count_places, is_fallback
from stream.row_updates import RowView


class ListOperations(Operations):
    """Answer with lists of items."""

    def __init__(self, parts: ApiParts) -> None:
        super().__init__(parts)
        self._writes = OwnWrites(parts)
        # Lists that nobody sees, and waits for; asyncio alone would forget them.
        self._unseen: set[asyncio.Task[None]] = set()

    async def recommend(self, call: ApiCall) -> contract.RecommendationAnswer:
        """The best items for a person.

        Raises:
            EventError: an event breaks the contract.
            RequestError: the key may not send events.
        """
        query: contract.RecommendationQuery = call.body
        _check_guest(query)
        awaited, wish = self._writes.read_offsets(query), await self._read_wish(query)
        cursor, shown = read_cursor(query), await self._read_shown(query)
        events, recording = self._writes.take_events(call, query)
        if awaited:
            await self._writes.wait_until_absorbed(query.person or "", awaited)
        view = make_view(query.person, events, query.exclude)._replace(
            merged_id=query.guest or "", left_out_hashes={*cursor.shown, *(shown or ())}
        )
        question = wish.ask(view, explained=query.explain)
        start_s = perf_counter()
        found, recorded = await wait_for_both(self._parts.answerer.answer(question), recording)
        seconds = perf_counter() - start_s
        answer, served = await self._list_answer(found, wish, query.person, recorded)
        if served is not None:
            is_plain = not events and query.guest is None
            served = replace(
                served,
                asked=_read_request(query),
                sequence=found.row.sequence if is_plain else None,
            )
            self._report(served, wish, view, seconds)
        return replace(
            answer,
            cursor="" if answer.missing else cursor.turn(item.item_id for item in answer.items),
            shown=None if shown is None else len(shown),
            not_explained=_find_unexplained(found) if query.explain else "",
        )

    async def _read_shown(self, query: contract.RecommendationQuery) -> set[Hash] | None:
        """What a request leaves out as shown; None where it does not, or the store cannot say.

        Raises:
            EventError: nothing is remembered: of a guest, or at all.
        """
        if not query.exclude_shown:
            return None
        if query.person is None:
            raise EventError("person", "<missing>", "is required with exclude_shown: to whom?")
        if not self._parts.shown.is_on:
            off = "nothing is remembered of lists: set api.shown_items"
            raise EventError("exclude_shown", query.exclude_shown, off)
        return await self._parts.shown.read([*filter(None, (query.person, query.guest))])

    async def find_similar(self, call: ApiCall) -> contract.RecommendationAnswer:
        """What a guest would be recommended who has looked at these items a moment ago."""
        query: contract.SimilarQuery = call.body
        view = make_view(None, make_looks(query.items), [*query.exclude, *query.items])
        wish = await self._read_wish(query)
        found = await self._parts.answerer.answer(wish.ask(view))
        answer, _ = await self._list_answer(found, wish, None, None)
        return answer

    async def rank_items(self, call: ApiCall) -> contract.RankAnswer:
        """The caller's list in order; as `recommend`."""
        query: contract.RankQuery = call.body
        wanted = read_filter(self._parts.items, query.filter, await self._read_scope(query))
        allowed = wanted.choose(query.items) if wanted else set(query.items)
        events, recording = self._writes.take_events(call, query)
        view = make_view(query.person, events, ())
        question = Question(view, candidates=query.items, explained=query.explain)
        found, recorded = await wait_for_both(self._parts.answerer.answer(question), recording)
        shown = [item for item in found.items if item.item_id in allowed]
        placed = [
            contract.RankedItem(item.item_id, item.score, item.reason, item.parts) for item in shown
        ]
        left = allowed - {item.item_id for item in placed}
        rest = [name for name in dict.fromkeys(query.items) if name in left]
        described = _describe(found, found.lists.fallback, uuid4().hex)
        if query.person is not None:
            served = _make_served(query.person, found._replace(items=shown), described)
            known = None if events else found.row.sequence
            self._parts.publisher.send(served_message(replace(served, sequence=known)))
        return contract.RankAnswer(
            **described,
            items=[*placed, *map(contract.RankedItem, rest)],
            person=query.person,
            not_explained=_find_unexplained(found) if query.explain else "",
            **_describe_record(recorded),
        )

    async def _read_wish(self, query: ListQuery) -> ListWish:
        scope = await self._read_scope(query)
        parts = self._parts
        return read_wish(parts.items, parts.placements, parts.trials, query, scope)

    async def _read_scope(self, query: ListQuery | contract.RankQuery) -> Scope:
        """What expressions get of a request; of the person only where they ask for it.

        Raises:
            RequestError: a filter asks for what is known of the person, and it cannot be read: what
                it would keep from them must not be shown.
        """
        if not asks_for_person(self._parts.placements, self._parts.trials, query):
            return {"context": query.context}
        person = await self._read_attributes(getattr(query, "person", None))
        if person is None:
            if hides_by_person(self._parts.placements, query):
                raise refuse(
                    "unavailable",
                    "what is known of the person cannot be read now, and a filter asks for it",
                    "ask again in a moment, or without that filter",
                    retry_after="1",
                )
            person = {}
        scope: Scope = {"context": query.context, PERSON: person}
        known = self._parts.placements.segments.items()
        segments = {name: each.segment.filter for name, each in known}
        return {**scope, SEGMENT: SegmentValues(segments, scope)}

    async def _read_attributes(self, person: str | None) -> Mapping[str, AttributeValue] | None:
        """What an app knows of a person, nothing of a guest; None while the store is away."""
        if person is None:
            return {}
        with suppress(HeadwaterError, TimeoutError):
            async with asyncio.timeout(self._parts.deadline_s / 2):
                return await self._parts.read_attributes(person)
        return None

    async def _list_answer(
        self, found: Found, wish: ListWish, person: str | None, recorded: str | None
    ) -> tuple[contract.RecommendationAnswer, Recommendation | None]:
        """The answer, and what Kafka is told of it: a rollout earns by it."""
        fallback = is_fallback(found.lists, found.items)
        if fallback and wish.is_empty_without_version:
            found = found._replace(items=[])
        described = _describe(found, fallback, wish.list_id)
        placed: dict[str, Any] = {"missing": self._missing(found, wish)}
        if wish.placement is not None:
            name, revision = wish.placement.name, wish.revision
            placed |= {"placement": name, "placement_revision": revision}
        served = None
        if person is not None:
            await self._parts.shown.add(person, [item.item_id for item in found.items])
            served = _make_served(person, found, described | placed)
        answer = contract.RecommendationAnswer(
            **described,
            **placed,
            items=found.items,
            placement_variant=wish.tried.part.variant if wish.tried else "",
            person=person,
            offsets=self._writes.find_offsets(person, found.row),
            **_describe_record(recorded),
        )
        return answer, served

    def _missing(self, found: Found, wish: ListWish) -> int:
        """How many items a list is short of."""
        return max(0, count_places(wish.limit, self._parts.top_k) - len(found.items))

    def _report(
        self, served: Recommendation, wish: ListWish, view: RowView, seconds: float
    ) -> None:
        """Tell Kafka what a person was given, and what rules on trial have to do with it."""
        if (tried := wish.tried) is None:
            self._parts.publisher.send(served_message(served))
            return
        trial = PlacementTrial(
            rollout_id=tried.part.rollout_id,
            variant=tried.part.variant,
            latency_ms=round(1000 * seconds, 3),
        )
        if tried.part.shadow is None:
            trial = replace(trial, failed=tried.failed)
            self._parts.publisher.send(served_message(replace(served, trial=trial)))
            return
        telling = asyncio.create_task(self._report_unseen(replace(served, trial=trial), wish, view))
        self._unseen.add(telling)
        telling.add_done_callback(self._unseen.discard)

    async def _report_unseen(self, served: Recommendation, wish: ListWish, view: RowView) -> None:
        """The same, with the list that rules on trial make unseen; the person has been answered."""
        assert wish.tried is not None
        assert served.trial is not None
        shadow = Shadow(model_version=served.model_version, failed=wish.tried.failed)
        if (unseen := wish.tried.shadow) is not None:
            question, start_s = unseen.ask(view), perf_counter()
            try:
                found = await self._parts.answerer.answer(question)
            except HeadwaterError as error:
                shadow = replace(shadow, failed=str(error))
            else:
                shadow = Shadow(
                    model_version=found.lists.model_version,
                    items=[item.item_id for item in found.items],
                    latency_ms=round(1000 * (perf_counter() - start_s), 3),
                    missing=self._missing(found, unseen),
                )
        trial = replace(served.trial, shadow=shadow)
        self._parts.publisher.send(served_message(replace(served, trial=trial)))


def _read_request(query: contract.RecommendationQuery) -> ListRequest | None:
    """What Kafka is told that was asked for, of a placement; of first pages only.

    What was left out because it was shown before, and what was chosen from, is nowhere in the log.
    """
    if query.placement is None or query.cursor or query.exclude_shown or query.candidates:
        return None
    return ListRequest(
        filter=query.filter or "",
        context=query.context,
        limit=query.limit,
        exclude=query.exclude,
    )


def _make_served(person: str, found: Found, described: Mapping[str, Any]) -> Recommendation:
    """What Kafka is told that a person was given."""
    told = {name: value for name, value in described.items() if name != "event_age_ms"}
    return Recommendation(
        **told,
        user_id=person,
        event_id="",
        items=[replace(item, parts={}) if item.parts else item for item in found.items],
        event_time=described["produced_time"],
        latency_ms=found.lists.latency_ms,
    )


def make_looks(item_ids: Sequence[str]) -> list[Interaction]:
    """Looks at some items, a moment ago."""
    now_ms, kind = current_ms(), next(iter(EVENT_TYPES.values())).struct
    return [
        kind(event_id=uuid4().hex, user_id=GUEST, item_id=item_id, timestamp=now_ms)
        for item_id in item_ids
    ]


def make_view(
    person: str | None, events: Sequence[Interaction], left_out: Sequence[str]
) -> RowView:
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


async def wait_for_both(
    answer: Coroutine[Any, Any, Found], recording: Coroutine[Any, Any, str] | None
) -> tuple[Found, str | None]:
    """The answer, and what came of recording; both at once."""
    if recording is None:
        return await answer, None
    found, recorded = await asyncio.gather(answer, recording)
    return found, recorded


def _find_unexplained(found: Found) -> str:
    """Why no item says what its score is the sum of; "" where one does."""
    if any(item.parts for item in found.items):
        return ""
    if is_fallback(found.lists, found.items):
        return "no version of the model answered"
    version = found.lists.model_version
    return (
        f"version {version} does not tell the parts of its scores: a release before this one has "
        "exported it, or written config.pbtxt of its model repository"
    )


def _describe(found: Found, fallback: bool, list_id: str) -> dict[str, Any]:
    """What answers say of themselves."""
    lists = found.lists
    return {
        "recommendation_id": list_id,
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
