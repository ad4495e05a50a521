"""What is known of a person, and what an app says of one."""

import asyncio

import numpy as np
from headwater_client import EVENT_TYPES, contract, decode, encode
from headwater_client.events import PersonAttributes

from features import decay
from features.events import current_ms
from features.rows import UserRow
from features.schema import FeatureSchema
from stream.api.intake import attributes_message
from stream.api.parts import ApiCall, Operations
from stream.api.problems import refuse
from stream.api.undelivered import refuse_undelivered
from stream.row_updates import RowView

_UNKNOWN = "send an event of theirs; what was sent a moment ago is on its way: ask again"


class PeopleOperations(Operations):
    """Tell what is known of people, and take what apps know of them."""

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
        if not (row.events or row.seen or row.dedup_ids or attributes):
            raise refuse("not-found", "nothing is known of this person", _UNKNOWN)
        return contract.PersonAnswer(
            person=person,
            counters=read_counters(row, self._parts.schema),
            events=self._past_events(row),
            seen=len(row.seen),
            categories=len(row.categories),
            offsets={
                f"{topic}/{number}": row.offsets[source]
                for (topic, number), source in self._parts.sources.items()
                if source in row.offsets
            },
            attributes=attributes,
            merged_into=row.merges.into.merge.member if row.merges and row.merges.into else "",
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
            raise refuse_undelivered(delivered, message)
        return contract.AttributesAnswer(
            place={f"{message.topic}/{delivered.partition}": delivered.offset}
        )

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


def read_counters(row: UserRow, schema: FeatureSchema) -> dict[str, dict[str, float]]:
    """A row's counters as of now, by type of event and half-life."""
    lives = schema.user_half_lives
    values = decay.read(row.counters, row.reference_ms, current_ms(), lives)
    names = [*map(str, schema.settings.user_half_lives_ms), "all"]
    return {
        kind: dict(zip(names, values[at * len(lives) : (at + 1) * len(lives)], strict=True))
        for at, kind in enumerate(schema.event_types)
    }
