"""Micro-batches: a batch is what arrived while the last one was in flight.

A quiet stream answers at once, a busy one fills its batches by itself: nothing waits for a timer.
Faust's own `take` waits, and acknowledges a batch even when the code that handles it raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from faust import App, Stream
from faust.types import ChannelT, EventT


async def batches(app: App, stream: Stream[Any], limit: int) -> AsyncIterator[list[EventT[Any]]]:
    """Yield the events that have arrived, at most `limit` at once, until the worker stops.

    They are taken from the queue that Faust fills: its way from there to an agent costs as much an
    event as all else that Faust does, and has one duty here, which is to leave out what was fetched
    before a rebalance and will be fetched again.
    """
    arrived = cast("ChannelT[Any]", stream.channel).queue
    while True:
        try:
            batch = [await arrived.get()]
        except StopAsyncIteration:
            # The worker was told to stop.
            return
        while len(batch) < limit and not arrived.empty():
            batch.append(arrived.get_nowait())
        current = [event for event in batch if _is_current(app, event)]
        if current:
            yield current
        else:
            await asyncio.sleep(0)


def _is_current(app: App, event: EventT[Any]) -> bool:
    """Whether the event was fetched since the last rebalance, and none is under way."""
    of_now: bool = event.message.generation_id == app.consumer_generation_id
    return of_now and app.flow_control.is_active()
