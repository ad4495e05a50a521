"""Windows as a log of events, and those of them that no version learns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

import msgspec
from headwater_client.events import Item

from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.disk import replace_synced
from trainer.examples import Example, Replayer, observe_log
from trainer.windows.store import WindowManifest, WindowStore


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


FILE = "windows-left-out.json"


class QuarantinedWindows:
    """Their checksums, in a file of the model repository: the next trainer must not learn them."""

    def __init__(self, repository: Path) -> None:
        self._path = repository / FILE
        text = self._path.read_bytes() if self._path.exists() else b"[]"
        self._digests = msgspec.json.decode(text, type=set[str])

    def __contains__(self, window: WindowManifest) -> bool:
        return window.sha256 in self._digests

    def add(self, windows: Iterable[WindowManifest]) -> None:
        """Add some.

        Raises:
            OSError: the file cannot be written; it is as it was.
        """
        self._digests |= {window.sha256 for window in windows}
        replace_synced(self._path, msgspec.json.encode(sorted(self._digests)))
