"""All that is known of a person, for who asks what that is."""

import asyncio
from typing import Any

from headwater_client import EVENT_TYPES, DeadLetter
from headwater_client.errors import DataError
from headwater_client.events import Interaction, Recommendation
from headwater_client.identities import IdentityMessage
from msgspec import Struct

from deploy.jobs.person_log import ALL, PersonLogReader
from deploy.settings import Settings
from features.columns import AttributeValue, DamagedRowError, decode_user
from features.events import EventReader, current_ms
from features.kafka import ensure_sources
from features.rows import UserRow
from features.schema import FeatureSchema
from features.shown import COLUMN, decode_shown
from features.store import SHOWN, USERS, RowRead
from features.store.redis import RedisRowStore
from stream.api.people import read_counters
from stream.identities import IdentityRecord
from stream.people import read_attributes


class ExportedEvent(Struct, frozen=True):
    """An event of the log; `taken_time` is when Kafka took it, of a window when it happened."""

    type: str
    taken_time: int
    event: Interaction


class ExportedIdentity(Struct, frozen=True):
    """What was said of who the person is."""

    taken_time: int
    message: IdentityMessage


class ExportedList(Struct, frozen=True):
    """A list that the person got, and on which topic."""

    topic: str
    taken_time: int
    list: Recommendation


class PersonExport(Struct, frozen=True):
    """All that is known of a person.

    Attributes:
        exported_time: in milliseconds since 1970, as all times.
        counters: by type of event and half-life in milliseconds, decayed to now.
        seen, categories, shown: how many items and categories the row holds; it has their hashes.
        attributes: what the app has said of the person.
        merged_into: the member whom this guest has become.
        events: in the order in which they came.
        letters: messages that broke the contract.
        missing: what could not be read, in words.
    """

    person: str
    exported_time: int
    counters: dict[str, dict[str, float]]
    seen: int
    categories: int
    shown: int
    attributes: dict[str, AttributeValue]
    merged_into: str
    events: list[ExportedEvent]
    identities: list[ExportedIdentity]
    lists: list[ExportedList]
    letters: list[DeadLetter]
    missing: list[str]


def export_person(settings: Settings, person: str) -> PersonExport:
    """Read all that is known of a person.

    Raises:
        EventError: the id is none that a person can have.
        ServerError: Kafka or the store does not answer.
        DataError: the person's row is damaged.
    """
    EventReader(settings.events).check_person(person)
    reader = PersonLogReader(settings, ensure_sources(settings.kafka), ALL)
    schema = FeatureSchema(settings.features)
    row, attributes, shown = asyncio.run(_read_rows(settings, schema, person))
    log, sent = reader.read_log(person), reader.read_lists(person, since_ms=0, most=None)
    into = row.merges.into if row.merges else None
    return PersonExport(
        person=person,
        exported_time=current_ms(),
        counters=read_counters(row, schema),
        seen=len(row.seen),
        categories=len(row.categories),
        shown=shown,
        attributes=attributes,
        merged_into=into.merge.member if into else "",
        events=[
            ExportedEvent(EVENT_TYPES.spec_of(each.event).name, each.arrived_ms, each.event)
            for each in log.records
            if not isinstance(each, IdentityRecord)
        ],
        identities=[
            ExportedIdentity(each.arrived_ms, each.message)
            for each in log.records
            if isinstance(each, IdentityRecord)
        ],
        lists=[ExportedList(each.topic, each.time_ms, each.told) for each in sent.lists],
        letters=reader.read_letters(person),
        missing=list(log.missing),
    )


async def _read_rows(
    settings: Settings, schema: FeatureSchema, person: str
) -> tuple[UserRow, dict[str, Any], int]:
    """The person's row, attributes, and how many items the person was shown lately."""
    store = RedisRowStore(settings.store, any_server=True)
    try:
        reads = [RowRead(USERS, person, USERS.columns), RowRead(SHOWN, person, (COLUMN,))]
        user, shown = await store.read(reads)
        attributes = await read_attributes(store, person)
        return decode_user(user, schema), dict(attributes), len(decode_shown(shown, 0))
    except DamagedRowError as error:
        raise DataError(
            f"the person's row is damaged: {error}: a worker begins it anew with the next event"
        ) from error
    finally:
        await store.close()
