"""The agents: what happens to clicks, purchases and items. They hold no state and no tables."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import faust
from faust.types import EventT, StreamT

from features.topics import ACTION_TOPICS, ITEMS
from stream.batches import batches
from stream.ending import end_process

Handle = Callable[[Sequence[EventT[bytes]]], Awaitable[None]]


def add_agents(app: faust.App, batch_size: int, people: Handle, shelves: Handle) -> None:
    """Register the agents: `people` handles clicks and purchases, `shelves` handles items."""

    @app.agent(_topic(app, *ACTION_TOPICS), name="people")
    async def on_actions(stream: StreamT[bytes]) -> None:
        await _or_end(app, stream, batch_size, people)

    @app.agent(_topic(app, ITEMS), name="shelves")
    async def on_items(stream: StreamT[bytes]) -> None:
        await _or_end(app, stream, batch_size, shelves)


def _topic(app: faust.App, *names: str) -> Any:
    # acks=False: stream/commits.py commits, and Faust must not.
    return app.topic(
        *names,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        acks=False,
    )


async def _or_end(app: faust.App, stream: StreamT[bytes], batch_size: int, handle: Handle) -> None:
    try:
        async for batch in batches(app, cast("faust.Stream[bytes]", stream), batch_size):
            await handle(batch)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001
        # Faust would restart the agent, past the batch that failed.
        end_process(error)
