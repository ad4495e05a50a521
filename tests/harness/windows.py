"""Rows of windows, assembler without Kafka."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from headwater_client.event_types import CLICK, EVENT_TYPES
from headwater_client.events import Item

from features.schema import FeatureSchema
from trainer.examples import Example, Replayer, observe_log
from trainer.windows.assembler import (
    AssemblyState,
    ClosedWindow,
    Deduplicator,
    Source,
    WindowAssembler,
)
from trainer.windows.events import WindowEvent
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore, read_log

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
MINUTE_MS = 60_000
NOW_MS = START_MS + 10**10
SETTINGS = WindowSettings(duration_s=3600, allowed_lateness_s=600, idle_s=60)
ONE_SOURCE = {(CLICK.topic, 0): "id"}


def row(
    offset: int, minute: float, partition: int = 0, topic: str = CLICK.topic, **known: Any
) -> WindowEvent:
    """An event of so many minutes after the full hour."""
    kind = EVENT_TYPES.spec_of_topic(topic).struct
    fields = {"event_id": f"{topic}/{partition}/{offset}", "user_id": "ann", "item_id": "lamp"}
    time_ms = START_MS + int(minute * MINUTE_MS)
    return WindowEvent(topic, partition, offset, kind(timestamp=time_ms, **(fields | known)))


def assemble(
    progress: AssemblyState | None = None,
    settings: WindowSettings = SETTINGS,
    sources: Mapping[Source, str] = ONE_SOURCE,
    now_s: float = 0.0,
) -> WindowAssembler:
    repeats = Deduplicator(settings.dedup_window)
    return WindowAssembler(sources, settings, progress or AssemblyState(), repeats, now_s)


def closed_window(*minutes: float, first_offset: int = 0) -> ClosedWindow:
    """A window of events at these minutes, closed because nothing moved."""
    assembler = assemble(AssemblyState())
    for at, minute in enumerate(minutes):
        assembler.add(row(first_offset + at, minute), NOW_MS)
    found = close_when_idle(assembler)
    assert found is not None
    return found


def close_when_idle(assembler: WindowAssembler) -> ClosedWindow | None:
    """What closes when no partition has more and event time stands still."""
    for source in assembler.trackers:
        assembler.reached_end(source)
    # The first look takes event time in, the second finds it standing still.
    return assembler.close(0.0) or assembler.close(SETTINGS.idle_s)


def write_window(store: WindowStore, number: int, *minutes: float) -> ClosedWindow:
    window = closed_window(*minutes)
    store.write(store.prepare(number, window))
    return window


def window_examples(
    store: WindowStore, numbers: Collection[int], items: Sequence[Item], schema: FeatureSchema
) -> Iterator[list[Example]]:
    """The training rows of each of some windows, as of each event's time, ascending.

    All earlier windows are replayed before. Who has done that keeps a `Replayer`, and gives it one
    window after another.

    Args:
        items: the catalogue; people's categories are counted by it.

    Raises:
        DataError: a window is missing or damaged.
    """
    replayer = Replayer(schema)
    last = max(numbers, default=0)
    earlier = (number for number in store.numbers() if number <= last)
    for number in sorted({*earlier, *numbers}):
        made = replayer.replay(observe_log(read_log(store, [number]).events, items))
        if number in numbers:
            yield made
