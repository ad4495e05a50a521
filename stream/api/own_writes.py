"""Read your writes: events that a request brings, and offsets that it waits for."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from headwater_client import EVENT_TYPES, EventError, HeadwaterError, Interaction, contract
from headwater_client.contract import Scope

from features.rows import UserRow
from features.topics import Hash, partition_of
from stream.api.intake import GUEST, Delivered, event_message
from stream.api.keys import check_scope
from stream.api.parts import ApiCall, ApiParts
from stream.api.problems import RequestError, describe_field
from stream.row_updates import RowView

_LOOK_S = 0.02
_ACKNOWLEDGE = "Kafka has not acknowledged it in time: send it again with the same event_id"


class OwnWrites:
    """What an answer has to know of what its caller has just written."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._partitions = 1 + max(partition for _, partition in parts.sources)
        # Records that nobody waits for any more; asyncio alone would forget them.
        self._recording: set[asyncio.Task[list[Delivered]]] = set()

    def _own_sources(self, person: str) -> dict[str, Hash]:
        """The sources that a person's events come from, by topic and partition."""
        own = partition_of(person, self._partitions)
        topics = EVENT_TYPES.topics
        return {f"{topic}/{own}": self._parts.sources[topic, own] for topic in topics}

    def read_offsets(self, query: contract.RecommendationQuery) -> dict[Hash, int]:
        """What is waited for, by source.

        Raises:
            EventError: a guest has no row; or a person's events are elsewhere.
        """
        if not query.min_offset:
            return {}
        if query.person is None:
            raise EventError("person", "<missing>", "is required with min_offset: of whose row?")
        own = self._own_sources(query.person)
        # Events that say that a list was seen change no row: there is nothing to wait for.
        of_lists = {
            f"{spec.topic}/{partition_of(query.person, self._partitions)}"
            for spec in EVENT_TYPES.values()
            if spec.about_list
        }
        for name in query.min_offset.keys() - of_lists:
            if name not in own:
                expected = f"expected one of {', '.join(own)}, where this person's events are"
                raise EventError("min_offset", name, expected)
        return {own[name]: offset for name, offset in query.min_offset.items() if name in own}

    async def wait_until_absorbed(self, person: str, wanted: Mapping[Hash, int]) -> None:
        """Wait until the stored row has absorbed so much, or the deadline is over."""
        with suppress(TimeoutError, HeadwaterError):
            async with asyncio.timeout(self._parts.deadline_s):
                while True:
                    (row,) = await self._parts.rows.read([RowView(person)])
                    if all(row.offsets.get(source, -1) >= at for source, at in wanted.items()):
                        return
                    await asyncio.sleep(_LOOK_S)

    def take_events(
        self,
        call: ApiCall,
        query: contract.RecommendationQuery | contract.RankQuery | contract.TogetherQuery,
    ) -> tuple[list[Interaction], Coroutine[Any, Any, str] | None]:
        """The events of a request, and what sends them where they are to be recorded.

        Raises:
            EventError: an event breaks the contract, or nobody's events are to be recorded.
            RequestError: the key may not send events.
        """
        person = query.person
        events = []
        for place, raw in enumerate(query.events):
            try:
                ago_ms = len(query.events) - 1 - place
                events.append(self._parts.intake.read(bytes(raw), person or GUEST, ago_ms))
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

    def find_offsets(self, person: str | None, row: UserRow) -> dict[str, int]:
        """How much of the log a person's row had absorbed, of the person's partitions."""
        if person is None or not row.offsets:
            return {}
        own = self._own_sources(person).items()
        return {name: row.offsets[source] for name, source in own if source in row.offsets}
