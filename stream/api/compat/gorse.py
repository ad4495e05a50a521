"""Gorse's REST interface: its official clients work by another address.

Lists are those of `ApiService`; a page of Gorse (`n`, `offset`) is the end of a longer list.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from headwater_client import EventError, RecommendedItem, contract, decode, encode
from headwater_client.events import Item
from headwater_client.operations import Operation
from headwater_client.rules import MAX_LIMIT
from msgspec import Struct
from msgspec.structs import replace as replace_fields

from features.events import current_ms
from stream.api.compat import gorse_forms
from stream.api.compat.dialect import check_page, describe_in_words, make_call, make_query
from stream.api.compat.gorse_forms import (
    GorseFeedback,
    GorseItem,
    GorsePatch,
    GorseUser,
    GorseUserPatch,
)
from stream.api.compat.gorse_operations import LISTS, NO_COUNTERPART, OPERATIONS, GorsePage
from stream.api.compat.items import ItemEditor
from stream.api.compat.people import PersonEditor
from stream.api.compat.values import EventAliases, write_time
from stream.api.intake import name_list
from stream.api.parts import ApiCall, ApiParts
from stream.api.problems import RequestError, describe_field, refuse
from stream.api.service import ApiService
from stream.ranking import is_seen
from stream.row_updates import RowView

_ONE_ROW = {"RowAffected": 1}
_SCORES = "2"


class _FeedbackList(Struct):
    feedback: list[GorseFeedback]


class _GorseItems(Struct):
    items: list[GorseItem]


class _GorseUsers(Struct):
    users: list[GorseUser]


class GorseDialect:
    """Gorse's interface, below `/compat/gorse`.

    Args:
        service: what answers.
        parts: what it answers from.
        aliases: see `EventAliases`.

    Raises:
        SettingsError: an alias stands for no event.
    """

    name = "gorse"
    operations: Sequence[Operation] = (*OPERATIONS, *LISTS, *NO_COUNTERPART)
    without_counterpart: Sequence[Operation] = NO_COUNTERPART

    def __init__(self, service: ApiService, parts: ApiParts, aliases: Sequence[str]) -> None:
        self._service = service
        self._parts = parts
        self._aliases = EventAliases(aliases)
        self._items = ItemEditor(service, parts)
        self._people = PersonEditor(service, parts)

    def write_problem(self, problem: contract.Problem) -> tuple[bytes, str]:
        """One line of text: each of the clients shows it as its error's message."""
        return describe_in_words(problem, gorse_forms.NAMES).encode(), "text/plain"

    async def insert_feedback(self, call: ApiCall) -> dict[str, int]:
        """Feedback becomes events. The first that is refused is named, the others are taken.

        Raises:
            RequestError: some were refused. All may be sent again: each counts once.
            EventError: it is no feedback.
        """
        given = decode(_FeedbackList, name_list("feedback", call.raw)).feedback
        events, taken = self._make_events(given), 0
        for start in range(0, len(events), contract.MAX_EVENTS):
            raw = encode(events[start : start + contract.MAX_EVENTS])
            answer = await self._service.send_events(make_call(call, raw=raw))
            taken += answer.accepted
            if refused := [each.problem for each in answer.events if each.problem]:
                left = len(events) - taken
                more = f"{taken} were taken, {left} not: send all again, each counts once"
                raise RequestError(
                    replace_fields(refused[0], remedy=f"{refused[0].remedy}; {more}")
                )
        return {"RowAffected": taken}

    def _make_events(self, given: Iterable[GorseFeedback]) -> list[dict[str, Any]]:
        now_ms, events = current_ms(), list[dict[str, Any]]()
        for place, feedback in enumerate(given):
            try:
                events.append(gorse_forms.make_event(feedback, self._aliases, now_ms))
            except EventError as error:
                raise RequestError(describe_field(error, f"feedback[{place}]")) from error
        return events

    async def list_feedback(self, call: ApiCall) -> list[dict[str, Any]]:
        """A person's newest events: all, of a type, or with an item."""
        wanted = call.path.get("type")
        event = None if wanted is None else self._aliases.kept_as(wanted, "FeedbackType")
        if event == "":
            why = "of events against an item, or that take one back, no list is kept"
            raise refuse("no-counterpart", f"FeedbackType: {wanted}: {why}")
        try:
            known: contract.PersonAnswer = await self._service.describe_person(
                make_call(call, path={"person": call.path["user"]})
            )
        except RequestError as error:
            if error.problem.status == 404:
                return []
            raise
        item = call.path.get("item")
        return [
            {
                "FeedbackType": self._aliases.name_of(past.type),
                "UserId": known.person,
                "ItemId": past.item_id,
                "Timestamp": write_time(past.timestamp),
                "Comment": "",
            }
            for past in known.events
            if past.item_id and event in (None, past.type) and item in (None, past.item_id)
        ]

    async def get_feedback(self, call: ApiCall) -> dict[str, Any]:
        """A person's newest event of a type with an item.

        Raises:
            RequestError: there is none.
        """
        found = await self.list_feedback(call)
        if not found:
            raise refuse("not-found", "no such feedback is among this person's newest events")
        return found[-1]

    async def insert_user(self, call: ApiCall) -> dict[str, int]:
        """What is said of a person becomes their attributes, whole."""
        return await self._put_people(call, [decode(GorseUser, call.raw)])

    async def insert_users(self, call: ApiCall) -> dict[str, int]:
        """As `insert_user`, of many."""
        return await self._put_people(call, decode(_GorseUsers, name_list("users", call.raw)).users)

    async def _put_people(self, call: ApiCall, users: Sequence[GorseUser]) -> dict[str, int]:
        said = {user.user_id: gorse_forms.make_attributes(user) for user in users}
        await self._people.put(call, said)
        return {"RowAffected": len(users)}

    async def update_user(self, call: ApiCall) -> dict[str, int]:
        """What is said of a person replaces that alone."""
        said, person = decode(GorseUserPatch, call.raw), call.path["user"]
        known = await self._people.find(person)
        await self._people.put(call, {person: gorse_forms.make_attributes(said, known)})
        return _ONE_ROW

    async def get_user(self, call: ApiCall) -> dict[str, Any]:
        """A person of whom something is said, or who has done something.

        Raises:
            RequestError: nothing is known of them.
        """
        person = call.path["user"]
        if not self._people.has_sent(person):
            await self._service.describe_person(make_call(call, path={"person": person}))
        return gorse_forms.describe_user(person, await self._people.find(person))

    async def delete_user(self, call: ApiCall) -> dict[str, int]:
        """A person is forgotten, with their feedback.

        Raises:
            RequestError: Kafka does not take the message.
        """
        await self._people.remove(call, call.path["user"])
        return _ONE_ROW

    async def insert_item(self, call: ApiCall) -> dict[str, int]:
        """An item becomes one of the catalogue, whole."""
        return await self._put(call, [decode(GorseItem, call.raw)])

    async def insert_items(self, call: ApiCall) -> dict[str, int]:
        """As `insert_item`, of many."""
        return await self._put(call, decode(_GorseItems, name_list("items", call.raw)).items)

    async def _put(self, call: ApiCall, items: Sequence[GorseItem]) -> dict[str, int]:
        made = [gorse_forms.make_item(item.item_id, item) for item in items]
        return await self._send_items(call, made)

    async def _send_items(self, call: ApiCall, made: Sequence[dict[str, Any]]) -> dict[str, int]:
        items = list[Item]()
        for place, each in enumerate(made):
            try:
                items.append(make_query(Item, **each))
            except EventError as error:
                where = f"items[{place}]" if len(made) > 1 else ""
                raise RequestError(describe_field(error, where)) from error
        await self._items.put(call, items)
        return {"RowAffected": len(items)}

    async def get_item(self, call: ApiCall) -> dict[str, Any]:
        """All that is said of an item."""
        return gorse_forms.describe_item(await self._find(call))

    async def _find(self, call: ApiCall) -> Item:
        """The item of a path.

        Raises:
            RequestError: there is none.
        """
        item = await self._items.find(call.path["item"])
        if item is None:
            why = "the store has no such item; one that was sent a moment ago is on its way"
            raise refuse("not-found", f"item {call.path['item'][:80]}: {why}")
        return item

    async def update_item(self, call: ApiCall) -> dict[str, int]:
        """What is said of an item replaces that alone."""
        said = decode(GorsePatch, call.raw)
        item = await self._find(call)
        return await self._send_items(call, [gorse_forms.make_item(item.item_id, said, item)])

    async def add_category(self, call: ApiCall) -> dict[str, int]:
        """An item gets one more category."""
        item = await self._find(call)
        categories = list(dict.fromkeys([*item.category, call.path["category"]]))
        return await self._categorise(call, item, categories)

    async def remove_category(self, call: ApiCall) -> dict[str, int]:
        """An item loses a category."""
        item = await self._find(call)
        left = [name for name in item.category if name != call.path["category"]]
        return await self._categorise(call, item, left)

    async def _categorise(self, call: ApiCall, item: Item, names: list[str]) -> dict[str, int]:
        said = GorsePatch(categories=names)
        return await self._send_items(call, [gorse_forms.make_item(item.item_id, said, item)])

    async def delete_item(self, call: ApiCall) -> dict[str, int]:
        """An item leaves the catalogue. Its events stay.

        Raises:
            RequestError: Kafka does not take the message.
        """
        item = make_query(Item, item_id=call.path["item"])
        await self._items.remove(call, item.item_id)
        return _ONE_ROW

    async def recommend(self, call: ApiCall) -> list[Any]:
        """What a person is recommended: names, or with scores, as the client's version asks."""
        page: GorsePage = call.query
        if page.write_back_type:
            raise refuse(
                "no-counterpart",
                "write-back-type: an event says what a person did, and a list that was sent is "
                "nothing that they did",
                "leave it out",
            )
        query = make_query(
            contract.RecommendationQuery,
            person=call.path["user"],
            limit=_count_wanted(page),
            filter=_filter(call),
        )
        found = (await self._service.recommend(make_call(call, body=query))).items
        scores = _scores(found, page)
        is_scored = call.headers.get("x-api-version") == _SCORES
        return scores if is_scored else [each["Id"] for each in scores]

    async def recommend_session(self, call: ApiCall) -> list[Any]:
        """What goes with what a guest has just done; nothing is kept of them."""
        given = decode(_FeedbackList, name_list("feedback", call.raw)).feedback
        events = sorted(self._make_events(given), key=lambda event: event["timestamp"])
        page: GorsePage = call.query
        query = make_query(
            contract.RecommendationQuery,
            limit=_count_wanted(page),
            exclude=list({event["item_id"] for event in events}),
            filter=_filter(call),
        )
        newest = [msgspec.Raw(encode(event)) for event in events[-MAX_LIMIT:]]
        query = replace_fields(query, events=newest)
        answer = await self._service.recommend(make_call(call, body=query))
        return _scores(answer.items, page)

    async def find_neighbors(self, call: ApiCall) -> list[Any]:
        """What goes with an item."""
        page: GorsePage = call.query
        query = make_query(
            contract.SimilarQuery,
            items=[call.path["item"]],
            limit=_count_wanted(page),
            filter=_filter(call),
        )
        answer = await self._service.find_similar(make_call(call, body=query))
        return _scores(answer.items, page)

    async def list_popular(self, call: ApiCall) -> list[Any]:
        """What trends; without what a person has seen, where one is named."""
        page: GorsePage = call.query
        wanted = _count_wanted(page)
        if page.user_id:
            wanted = MAX_LIMIT
        query = make_query(contract.PopularQuery, limit=wanted, filter=_filter(call))
        found = (await self._service.list_popular(make_call(call, query=query))).items
        if page.user_id:
            (row,) = await self._parts.rows.read([RowView(page.user_id)])
            found = [item for item in found if not is_seen(row, item.item_id)]
        return _scores(found, page)


def _count_wanted(page: GorsePage) -> int:
    return check_page(page.offset, page.n, MAX_LIMIT)


def _filter(call: ApiCall) -> str | None:
    """That an item is in all categories that a request names, in its path or its query."""
    named = call.query.category
    names = [call.path.get("category", ""), *([named] if isinstance(named, str) else named)]
    # A text of JSON is one of CEL.
    texts = [encode(name).decode() for name in dict.fromkeys(names) if name]
    return " && ".join(f"{text} in item.category" for text in texts) or None


def _scores(items: Sequence[RecommendedItem], page: GorsePage) -> list[dict[str, Any]]:
    part = items[page.offset : page.offset + page.n]
    return [{"Id": item.item_id, "Score": item.score} for item in part]
