"""Micro-batches: a batch is what arrived while the last one was in flight.

A quiet stream answers at once, a busy one fills its batches by itself: nothing waits for a timer.
Faust's own `take` waits, and acknowledges a batch even when the code that handles it raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from faust import Stream
from faust.types import ChannelT, EventT

Arrivals = asyncio.Queue[EventT[Any] | None]


async def batches(stream: Stream[Any], limit: int) -> AsyncIterator[list[EventT[Any]]]:
    """Yield the events that have arrived, at most `limit` at once, until the stream ends.

    The next batch gathers while the caller handles this one; no more than `limit` events wait.
    """
    arrivals: Arrivals = asyncio.Queue(limit)
    gathering = asyncio.create_task(_gather(stream, arrivals))
    try:
        while batch := await _arrived(
            arrivals, limit, cast("ChannelT[Any]", stream.channel).queue.empty
        ):
            yield batch
        await gathering
    finally:
        gathering.cancel()


async def _arrived(
    arrivals: Arrivals, limit: int, all_gathered: Callable[[], bool]
) -> list[EventT[Any]]:
    """Wait for one event and take what has come with it; nothing where the stream has ended.

    Args:
        all_gathered: whether Faust has handed over all that it has fetched.
    """
    batch: list[EventT[Any]] = []
    while len(batch) < limit and (not batch or not arrivals.empty() or not all_gathered()):
        event = await arrivals.get()
        if event is None:
            # Kept for the next call: first what came before the end.
            arrivals.put_nowait(None)
            break
        batch.append(event)
    return batch


async def _gather(stream: Stream[Any], arrivals: Arrivals) -> None:
    """Queue the stream's events, then None, also when the stream fails."""
    try:
        async for event in stream.noack().events():
            await arrivals.put(event)
    finally:
        await arrivals.put(None)
