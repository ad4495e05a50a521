"""What apps send: events, and items of the catalogue. Kafka has it once it is acknowledged."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from headwater_client import EventError, Interaction, Item, contract, decode, encode
from msgspec.structs import replace

from stream.api.cloud_events import is_cloud, read_cloud_event, split_cloud_events
from stream.api.intake import event_message, item_message, removal_message, split_events
from stream.api.parts import ApiCall, Operations
from stream.api.problems import RETRY_S, RequestError, describe_field, make_problem, refuse
from stream.api.undelivered import describe_undelivered, refuse_undelivered

_SAME_ID = "send it again, with its event_id"


class SendingOperations(Operations):
    """Take events and items, send them to Kafka, and tell what the catalogue has."""

    async def send_events(self, call: ApiCall) -> contract.EventsAnswer:
        """Send events to Kafka, each by itself.

        Raises:
            RequestError: none of them was taken.
            EventError: it is no JSON.
        """
        intake = self._parts.intake
        if is_cloud(call.headers):
            raws = split_cloud_events(call.headers, call.raw)
            read: Callable[..., Interaction] = partial(read_cloud_event, intake)
        else:
            raws, read = split_events(call.raw), intake.read
        outcomes, events = list[contract.EventAnswer](), dict[int, Interaction]()
        for place, raw in enumerate(raws):
            where = f"events[{place}]" if len(raws) > 1 else ""
            try:
                event = events[place] = read(raw, ago_ms=len(raws) - 1 - place)
                outcomes.append(contract.EventAnswer(accepted=True, event_id=event.event_id))
            except EventError as error:
                problem = describe_field(error, where)
                outcomes.append(contract.EventAnswer(accepted=False, problem=problem))
        messages = [event_message(event) for event in events.values()]
        delivered = await self._parts.publisher.publish(messages)
        for place, message, one in zip(events, messages, delivered, strict=True):
            if one.problem:
                where = f"events[{place}]" if len(raws) > 1 else ""
                problem = describe_undelivered(one, message, where, _SAME_ID)
                outcomes[place] = replace(outcomes[place], accepted=False, problem=problem)
            else:
                stands = {f"{message.topic}/{one.partition}": one.offset}
                outcomes[place] = replace(outcomes[place], place=stands)
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        if len(problems) == len(outcomes):
            raise _refuse_all(problems)
        accepted = len(outcomes) - len(problems)
        return contract.EventsAnswer(accepted=accepted, refused=len(problems), events=outcomes)

    async def put_items(self, call: ApiCall) -> contract.ItemsAnswer:
        """Send items to Kafka.

        Raises:
            RequestError: Kafka does not take one.
        """
        query: contract.ItemsQuery = call.body
        messages = [item_message(one) for one in query.items]
        delivered = await self._parts.publisher.publish(messages)
        problems = [
            describe_undelivered(one, message, f"items[{place}]")
            for place, (one, message) in enumerate(zip(delivered, messages, strict=True))
            if one.problem
        ]
        if problems:
            raise _refuse_items(problems, len(delivered))
        return contract.ItemsAnswer(accepted=len(delivered))

    async def get_item(self, call: ApiCall) -> Item:
        """What the store has of an item.

        Raises:
            RequestError: nothing.
            ServerError: the store does not answer.
        """
        name = call.path["item"]
        async with asyncio.timeout(self._parts.deadline_s):
            item = await self._parts.recommender.items.catalogue.find(name)
        if item is None:
            what = f"the catalogue has no item {name[:64]!r}"
            raise refuse("not-found", what, "what was sent a moment ago is on its way: ask again")
        return item

    async def delete_item(self, call: ApiCall) -> contract.ItemRemovalAnswer:
        """Tell Kafka that an item is no more.

        Raises:
            EventError: the id is none that an item can have.
            RequestError: Kafka does not take it.
        """
        item = decode(Item, encode({"item_id": call.path["item"]}))
        message = removal_message(item.item_id)
        (delivered,) = await self._parts.publisher.publish([message])
        if delivered.problem:
            raise refuse_undelivered(delivered, message)
        return contract.ItemRemovalAnswer(
            item_id=item.item_id,
            place={f"{message.topic}/{delivered.partition}": delivered.offset},
        )


def _refuse_items(problems: Sequence[contract.Problem], items: int) -> RequestError:
    """The error of a request of which some items were not taken; the caller's fault comes first."""
    worst = min(problems, key=lambda problem: problem.status)
    many = f"{len(problems)} of {items} items: {worst.detail}"
    headers = {"Retry-After": str(RETRY_S)} if worst.status >= 500 else {}
    return RequestError(replace(worst, detail=many), headers)


def _refuse_all(problems: Sequence[contract.Problem]) -> RequestError:
    """The error of a request of which nothing was taken."""
    first = problems[0]
    headers = {"Retry-After": str(RETRY_S)} if first.status >= 500 else {}
    if len(problems) == 1:
        return RequestError(first, headers)
    kind = first.type.rpartition("#")[2]
    whole = make_problem(kind, f"none of {len(problems)} events was taken")
    return RequestError(replace(whole, errors=list(problems)), headers)
