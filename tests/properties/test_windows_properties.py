"""Whatever the order, the repeats and the crashes: every message is settled, exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater_client.event_types import CLICK, PURCHASE
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.windows import NOW_MS, row
from trainer.windows.assembler import (
    AssemblyState,
    ClosedWindow,
    Deduplicator,
    Source,
    WindowAssembler,
)
from trainer.windows.events import WindowEvent
from trainer.windows.settings import WindowSettings

SOURCES: dict[Source, str] = {
    (CLICK.topic, 0): "a",
    (CLICK.topic, 1): "a",
    (PURCHASE.topic, 0): "b",
}

Message = tuple[Source, int | None, int]
"""Its source, its minute (None: it breaks the contract), and its event_id."""

messages = st.lists(
    st.tuples(
        st.sampled_from(list(SOURCES)),
        st.one_of(st.none(), st.integers(0, 300)),
        st.integers(0, 20),
    ),
    max_size=60,
)
# How many steps each writer does before it is killed; the last one is not.
lives = st.lists(st.integers(0, 40), max_size=8)
configured = st.builds(
    WindowSettings,
    duration_s=st.sampled_from([60, 600, 3600]),
    allowed_lateness_s=st.sampled_from([0, 300]),
    max_events=st.integers(1, 20),
    dedup_window=st.sampled_from([0, 5, 1000]),
)


@dataclass
class Writers:
    """A log, and the writers that gather it, one after another."""

    log: dict[Source, list[tuple[int | None, int]]]
    settings: WindowSettings
    windows: list[ClosedWindow] = field(default_factory=list)

    def live(self, steps: int, turn: list[int]) -> None:
        """One writer, killed after so many messages and windows."""
        assembler, places = self.start()
        sources = list(SOURCES)
        for step in range(steps):
            if closed := assembler.close(0.0):
                self.windows.append(closed)
                continue
            source = sources[turn[step % len(turn)] % len(sources)] if turn else sources[0]
            places[source] = self.read(assembler, source, places[source])

    def start(self) -> tuple[WindowAssembler, dict[Source, int]]:
        progress = self.windows[-1].progress if self.windows else AssemblyState()
        rows = [each for window in self.windows for each in window.rows]
        repeats = Deduplicator(self.settings.dedup_window, rows)
        assembler = WindowAssembler(SOURCES, self.settings, progress, repeats, 0.0)
        return assembler, assembler.resume()

    def read(self, assembler: WindowAssembler, source: Source, offset: int) -> int:
        if offset >= len(self.log[source]):
            assembler.reached_end(source)
            return offset
        minute, event_id = self.log[source][offset]
        if minute is None:
            assembler.refuse(source, offset)
        else:
            topic, partition = source
            assembler.add(row(offset, minute, partition, topic, event_id=f"e{event_id}"), NOW_MS)
        return offset + 1

    def finish(self) -> None:
        """A last writer that is not killed; the end is closed by idling."""
        assembler, places = self.start()
        for source in SOURCES:
            while places[source] < len(self.log[source]):
                places[source] = self.read(assembler, source, places[source])
                while closed := assembler.close(0.0):
                    self.windows.append(closed)
            assembler.reached_end(source)
        while closed := assembler.close(0.0):
            self.windows.append(closed)
        while closed := assembler.close(1e9):
            self.windows.append(closed)


def place(row: WindowEvent) -> tuple[Source, int]:
    return (row.topic, row.partition), row.offset


@settings(deadline=None)
@given(messages, configured, lives, st.lists(st.integers(0, 2), max_size=7))
def test_every_event_is_in_exactly_one_window(
    drawn: list[Message], settings: WindowSettings, lives: list[int], turn: list[int]
) -> None:
    writers = write_log(drawn, settings, lives, turn)
    rows = [each for window in writers.windows for each in window.rows]
    expected = [
        (source, offset)
        for source, held in writers.log.items()
        for offset, (minute, _) in enumerate(held)
        if minute is not None
    ]
    assert sorted(map(place, rows)) == sorted(expected)
    for window in writers.windows:
        assert window.rows == sorted(window.rows, key=lambda each: each.order)
        assert 1 <= len(window.rows) <= settings.max_events
    if settings.dedup_window >= len(rows):
        _check_repeats(rows)


@settings(deadline=None)
@given(messages, configured, lives, st.lists(st.integers(0, 2), max_size=7))
def test_what_comes_in_order_is_never_late(
    drawn: list[Message], settings: WindowSettings, lives: list[int], turn: list[int]
) -> None:
    """Whatever partition is read first, and wherever writers are killed."""
    in_order = sorted(drawn, key=lambda each: each[1] or 0)
    writers = write_log(in_order, settings, lives, turn)
    assert not any(each.late for window in writers.windows for each in window.rows)


def write_log(
    drawn: list[Message], settings: WindowSettings, lives: list[int], turn: list[int]
) -> Writers:
    log: dict[Source, list[tuple[int | None, int]]] = {source: [] for source in SOURCES}
    for source, minute, event_id in drawn:
        log[source].append((minute, event_id))
    writers = Writers(log, settings)
    for steps in lives:
        writers.live(steps, turn)
    writers.finish()
    return writers


def _check_repeats(rows: list[WindowEvent]) -> None:
    """Of each event_id of a type, all but one are marked."""
    known = {(each.topic, each.event.event_id) for each in rows}
    first = [(each.topic, each.event.event_id) for each in rows if not each.repeated]
    assert sorted(first) == sorted(known)
