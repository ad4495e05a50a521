"""What apps send: events, and items of the catalogue. Kafka has it once it is acknowledged."""

from collections.abc import Callable, Sequence
from functools import partial

from headwater_client import EventError, Interaction, contract
from msgspec.structs import replace

from stream.api.cloud_events import is_cloud, read_cloud_event, split_cloud_events
from stream.api.intake import event_message, item_message, split_events
from stream.api.parts import ApiCall, Operations
from stream.api.problems import RETRY_S, RequestError, describe_field, make_problem, refuse


class SendingOperations(Operations):
    """Take events and items, and send them to Kafka."""

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


def _refuse_all(problems: Sequence[contract.Problem]) -> RequestError:
    """The error of a request of which nothing was taken."""
    first = problems[0]
    headers = {"Retry-After": str(RETRY_S)} if first.status >= 500 else {}
    if len(problems) == 1:
        return RequestError(first, headers)
    kind = first.type.rpartition("#")[2]
    whole = make_problem(kind, f"none of {len(problems)} events was taken")
    return RequestError(replace(whole, errors=list(problems)), headers)
