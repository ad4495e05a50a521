"""What an app knows of people: messages about a person become that person's attributes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headwater_client import EventError, ServerError, decode
from headwater_client.events import MAX_ID, PersonAttributes

from features import columns
from features.columns import AttributeValue, DamagedRowError, Stored
from features.store import ATTRIBUTES, VERSION, RowRead, RowStore, RowWrite, set_aside
from features.topics import Hash


class AttributesUpdate(NamedTuple):
    """A message about a person (nothing after a tombstone), and its source, offset and time."""

    attributes: Mapping[str, AttributeValue]
    source: Hash
    offset: int
    time_ms: int


def parse_attributes(
    key: bytes | None, value: bytes | None
) -> tuple[str, Mapping[str, AttributeValue]]:
    """(user_id, attributes) of a message; none for a tombstone.

    Raises:
        EventError: it breaks the contract, or its key names another person than its value.
    """
    name = (key or b"").decode(errors="replace")
    if value is None:
        if not 0 < len(name) <= MAX_ID:
            raise EventError("<key>", name, "a tombstone needs a user_id as its key")
        return name, {}
    person = decode(PersonAttributes, value)
    if name != person.user_id:
        raise EventError("<key>", name or "<empty>", f"expected the user_id, {person.user_id!r}")
    return name, person.attributes


async def write_attributes(store: RowStore, updates: Mapping[str, AttributesUpdate]) -> None:
    """Write the newest update of each person, by user_id, where the store has nothing newer.

    Raises:
        ServerError: the store does not answer, or another process wrote one of the rows.
    """
    reads = [RowRead(ATTRIBUTES, name, (VERSION,)) for name in updates]
    writes = []
    for read, update, row in zip(reads, updates.values(), await store.read(reads), strict=True):
        try:
            source, offset = columns.decode_pair(row[VERSION])
        except DamagedRowError as error:
            await set_aside(store, read, row, error)
            source, offset = 0, -1
        if source == update.source and offset >= update.offset:
            continue
        told = columns.encode_attributes(update.attributes, (update.source, update.offset))
        writes.append(
            RowWrite(ATTRIBUTES, read.entity_id, told, update.time_ms, VERSION, row[VERSION])
        )
    if not all(await store.write(writes)):
        raise ServerError("a person's attributes were written by another worker: reading again")


async def read_attributes(store: RowStore, user_id: str) -> Mapping[str, AttributeValue]:
    """What an app knows of a person; nothing where it is damaged, until it is sent anew.

    Raises:
        ServerError: the store does not answer.
    """
    (found,) = await read_people(store, [user_id])
    return found


async def read_people(
    store: RowStore, user_ids: Sequence[str]
) -> list[Mapping[str, AttributeValue]]:
    """What an app knows of each of some people; as `read_attributes`."""
    reads = [RowRead(ATTRIBUTES, name, ATTRIBUTES.columns) for name in user_ids]
    return [_decode(stored) for stored in await store.read(reads)]


def _decode(stored: Stored) -> Mapping[str, AttributeValue]:
    try:
        return columns.decode_attributes(stored)
    except DamagedRowError:
        return {}
