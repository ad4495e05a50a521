"""Metarank's REST interface: what its documentation asks works by another address."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec
from headwater_client import (
    EVENT_TYPES,
    EventError,
    Item,
    RecommendedItem,
    contract,
    decode,
    encode,
)
from headwater_client.operations import Operation
from msgspec import Struct
from msgspec.structs import replace as replace_fields

from stream.api.compat import metarank_forms
from stream.api.compat.dialect import make_call, make_query
from stream.api.compat.items import ItemEditor
from stream.api.compat.metarank_forms import MetarankEvent, RankRequest, RecommendRequest
from stream.api.compat.people import PersonEditor
from stream.api.compat.values import EventAliases
from stream.api.keys import check_scope
from stream.api.parts import ApiCall, ApiParts
from stream.api.problems import MEDIA_TYPE, RequestError, describe_field, refuse
from stream.api.service import ApiService


@dataclass
class _Feedback:
    """What a body held: events, items, people, and how many that have no counterpart, by kind."""

    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[MetarankEvent] = field(default_factory=list)
    people: list[MetarankEvent] = field(default_factory=list)
    without: Counter[str] = field(default_factory=Counter)


class ExplainQuery(Struct, frozen=True):
    """Whether it is told why."""

    explain: bool = False


OPERATIONS = (
    Operation("take_feedback", "POST", "/feedback", "", scope=contract.Scope.SEND),
    Operation("rank", "POST", "/rank/{model}", "", scope=contract.Scope.ASK, query=ExplainQuery),
    Operation("recommend", "POST", "/recommend/{model}", "", scope=contract.Scope.ASK),
    Operation("flush", "POST", "/flush", "", scope=contract.Scope.SEND),
)
_TRAIN = "training is not asked for here: headwater trainer learns from each window of events"
_INFERENCE = "texts are not encoded here: the model reads those of the catalogue"
NO_COUNTERPART = tuple(
    Operation("refuse_it", method, path, line)
    for method, path, line in (
        ("POST", "/train/{model}", _TRAIN),
        ("POST", "/inference/encoder/{model}", _INFERENCE),
        ("POST", "/inference/cross/{model}", _INFERENCE),
        ("GET", "/metrics", "ask /metrics of the service itself"),
        ("GET", "/health", "ask /livez and /readyz of the service itself: they need no key"),
    )
)


class MetarankDialect:
    """Metarank's interface, below `/compat/metarank`. The name of a model says nothing here.

    Args:
        service: what answers.
        parts: what it answers from.
        aliases: see `EventAliases`.

    Raises:
        SettingsError: an alias stands for no event.
    """

    name = "metarank"
    operations: Sequence[Operation] = (*OPERATIONS, *NO_COUNTERPART)
    without_counterpart: Sequence[Operation] = NO_COUNTERPART

    def __init__(self, service: ApiService, parts: ApiParts, aliases: Sequence[str]) -> None:
        self._service = service
        self._aliases = EventAliases(aliases)
        self._items = ItemEditor(service, parts)
        self._people = PersonEditor(service, parts)

    def write_problem(self, problem: contract.Problem) -> tuple[bytes, str]:
        """As it is: Metarank documents no form of its own."""
        return encode(problem), MEDIA_TYPE

    async def take_feedback(self, call: ApiCall) -> dict[str, Any]:
        """Interactions become events, items those of the catalogue, users attributes of people.

        Raises:
            RequestError: one breaks the contract, and none was taken; or none has a counterpart.
        """
        begin = perf_counter()
        read = self._read(call.raw)
        if read.items:
            check_scope(call.key, contract.Scope.ADMINISTER)
        accepted = await self._put_items(call, read.items) + await self._put_people(
            call, read.people
        )
        problems = [f"{count} of {kind}: {_WHY[kind]}" for kind, count in read.without.items()]
        for start in range(0, len(read.events), contract.MAX_EVENTS):
            raw = encode(read.events[start : start + contract.MAX_EVENTS])
            answer = await self._service.send_events(make_call(call, raw=raw))
            accepted += answer.accepted
            problems += [each.problem.detail for each in answer.events if each.problem]
        if problems and not accepted:
            raise refuse("no-counterpart", "; ".join(problems))
        return _feedback_answer(accepted, "; ".join(problems) or "ok", begin)

    def _read(self, raw: bytes) -> _Feedback:
        """The events of a body, each as what it becomes."""
        read = _Feedback()
        raws = list(metarank_forms.read_events(raw))
        for place, each in enumerate(raws):
            try:
                self._add(read, decode(MetarankEvent, each))
            except EventError as error:
                where = f"events[{place}]" if len(raws) > 1 else ""
                raise RequestError(describe_field(error, where)) from error
        return read

    def _add(self, read: _Feedback, said: MetarankEvent) -> None:
        if said.event == "interaction":
            read.events.append(metarank_forms.make_event(said, self._aliases))
        elif said.event == "item":
            read.items.append(said)
        elif said.event == "user":
            read.people.append(said)
        elif said.event in _WHY:
            read.without[said.event] += 1
        else:
            known = "expected one of item, user, interaction, ranking"
            raise EventError("event", said.event, known)

    async def _put_items(self, call: ApiCall, said: Iterable[MetarankEvent]) -> int:
        """Put items into the catalogue; how many events said something of them."""
        made, number = dict[str, Item | None](), 0
        for event in said:
            if event.item not in made:
                made[event.item] = await self._items.find(event.item)
            item = metarank_forms.make_item(event, made[event.item])
            made[event.item] = make_query(Item, **item)
            number += 1
        await self._items.put(call, [item for item in made.values() if item is not None])
        return number

    async def _put_people(self, call: ApiCall, said: Iterable[MetarankEvent]) -> int:
        """Send what is said of people; how many events said something."""
        made, number = dict[str, Mapping[str, Any]](), 0
        for event in said:
            person = event.user or ""
            if person not in made:
                made[person] = await self._people.find(person) if person else {}
            made[person] = metarank_forms.make_attributes(event, made[person])
            number += 1
        await self._people.put(call, made)
        return number

    async def rank(self, call: ApiCall) -> dict[str, Any]:
        """A list in order. What the version does not know stands last, with the lowest score."""
        begin = perf_counter()
        asked = decode(RankRequest, call.raw)
        person = asked.user or asked.session
        names = [entry.id for entry in asked.items]
        explain = call.query.explain
        query = make_query(contract.RankQuery, items=names, person=person, explain=explain)
        answer = await self._service.rank_items(make_call(call, body=query))
        lowest = min((one.score for one in answer.items if one.score is not None), default=0.0)
        items = [
            {"item": one.item_id, "score": lowest if one.score is None else one.score}
            | ({"features": _explain(one)} if explain else {})
            for one in answer.items
        ]
        return {"took": _took_ms(begin), "items": items} | _tell_unused(asked)

    async def recommend(self, call: ApiCall) -> dict[str, Any]:
        """What goes with items, is best for a person, or trends."""
        begin = perf_counter()
        asked = decode(RecommendRequest, call.raw)
        items = await self._find(call, asked)
        scored = [{"item": item.item_id, "score": item.score} for item in items]
        return {"took": _took_ms(begin), "items": scored}

    async def _find(self, call: ApiCall, asked: RecommendRequest) -> Sequence[RecommendedItem]:
        if asked.user:
            query = make_query(
                contract.RecommendationQuery,
                person=asked.user,
                limit=asked.count,
                exclude=asked.items,
            )
            # A person is on the page of these items: the answer knows it, and nothing is kept.
            kind = next(iter(EVENT_TYPES))
            seen = [msgspec.Raw(encode({"type": kind, "item_id": name})) for name in asked.items]
            query = replace_fields(query, events=seen)
            return (await self._service.recommend(make_call(call, body=query))).items
        if asked.items:
            alike = make_query(contract.SimilarQuery, items=asked.items, limit=asked.count)
            return (await self._service.find_similar(make_call(call, body=alike))).items
        popular = make_query(contract.PopularQuery, limit=asked.count)
        return (await self._service.list_popular(make_call(call, query=popular))).items

    async def flush(self, _: ApiCall) -> dict[str, Any]:
        """Nothing waits here for a session to end: an event counts at once."""
        return _feedback_answer(0, "ok", perf_counter())


_WHY = metarank_forms.NO_COUNTERPART


def _feedback_answer(accepted: int, status: str, begin_s: float) -> dict[str, Any]:
    return {
        "accepted": accepted,
        "status": status,
        "tookMillis": _took_ms(begin_s),
        "updated": 0,
    }


def _explain(item: contract.RankedItem) -> list[dict[str, Any]]:
    """What led to an item, and the parts of its score, which are no features of Metarank's."""
    if item.reason is None:
        return []
    told = {"reason": item.reason.kind, "because_of": item.reason.item_id, **item.parts}
    return [{"name": name, "value": value} for name, value in told.items() if value is not None]


def _tell_unused(asked: RankRequest) -> dict[str, Any]:
    """The fields of a request that say nothing here."""
    names = {f"fields.{each.name}" for each in asked.fields}
    names |= {f"items.fields.{each.name}" for entry in asked.items for each in entry.fields}
    return {"not_used": sorted(names)} if names else {}


def _took_ms(begin_s: float) -> int:
    return round(1000 * (perf_counter() - begin_s))
