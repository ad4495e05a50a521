"""Windows as a log of events, which training, evaluation and replays read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter

from headwater_client.events import Item

from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.examples import Example, Replayer, observe_log
from trainer.windows.store import WindowStore


def read_log(store: WindowStore, numbers: Iterable[int]) -> Log:
    """The events of some windows in event-time order, late ones in their place.

    What an app sent twice is in it once. It has no items: those are in the catalogue.

    Raises:
        DataError: a window is missing or damaged.
    """
    rows = [row for number in numbers for row in store.read(number).rows]
    events = [row.event for row in rows if not row.repeated]
    events.sort(key=attrgetter("timestamp"))
    return Log(events, items=())


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
