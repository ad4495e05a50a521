"""Keeps what is refused: in the dead-letter topic, with the reason."""

from __future__ import annotations

import time

import structlog
from faust.types import EventT
from headwater_client.events import DeadLetter, EventError, encode

from features.topics import DEAD_LETTERS
from stream import metrics
from stream.delivery import Delivery

log = structlog.get_logger()


async def refuse(event: EventT[bytes], error: EventError, delivery: Delivery) -> None:
    """Keep what was refused in the dead-letter topic, with the reason."""
    message = event.message
    letter = DeadLetter(
        raw=message.value or b"",
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=str(error),
        refused_time=int(time.time() * 1000),
    )
    await delivery.send(DEAD_LETTERS, message.key, encode(letter))
    metrics.DEAD_LETTERS.labels(message.topic).inc()
    log.warning(
        "event_refused",
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        field=error.field,
    )
