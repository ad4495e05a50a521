"""Forgets a person, and says of each place what is there, not what was asked for."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple
from uuid import uuid4

import pyarrow as pa
from headwater_client import ServerError, encode
from headwater_client.contract import ErasureAnswer, ErasurePlace, ErasureState
from headwater_client.errors import DataError
from headwater_client.identities import decode_identity
from headwater_client.topics import PEOPLE
from msgspec.structs import replace

from deploy.local.store import history_path
from deploy.settings import Settings
from features.columns import DamagedRowError, decode_user
from features.events import EventReader, current_ms
from features.kafka import ensure_topics, read_retention
from features.schema import FeatureSchema
from features.store import USERS, RowRead
from features.store.redis import RedisRowStore
from stream.api.intake import EventPublisher, TopicMessage, identity_message
from stream.erasure_receipt import HISTORY, ROW, TOPICS, WINDOWS, list_places
from trainer.examples.feast_history import forget_in_history
from trainer.windows.store import WindowStore

LOOK_S = 0.25
SEND_S = 15.0


class PersonErasure(NamedTuple):
    """What became of an erasure.

    Attributes:
        receipt: as the API answers it.
        waiting: by place, why it was not seen to be empty.
    """

    receipt: ErasureAnswer
    waiting: dict[str, str]


def forget_person(settings: Settings, person: str, within_s: float) -> PersonErasure:
    """Say to Kafka that a person is to be forgotten, and look whether they were.

    Args:
        within_s: how long workers and the trainer are waited for.

    Raises:
        EventError: the id is none that a person can have.
        ServerError: Kafka or the store does not answer; it may be said again.
        DataError: this machine's history for Feast cannot be written.
    """
    said = {"type": "erasure", "erasure_id": uuid4().hex, "user_id": person}
    erasure = decode_identity(encode(said))
    EventReader(settings.events).check_person(person)
    ensure_topics(settings.kafka)
    retention = read_retention(settings.kafka, TOPICS)
    newest = max(WindowStore(settings.windows_address).numbers(), default=0)
    messages = [identity_message(erasure), TopicMessage(PEOPLE, person, None)]
    offsets = asyncio.run(_send(settings, messages))
    _forget_history(settings, person)
    waiting = _wait(settings, person, said["erasure_id"], newest, within_s)
    receipt = ErasureAnswer(
        person=person,
        erasure_id=said["erasure_id"],
        offsets=offsets,
        places=[_look_at_history(each) for each in list_places(current_ms(), retention)],
    )
    return PersonErasure(receipt, waiting)


async def _send(settings: Settings, messages: Sequence[TopicMessage]) -> dict[str, int]:
    """Send messages; where they stand."""
    with closing(EventPublisher(settings.kafka, SEND_S)) as publisher:
        delivered = await publisher.publish(messages)
    for message, one in zip(messages, delivered, strict=True):
        if one.problem:
            raise ServerError(f"Kafka: topic {message.topic}: {one.problem}: say it again")
    return {
        f"{message.topic}/{one.partition}": one.offset
        for message, one in zip(messages, delivered, strict=True)
    }


def _forget_history(settings: Settings, person: str) -> None:
    path = history_path(settings)
    try:
        forget_in_history(person, path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: the person cannot be taken out of it: {error}: delete it, or make it anew: "
            "headwater backfill history"
        ) from error


def _look_at_history(place: ErasurePlace) -> ErasurePlace:
    if place.place != HISTORY:
        return place
    return replace(place, state=ErasureState.REMOVED, about="the one on this machine, if any")


def _wait(
    settings: Settings, person: str, erasure_id: str, newest: int, within_s: float
) -> dict[str, str]:
    """By place, why it was not seen to be empty, once all are or the time is over."""
    looks: dict[str, Callable[[], str]] = {
        ROW: lambda: asyncio.run(_find_row(settings, person, erasure_id)),
        WINDOWS: lambda: _find_windows(WindowStore(settings.windows_address), person, newest),
    }
    until_s = time.monotonic() + within_s
    while True:
        found = {place: why for place, look in looks.items() if (why := look())}
        if not found or time.monotonic() >= until_s:
            return found
        # What is empty once stays so: looking through windows takes longer than one row.
        looks = {place: look for place, look in looks.items() if place in found}
        time.sleep(LOOK_S)


async def _find_row(settings: Settings, person: str, erasure_id: str) -> str:
    """Why a row was not seen to be emptied; empty if it was."""
    store = RedisRowStore(settings.store, any_server=True)
    try:
        (stored,) = await store.read([RowRead(USERS, person, USERS.columns)])
        row = decode_user(stored, FeatureSchema(settings.features))
    except DamagedRowError as error:
        return f"cannot be read: {error}: a worker begins it anew"
    finally:
        await store.close()
    erased = row.merges.erased if row.merges else None
    if erased and erased.erasure_id == erasure_id:
        return ""
    return "no worker has read it yet: see whether one runs: headwater status"


def _find_windows(store: WindowStore, person: str, newest: int) -> str:
    """Why windows were not seen to be without a person; empty if they were."""
    held: list[int] = []
    for number in store.numbers():
        if number > newest:
            break
        try:
            window = store.read(number, person)
        except DataError as error:
            return f"one cannot be searched: {error}"
        merges = window.manifest.merges
        if window.rows or person in merges or person in merges.values():
            held.append(number)
    if not held:
        return ""
    return (
        f"{len(held)} of them have the person still: a trainer, or `headwater windows write`, has "
        "to run; what it has to do is in Kafka"
    )
